//! The future of the deadline room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::body::ResponseBody;
use crate::error::{Error, Kind};

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

/// A running limit, which moves from the future into the response body.
#[derive(Debug)]
pub(crate) struct Deadline {
    limit: Duration,
    // Boxed, since a timer that runs cannot be moved, and this one outlives the future.
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    /// The longest limit that is kept exactly; a greater one stands for it. tokio's timers reach about two years.
    const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    fn after(limit: Duration) -> Self {
        Self {
            limit,
            sleep: Box::pin(tokio::time::sleep_until(Instant::now() + limit.min(Self::MAX))),
        }
    }

    /// Ready, with the error to report, once time is up.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.sleep
            .as_mut()
            .poll(cx)
            .map(|()| Error::new(Kind::Deadline(self.limit)))
    }
}

impl<F> DeadlineFuture<F> {
    pub(super) fn new(inner: F, limit: Option<Duration>) -> Self {
        Self {
            inner,
            deadline: limit.map(Deadline::after),
        }
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
