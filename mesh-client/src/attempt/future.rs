//! The future of the attempt room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use crate::body::ResponseBody;
use crate::error::{Error, Kind};
use crate::request::TryLimit;

pin_project! {
    /// Resolves as the inner future does, or with a timeout of the try.
    ///
    /// The limit covers the time to the response's headers: once they came the answer is committed to (Envoy
    /// `per_try_timeout` on a retriable request).
    #[derive(Debug)]
    pub struct AttemptFuture<F> {
        #[pin]
        inner: F,
        // Boxed, since most policies have no limit per try and a timer is large.
        limit: Option<(TryLimit, Pin<Box<Sleep>>)>,
        idle: Option<Duration>,
    }
}

impl<F> AttemptFuture<F> {
    pub(super) fn new(inner: F, limit: Option<TryLimit>, idle: Option<Duration>) -> Self {
        Self {
            inner,
            limit: limit.map(|limit| (limit, Box::pin(tokio::time::sleep(limit.after)))),
            idle,
        }
    }
}

impl<F> Future for AttemptFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(mut result) = this.inner.poll(cx) {
            if let (Some(idle), Ok(response)) = (this.idle.take(), &mut result) {
                response.body_mut().idle_at_most(idle);
            }
            return Poll::Ready(result);
        }
        match this.limit {
            Some((limit, sleep)) => sleep.as_mut().poll(cx).map(|()| {
                Err(Error::new(match limit.idle {
                    true => Kind::PerTryIdle(limit.after),
                    false => Kind::PerTryTimeout(limit.after),
                }))
            }),
            None => Poll::Pending,
        }
    }
}
