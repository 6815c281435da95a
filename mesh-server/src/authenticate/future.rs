//! The answer of the room: the service's, or a refusal.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;

use super::MaybeRefused;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody verified its sender, and nothing says that this is not needed.
    NoPeer,
    /// Its connection is no longer admitted.
    Revoked,
}

impl Why {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoPeer => "no_peer_identity",
            Self::Revoked => "connection_revoked",
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::NoPeer => "the peer is not a verified workload of the mesh",
            Self::Revoked => "the connection is no longer admitted: make another",
        }
    }

    /// PERMISSION_DENIED or UNAVAILABLE (gRPC status codes).
    fn grpc(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::NoPeer => "7",
            Self::Revoked => "14",
        })
    }

    fn http(self) -> StatusCode {
        match self {
            Self::NoPeer => StatusCode::FORBIDDEN,
            Self::Revoked => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

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
        Refused { why: Why, grpc: bool },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn admitted(call: F) -> Self {
        Self {
            state: State::Admitted { call },
        }
    }

    pub(super) fn refused(why: Why, grpc: bool) -> Self {
        Self {
            state: State::Refused { why, grpc },
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
            StateProjection::Refused { why, grpc: true } => Poll::Ready(Ok(grpc_refusal(*why))),
            StateProjection::Refused { why, grpc: false } => Poll::Ready(Ok(http_refusal(*why))),
        }
    }
}

/// A trailers-only response: the status is in the headers and there is no body.
fn grpc_refusal<R>(why: Why) -> Response<MaybeRefused<R>> {
    let mut response = Response::new(MaybeRefused::refused(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC);
    headers.insert("grpc-status", why.grpc());
    headers.insert("grpc-message", HeaderValue::from_static(why.message()));
    response
}

fn http_refusal<R>(why: Why) -> Response<MaybeRefused<R>> {
    let mut response = Response::new(MaybeRefused::refused(Bytes::from_static(why.message().as_bytes())));
    *response.status_mut() = why.http();
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}
