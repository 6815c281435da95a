//! The future of the deadline room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;

use crate::body::{Deadline, ResponseBody};
use crate::error::Error;

pin_project! {
    /// Resolves as the inner future does, or with a timeout.
    ///
    /// Dropping it, or running out of time, cancels the call at the peer (RST_STREAM).
    #[derive(Debug)]
    pub struct DeadlineFuture<F> {
        #[pin]
        inner: F,
        deadline: Option<Deadline>,
    }
}

impl<F> DeadlineFuture<F> {
    pub(super) fn new(inner: F, deadline: Option<Deadline>) -> Self {
        Self { inner, deadline }
    }
}

impl<F> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            return Poll::Ready(result.map(|mut response| {
                response.body_mut().bound_by(this.deadline.take());
                response
            }));
        }
        match this.deadline {
            Some(deadline) => deadline.poll_expired(cx).map(Err),
            None => Poll::Pending,
        }
    }
}
