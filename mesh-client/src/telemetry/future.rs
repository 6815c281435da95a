//! The future of the room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;

use super::Counting;
use crate::body::ResponseBody;
use crate::error::Error;

pin_project! {
    /// Resolves as the inner future does; the answer's body counts the call when it ends. Dropping it counts the call as one whose
    /// caller went away.
    #[derive(Debug)]
    pub struct TelemetryFuture<F> {
        #[pin]
        inner: F,
        counting: Option<Counting>,
    }
}

impl<F> TelemetryFuture<F> {
    #[inline]
    pub(crate) fn new(inner: F, counting: Counting) -> Self {
        Self {
            inner,
            counting: Some(counting),
        }
    }
}

impl<F> Future for TelemetryFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Changed where it is: an answer is large, and is moved by each room that takes it out.
        let mut polled = this.inner.poll(cx);
        if let Poll::Ready(result) = &mut polled
            && let Some(counting) = this.counting.take()
        {
            settle(counting, result);
        }
        polled
    }
}

/// A call's tries are over: what came of them is counted, or the answer goes on with the count.
#[inline]
pub(crate) fn settle(mut counting: Counting, result: &mut Result<Response<ResponseBody>, Error>) {
    match result {
        Ok(response) => {
            counting.answered(response, response.body().outcome());
            response.body_mut().counted_by(counting);
        }
        Err(error) => counting.failed(error),
    }
}
