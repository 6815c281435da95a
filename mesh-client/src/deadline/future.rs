//! The future of the deadline room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::body::{Deadline, ResponseBody};
use crate::error::Error;

pin_project! {
    /// Resolves as the inner future does, or with a timeout.
    ///
    /// Dropping it, or running out of time, cancels the call at the peer (RST_STREAM).
    #[derive(Debug)]
    pub struct DeadlineFuture<F> {
        #[pin]
        inner: Option<F>,
        deadline: Option<Deadline>,
        // When the call is over as a whole.
        until: Option<Instant>,
        late: Option<Error>,
    }
}

impl<F> DeadlineFuture<F> {
    #[inline]
    pub(crate) fn new(inner: F, deadline: Option<Deadline>, until: Option<Instant>) -> Self {
        Self {
            inner: Some(inner),
            deadline,
            until,
            late: None,
        }
    }

    /// Of a call that is not begun.
    pub(super) fn late(error: Error) -> Self {
        Self {
            inner: None,
            deadline: None,
            until: None,
            late: Some(error),
        }
    }
}

impl<F> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            let late = this.late.take().expect("polled after it was done");
            return Poll::Ready(Err(late));
        };
        // Changed where it is: an answer is large, and is moved by each room that takes it out.
        let mut polled = inner.poll(cx);
        bound(this.deadline, *this.until, &mut polled, cx);
        polled
    }
}

/// The limit goes on with an answer that came, or ends what is waited for.
#[inline]
pub(crate) fn bound(
    deadline: &mut Option<Deadline>,
    until: Option<Instant>,
    polled: &mut Poll<Result<Response<ResponseBody>, Error>>,
    cx: &mut Context<'_>,
) {
    match polled {
        Poll::Ready(Ok(response)) => response.body_mut().bound_by(deadline, until),
        Poll::Ready(Err(_)) => {}
        Poll::Pending => {
            if let Some(deadline) = deadline
                && let Poll::Ready(late) = deadline.poll_expired(cx)
            {
                *polled = Poll::Ready(Err(late));
            }
        }
    }
}
