//! Answers that a route gives by itself: redirects and direct responses (Envoy). Istio refuses a host that nobody knows by one.
//!
//! A gRPC caller cannot follow a redirect or read a page: it is told UNAVAILABLE, as every gRPC client is by such routes (gRFC
//! A28).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use mesh_core::config::{Action, Route};
use mesh_core::route::{Edits, RequestHead, location};

use super::Decision;
use crate::body::ResponseBody;
use crate::error::{Error, Kind};
use crate::status::is_grpc;

pub(super) fn answer(action: &Action, route: &Route, edits: Option<&Arc<Edits>>, head: &RequestHead<'_>) -> Decision {
    let (status, body, header) = match action {
        Action::Redirect(redirect) => {
            let place = location(redirect, &route.matches, head);
            let Ok(place) = HeaderValue::try_from(place) else {
                let why = "what the route redirects it to cannot stand in a header";
                return Decision::Fail(Error::new(Kind::InvalidRequest(why)));
            };
            (redirect.status, Bytes::new(), Some((LOCATION, place)))
        }
        Action::Respond(response) => {
            let kind = (!response.body.is_empty()).then(|| (CONTENT_TYPE, HeaderValue::from_static("text/plain")));
            (response.status, response.body.clone(), kind)
        }
        // What is sent on, or fails, comes here only if somebody forgets that it does not: the call fails then.
        Action::Forward(_) | Action::Unserved(_) => (StatusCode::INTERNAL_SERVER_ERROR, Bytes::new(), None),
    };
    if is_grpc(head.headers) {
        return Decision::Fail(Error::new(Kind::Answered(status)));
    }
    let mut response = Response::new(ResponseBody::own(body));
    *response.status_mut() = status;
    response.headers_mut().extend(header);
    if let Some(edits) = edits {
        edits.apply_to_own(head, status, response.headers_mut());
    }
    Decision::Answer(Box::new(response))
}
