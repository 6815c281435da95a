//! The answer of the room: the service's, while there is time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body;
use mesh_core::inherit::{Inherited, enter};
use mesh_core::report::standard::Flags;
use mesh_core::retry::DO_NOT_RETRY;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::{BoundBody, BoxError};

/// DEADLINE_EXCEEDED (gRPC status codes).
pub(super) const DEADLINE_EXCEEDED: HeaderValue = HeaderValue::from_static("4");
/// What the caller is told.
pub(super) const MESSAGE: &str = "the caller's time was up before the answer was there";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pin_project! {
    /// The future of [`Deadline`](super::Deadline). Dropping it drops the service's call, and so does the end of the time.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        call: Option<F>,
        scope: Option<Inherited>,
        // Boxed, since it moves into the body, and most requests have none.
        until: Option<Pin<Box<Sleep>>>,
        grpc: bool,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(call: F, scope: Option<Inherited>, until: Option<Instant>, grpc: bool) -> Self {
        Self {
            call: Some(call),
            scope,
            until: until.map(|until| Box::pin(tokio::time::sleep_until(until))),
            grpc,
        }
    }

    /// Of a request that came too late: there is no call.
    pub(super) fn late(grpc: bool) -> Self {
        Self {
            call: None,
            scope: None,
            until: None,
            grpc,
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<BoundBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(call) = this.call.as_mut().as_pin_mut() else {
            return Poll::Ready(Ok(too_late(*this.grpc)));
        };
        if let Poll::Ready(result) = enter(this.scope, || call.poll(cx)) {
            // A timer knows that it went off only if it was looked at before: a body that is never without a frame would not.
            if let Some(until) = this.until.as_mut() {
                let _ = until.as_mut().poll(cx);
            }
            return Poll::Ready(result.map(|mut response| {
                let exhausted = this.scope.as_ref().is_some_and(Inherited::is_exhausted);
                if exhausted && is_failure(response.status(), response.headers()) {
                    response.headers_mut().extend(DO_NOT_RETRY);
                }
                let (scope, until, grpc) = (this.scope.take(), this.until.take(), *this.grpc);
                response.map(|body| BoundBody::new(body, scope, until, grpc))
            }));
        }
        let over = this
            .until
            .as_mut()
            .is_some_and(|until| until.as_mut().poll(cx).is_ready());
        if !over {
            return Poll::Pending;
        }
        // Nobody reads the answer any more: the work for it ends here.
        this.call.set(None);
        Poll::Ready(Ok(too_late(*this.grpc)))
    }
}

/// Whether a caller may want to try again.
fn is_failure(status: StatusCode, headers: &HeaderMap) -> bool {
    let grpc = headers.get("grpc-status");
    status.is_server_error() || grpc.is_some_and(|status| status != "0")
}

fn too_late<R: Body<Data = Bytes>>(grpc: bool) -> Response<BoundBody<R>> {
    let text = if grpc { "" } else { MESSAGE };
    let mut response = Response::new(BoundBody::text(text));
    response.extensions_mut().insert(Flags::TIMED_OUT);
    if grpc {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, GRPC);
        headers.insert("grpc-status", DEADLINE_EXCEEDED);
        headers.insert("grpc-message", HeaderValue::from_static(MESSAGE));
    } else {
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    }
    response
}
