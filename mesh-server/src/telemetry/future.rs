//! The answer of the room: the service's, in a body that counts.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::CountedBody;
use super::call::Call;

pin_project! {
    /// The future of [`Telemetry`](super::Telemetry). Dropping it drops the service's call, which then counts as one whose caller
    /// went away.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        polled: Polled,
    }
}

/// A call that is being polled or is not.
#[derive(Debug)]
struct Polled {
    call: Option<Call>,
    /// Stays set where the service panics.
    now: bool,
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, call: Call) -> Self {
        Self {
            inner,
            polled: Polled {
                call: Some(call),
                now: false,
            },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<CountedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.polled.now = true;
        let polled = this.inner.poll(cx);
        this.polled.now = false;
        let Poll::Ready(result) = polled else {
            return Poll::Pending;
        };
        let mut call = this.polled.call.take().expect("a future is not polled after its end");
        Poll::Ready(match result {
            Ok(response) => {
                call.answered(&response);
                Ok(response.map(|body| CountedBody::new(body, call)))
            }
            Err(error) => {
                call.failed();
                Err(error)
            }
        })
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        if self.now
            && let Some(call) = &mut self.call
        {
            call.failed();
        }
    }
}
