//! The room that speaks the caller's protocol: a failed gRPC call is an answer, not an error.
//!
//! A gRPC client library turns an error of a type it does not know into UNKNOWN. So a gRPC request that fails gets what a
//! server would have sent: a trailers-only response with `grpc-status` and `grpc-message`, and the typed [`Error`] in its
//! extensions for who wants to ask it. Any other request gets `Err(Error)`, but for an injected fault: that is the answer it was
//! configured to be, with the same [`Error`] in its extensions.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use mesh_core::route;
use pin_project_lite::pin_project;
use tokio::task::coop::poll_proceed;
use tower::{Layer, Service};

use crate::body::{ResponseBody, code_of_http, trailers, without_status};
use crate::error::Error;
use crate::headers::find;

/// Makes [`StatusService`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusLayer;

impl<S> Layer<S> for StatusLayer {
    type Service = StatusService<S>;

    fn layer(&self, inner: S) -> StatusService<S> {
        StatusService { inner }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct StatusService<S> {
    inner: S,
}

/// A call's future that knows what is spoken, since somebody below looked at the request's head: it is looked at once.
pub trait Spoken {
    /// Whether it is a call of gRPC.
    fn is_grpc(&self) -> bool;
}

impl<S, B> Service<Request<B>> for StatusService<S>
where
    S: Service<Request<B>, Response = Response<ResponseBody>, Error = Error>,
    S::Future: Spoken,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = StatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        StatusFuture::new(self.inner.call(request))
    }
}

impl<S> StatusService<S> {
    /// The service below.
    pub(crate) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

pin_project! {
    /// Resolves as the inner future does, with gRPC failures as answers.
    #[derive(Debug)]
    pub struct StatusFuture<F> {
        #[pin]
        inner: F,
        // It was not polled yet.
        fresh: bool,
    }
}

impl<F> StatusFuture<F> {
    #[inline]
    pub(crate) fn new(inner: F) -> Self {
        Self { inner, fresh: true }
    }
}

/// A call that is over at its first poll, as one without a route or a host is, would otherwise never let the runtime go: who calls in a loop
/// then would keep its thread, and with it the stream that says where to call instead. One that waits was let go by what it waits for.
#[inline]
pub(crate) fn spend(fresh: &mut bool, cx: &mut Context<'_>) -> Poll<()> {
    if *fresh {
        ready!(poll_proceed(cx)).made_progress();
        *fresh = false;
    }
    Poll::Ready(())
}

/// Makes of what came what the caller speaks.
#[inline]
pub(crate) fn told(result: &mut Result<Response<ResponseBody>, Error>, grpc: bool) {
    match result {
        Ok(response) if grpc => {
            let status = response.status();
            response.body_mut().tell_as_grpc(status);
            if status != StatusCode::OK && response.body().tells_no_status() {
                response.headers_mut().extend(without_status(code_of_http(status)));
            }
        }
        Ok(_) => {}
        Err(_) => fail(result, grpc),
    }
}

impl<F> Future for StatusFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>> + Spoken,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        ready!(spend(this.fresh, cx));
        // Changed where it is: an answer is large, and is moved by each room that takes it out.
        let mut polled = this.inner.as_mut().poll(cx);
        if let Poll::Ready(result) = &mut polled {
            told(result, this.inner.is_grpc());
        }
        polled
    }
}

/// Whether a request is gRPC: its content type is `application/grpc`, with or without a suffix.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    find(headers, &CONTENT_TYPE).is_some_and(route::is_grpc)
}

/// Envoy's mark of an answer that a limit made, and no server.
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// A failure, as the caller is to have it.
#[cold]
fn fail(result: &mut Result<Response<ResponseBody>, Error>, grpc: bool) {
    let failed = std::mem::replace(result, Ok(Response::new(ResponseBody::empty())));
    *result = match (failed, grpc) {
        (Err(error), true) => Ok(trailers_only(error)),
        (failed, _) => failed.or_else(injected),
    };
}

/// An injected fault, as the answer that it stands for: who tests against it wants what a server would have said.
fn injected(error: Error) -> Result<Response<ResponseBody>, Error> {
    let Some(abort) = error.fault() else {
        return Err(error);
    };
    let mut response = Response::new(ResponseBody::own(Bytes::copy_from_slice(abort.body.as_bytes())));
    *response.status_mut() = error.status();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.extensions_mut().insert(error);
    Ok(response)
}

fn trailers_only(error: Error) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.headers_mut() = trailers(&error, error.grpc_code());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if error.is_overflow() {
        response
            .headers_mut()
            .insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    response.extensions_mut().insert(error);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_grpc() {
        let with = |value| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
        assert!(is_grpc(&with("application/grpc")) && is_grpc(&with("application/grpc+proto")));
        assert!(!is_grpc(&with("application/json")) && !is_grpc(&HeaderMap::new()));
        assert!(!is_grpc(&with("application/grpc-web")) && !is_grpc(&with("application/grpc-web+proto")));
    }
}
