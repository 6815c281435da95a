//! The room that speaks the caller's protocol: a failed gRPC call is an answer, not an error.
//!
//! A gRPC client library turns an error of a type it does not know into UNKNOWN. So a gRPC request that fails gets what a
//! server would have sent: a trailers-only response with `grpc-status` and `grpc-message`, and the typed [`Error`] in its
//! extensions for who wants to ask it. Any other request gets `Err(Error)`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::body::ResponseBody;
use crate::error::Error;

/// Longer messages are cut: they end in a header list that the caller's side bounds.
const MAX_MESSAGE_BYTES: usize = 1024;

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

impl<S, B> Service<Request<B>> for StatusService<S>
where
    S: Service<Request<B>, Response = Response<ResponseBody>, Error = Error>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = StatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let grpc = is_grpc(request.headers());
        StatusFuture {
            inner: self.inner.call(request),
            grpc,
        }
    }
}

pin_project! {
    /// Resolves as the inner future does, with gRPC failures as answers.
    #[derive(Debug)]
    pub struct StatusFuture<F> {
        #[pin]
        inner: F,
        grpc: bool,
    }
}

impl<F> Future for StatusFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if !*this.grpc {
            return Poll::Ready(result);
        }
        Poll::Ready(Ok(match result {
            Ok(mut response) => {
                response.body_mut().tell_as_grpc();
                response
            }
            Err(error) => trailers_only(error),
        }))
    }
}

/// Whether a request is gRPC: its content type is `application/grpc`, with or without a suffix.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn trailers_only(error: Error) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.headers_mut() = trailers(&error);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.extensions_mut().insert(error);
    response
}

/// `grpc-status` and `grpc-message` for `error`.
pub(crate) fn trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    trailers.insert(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from(u16::from(error.grpc_code())),
    );
    let message = percent_encode(&whole_message(error));
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert(HeaderName::from_static("grpc-message"), message);
    }
    trailers
}

/// The error and its causes: a status has room for one text, and the cause is what a reader looks for.
fn whole_message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Percent-encoding of `grpc-message` (gRPC over HTTP/2): everything but printable ASCII, and `%`.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if encoded.len() >= MAX_MESSAGE_BYTES {
            break;
        }
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_and_bounded() {
        assert_eq!(percent_encode("a b%\n\u{e9}"), "a b%25%0A%C3%A9");
        assert!(percent_encode(&"x".repeat(5_000)).len() <= MAX_MESSAGE_BYTES);
    }

    #[test]
    fn what_is_grpc() {
        let with = |value| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
        assert!(is_grpc(&with("application/grpc")) && is_grpc(&with("application/grpc+proto")));
        assert!(!is_grpc(&with("application/json")) && !is_grpc(&HeaderMap::new()));
    }
}
