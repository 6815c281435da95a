//! The future of the attempt room.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use pin_project_lite::pin_project;

use crate::alarm::{Alarm, Alarms};
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
        // Most policies have none.
        limits: Option<Limits>,
    }
}

/// What limits a try of its own.
#[derive(Debug)]
pub(super) struct Limits {
    whole: Option<(TryLimit, Alarm)>,
    idle: Option<Duration>,
    alarms: Arc<Alarms>,
}

impl Limits {
    pub(super) fn new(alarms: &Arc<Alarms>, limit: Option<TryLimit>, idle: Option<Duration>) -> Self {
        Self {
            whole: limit.map(|limit| (limit, alarms.from(limit.began, limit.after))),
            idle,
            alarms: Arc::clone(alarms),
        }
    }
}

impl<F> AttemptFuture<F> {
    #[inline]
    pub(super) fn new(inner: F, limits: Option<Limits>) -> Self {
        Self { inner, limits }
    }
}

impl<F> Future for AttemptFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.inner.poll(cx) {
            Poll::Ready(mut result) => {
                if let (Ok(response), Some(limits)) = (&mut result, this.limits)
                    && let Some(idle) = limits.idle
                {
                    response.body_mut().idle_at_most(idle, &limits.alarms);
                }
                Poll::Ready(result)
            }
            Poll::Pending => match this.limits {
                Some(Limits {
                    whole: Some((limit, alarm)),
                    ..
                }) => alarm.poll(cx).map(|()| Err(late(*limit))),
                _ => Poll::Pending,
            },
        }
    }
}

fn late(limit: TryLimit) -> Error {
    Error::new(match limit.idle {
        true => Kind::PerTryIdle(limit.after),
        false => Kind::PerTryTimeout(limit.after),
    })
}
