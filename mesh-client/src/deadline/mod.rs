//! The room that bounds the whole call: tries, pauses and the response body to its end.
//!
//! The limit is the lesser of the route's timeout and what the caller allows (`grpc-timeout`). One timer serves the call; it
//! moves into the response body with the answer, because a gRPC call is not over before its trailers.

mod future;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use mesh_core::Link;
use tower::{Layer, Service};

use crate::alarm::Alarms;
use crate::body::{Deadline, ResponseBody};
use crate::cluster::ClusterManager;
use crate::error::Error;
use crate::headers::{GRPC_TIMEOUT, find};
use crate::request::Routed;

pub use future::DeadlineFuture;

/// Makes [`DeadlineService`]s.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    alarms: Arc<Alarms>,
}

impl DeadlineLayer {
    /// Keeps time by `link`'s alarms.
    ///
    /// # Panics
    ///
    /// As [`RouteLayer::new`](crate::route::RouteLayer::new).
    pub fn new(link: &Link) -> Self {
        Self {
            alarms: Arc::clone(ClusterManager::of(link).alarms()),
        }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService {
            inner,
            alarms: Arc::clone(&self.alarms),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    alarms: Arc<Alarms>,
}

impl<S, B> Service<Request<Routed<B>>> for DeadlineService<S>
where
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Routed<B>>) -> Self::Future {
        let limit = match (request.body().route().timeout, of_caller(request.headers())) {
            (Some(route), Some(caller)) => Some(route.min(caller)),
            (route, caller) => route.or(caller),
        };
        let waited = request.body().waited();
        let deadline = limit.map(|limit| Deadline::after(&self.alarms, limit, waited));
        DeadlineFuture::new(self.inner.call(request), deadline)
    }
}

/// The time that the caller gives a gRPC call (`grpc-timeout`: up to 8 digits and a unit). What is not one gives none.
pub(crate) fn of_caller(headers: &HeaderMap) -> Option<Duration> {
    const MAX_DIGITS: usize = 8;
    let text = find(headers, &GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("123456789n", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1x", None),
            ("1é", None),
        ];
        for (text, expected) in cases {
            let headers = HeaderMap::from_iter([(
                http::header::HeaderName::from_static("grpc-timeout"),
                http::HeaderValue::from_bytes(text.as_bytes()).unwrap(),
            )]);
            assert_eq!(of_caller(&headers), expected, "{text:?}");
        }
    }
}
