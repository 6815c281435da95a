//! The future of the attempt room.

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
    /// Resolves as the inner future does, or with a timeout of the try.
    ///
    /// The limit covers the time to the response's headers: once they came the answer is committed to (Envoy
    /// `per_try_timeout` on a retriable request).
    #[derive(Debug)]
    pub struct AttemptFuture<F> {
        #[pin]
        inner: F,
        limit: Option<Limit>,
    }
}

/// A try's own time, which runs.
#[derive(Debug)]
pub(super) struct Limit {
    whole: Duration,
    // Boxed, since most policies have no limit per try and a timer is large.
    sleep: Pin<Box<Sleep>>,
}

impl Limit {
    pub(super) fn new(whole: Duration) -> Self {
        Self {
            whole,
            sleep: Box::pin(tokio::time::sleep(whole)),
        }
    }

    pub(super) fn at(&self) -> Instant {
        self.sleep.deadline()
    }
}

impl<F> AttemptFuture<F> {
    pub(super) fn new(inner: F, limit: Option<Limit>) -> Self {
        Self { inner, limit }
    }
}

impl<F> Future for AttemptFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            return Poll::Ready(result);
        }
        match this.limit {
            Some(Limit { whole, sleep }) => sleep
                .as_mut()
                .poll(cx)
                .map(|()| Err(Error::new(Kind::PerTryTimeout(*whole)))),
            None => Poll::Pending,
        }
    }
}
