//! The answer of the room: the service's, or a refusal.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;

use super::MaybeRefused;

/// PERMISSION_DENIED (gRPC status codes).
const PERMISSION_DENIED: HeaderValue = HeaderValue::from_static("7");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const MESSAGE: &str = "the peer is not a verified workload of the mesh";

pin_project! {
    /// The future of [`Authenticate`](super::Authenticate). Dropping it drops the service's call.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Admitted { #[pin] call: F },
        Refused { grpc: bool },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn admitted(call: F) -> Self {
        Self {
            state: State::Admitted { call },
        }
    }

    pub(super) fn refused(grpc: bool) -> Self {
        Self {
            state: State::Refused { grpc },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<MaybeRefused<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Admitted { call } => {
                let response = ready!(call.poll(cx))?;
                Poll::Ready(Ok(response.map(MaybeRefused::admitted)))
            }
            StateProjection::Refused { grpc: true } => Poll::Ready(Ok(grpc_refusal())),
            StateProjection::Refused { grpc: false } => Poll::Ready(Ok(http_refusal())),
        }
    }
}

/// A trailers-only response: the status is in the headers and there is no body.
fn grpc_refusal<R>() -> Response<MaybeRefused<R>> {
    let mut response = Response::new(MaybeRefused::refused(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC);
    headers.insert("grpc-status", PERMISSION_DENIED);
    headers.insert("grpc-message", HeaderValue::from_static(MESSAGE));
    response
}

fn http_refusal<R>() -> Response<MaybeRefused<R>> {
    let mut response = Response::new(MaybeRefused::refused(Bytes::from_static(MESSAGE.as_bytes())));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}
