//! What the end of an exchange says: of its answer, of its connection and of its host.

use http::Response;

use crate::body::{Frames, Live, Outcome, ResponseBody};
use crate::cluster::Host;
use crate::connect::StreamError;
use crate::error::Error;
use crate::reuse::Reused;

/// What the end of an HTTP/2 exchange says of the connection: that it serves, or that it ended without ever having served.
pub(super) fn learn<T>(result: &Result<Response<T>, h2::Error>, outcome: &Outcome) {
    let permit = outcome.permit().expect("held since it was sent");
    match result {
        Ok(_) if permit.prove() => outcome.host().pool().served(),
        Err(error) if (error.is_go_away() || error.is_io()) && permit.is_unserved() => {
            permit.retire();
            unserved(outcome.host());
        }
        _ => {}
    }
}

/// A connection was made and served nobody: the next pick looks elsewhere, and the next dial waits.
pub(super) fn unserved(host: &Host) {
    host.pool().unserved();
    host.mark_failing(true);
}

pub(super) fn answered<T>(
    result: Result<Response<T>, impl Into<StreamError>>,
    mut live: Reused<Live>,
    frames: impl FnOnce(T) -> Frames,
) -> Result<Response<ResponseBody>, Error> {
    match result {
        Ok(response) => {
            let (head, body) = response.into_parts();
            let body = ResponseBody::new(&head, frames(body), live);
            Ok(Response::from_parts(head, body))
        }
        Err(error) => {
            let outcome = live.outcome_mut();
            let error = Error::broken(error, outcome.peer());
            outcome.failed_with(&error);
            Err(error)
        }
    }
}
