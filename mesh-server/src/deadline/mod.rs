//! The room that honours the caller's time, and passes on what is left of it.
//!
//! A request says how long its caller will wait: `grpc-timeout`, or the `x-envoy-expected-rq-timeout-ms` of a mesh client or an
//! Envoy. Once that is over nobody reads the answer, so the handler is dropped and its work with it, and a request that comes too
//! late runs no handler at all: DEADLINE_EXCEEDED for gRPC, else 504.
//!
//! Around the handler and its answer's body stands what the calls made for this request inherit ([`mesh_core::inherit`]): the time
//! that is left, that it is a retry already, and what it says of its trace. What comes back that way is that such a call used up its retries; a failing
//! answer is then marked so that nobody further up repeats it, or three hops that each try three times would be 27 tries. The
//! marks are those that gRPC's clients and Envoy know.
//!
//! A request that says nothing about time costs one pass over its headers.

mod body;
mod future;

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use mesh_core::deadline::{EXPECTED, GRPC_TIMEOUT, parse_grpc_timeout, parse_millis};
use mesh_core::inherit::{Inherited, enter};
use mesh_core::trace::TraceHeaders;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::accept::PeerIdentity;

pub use body::BoundBody;
pub use future::ResponseFuture;

/// An error of whatever kind.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Which try of its caller a request is; the first is 1 (Envoy).
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// How many tries came before (gRFC A6).
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Ends requests when their callers' time is up. Part of [`MeshLayer`](crate::MeshLayer).
#[derive(Clone, Copy, Debug, Default)]
pub struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// See [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<BoundBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let head = Head::of(request.headers());
        // What is too far away to be told by the clock is no limit.
        let until = head.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if head.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return ResponseFuture::late(head.grpc);
        }
        let source = request
            .extensions()
            .get::<PeerIdentity>()
            .map(|peer| peer.address().ip());
        let inherited = Inherited::new(until.map(Instant::into_std))
            .as_retry(head.is_retry)
            .came_from(source)
            .in_trace(match head.traced {
                true => TraceHeaders::of(request.headers()),
                false => None,
            });
        let mut scope = Some(inherited);
        // A service may begin its work when it is called, and not when its future is polled.
        let call = enter(&mut scope, || self.inner.call(request));
        ResponseFuture::new(call, scope, until, head.grpc)
    }
}

/// What the room reads of a request's head.
#[derive(Debug, Default)]
struct Head {
    grpc: bool,
    is_retry: bool,
    timeout: Option<Duration>,
    /// It says something of its trace.
    traced: bool,
}

impl Head {
    fn of(headers: &HeaderMap) -> Self {
        let mut head = Self::default();
        for (name, value) in headers {
            if *name == CONTENT_TYPE {
                head.grpc = value.as_bytes().starts_with(b"application/grpc");
            } else if *name == GRPC_TIMEOUT {
                head.within(parse_grpc_timeout(value));
            } else if *name == EXPECTED {
                head.within(parse_millis(value));
            } else if *name == ATTEMPT_COUNT {
                head.is_retry |= number(value).is_some_and(|attempt| attempt > 1);
            } else if *name == PREVIOUS_ATTEMPTS {
                head.is_retry |= number(value).is_some_and(|previous| previous > 0);
            } else {
                head.traced |= TraceHeaders::has(name.as_str());
            }
        }
        head
    }

    fn within(&mut self, timeout: Option<Duration>) {
        self.timeout = self.timeout.into_iter().chain(timeout).min();
    }
}

fn number(value: &HeaderValue) -> Option<u32> {
    value.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
