//! What a try tells its peer about itself: how long it may take, and which try it is.
//!
//! The next hop, ours or somebody else's, is never given more time than there is: what is left of the call, and no more than one
//! try may take, in whole milliseconds rounded down (`grpc-timeout` for gRPC, and Envoy's header for everyone).

use std::cell::RefCell;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request};
use mesh_core::deadline::{EXPECTED, GRPC_TIMEOUT, whole_millis};
use tokio::time::Instant;

use crate::request::Attempt;

/// Which try it is; the first is 1 (Envoy).
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// Most calls never see another.
const FIRST: HeaderValue = HeaderValue::from_static("1");

#[inline]
pub(super) fn tell<B>(request: &mut Request<Attempt<B>>) {
    let attempt = request.body();
    let (number, time) = (attempt.number, &attempt.call.time);
    let limit = attempt.limit.map(|limit| limit.after);
    let left = match time.fresh {
        Some(fresh) if number == 1 => Some(fresh),
        _ if time.deadline.is_none() && time.activity.is_none() => None,
        _ => time.left(Instant::now()),
    };
    let announce = attempt.call.route.retry.announce_attempts;
    // What the caller said is as true as what would be said here.
    let in_grpc = time.grpc && !(time.told && number == 1 && limit.is_none());
    let expected = time.expected;
    if let Some(left) = left.into_iter().chain(limit).min()
        && (expected || in_grpc)
    {
        let (grpc, millis) = values(left);
        if expected {
            request.headers_mut().insert(EXPECTED, millis);
        }
        if in_grpc {
            request.headers_mut().insert(GRPC_TIMEOUT, grpc);
        }
    }
    if announce {
        let number = match number {
            1 => FIRST,
            number => HeaderValue::from(number),
        };
        request.headers_mut().insert(ATTEMPT_COUNT, number);
    }
}

/// The values for a time. First tries of a route all have the same, which is kept, so that it costs them no allocation.
fn values(left: Duration) -> (HeaderValue, HeaderValue) {
    thread_local! {
        static LAST: RefCell<Option<(Duration, HeaderValue, HeaderValue)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some((of, grpc, millis)) if *of == left => (grpc.clone(), millis.clone()),
        _ => {
            let (grpc, millis) = whole_millis(left);
            *last = Some((left, grpc.clone(), millis.clone()));
            (grpc, millis)
        }
    })
}
