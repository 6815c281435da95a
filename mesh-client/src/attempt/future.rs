//! The future of the attempt room.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;
use std::time::Duration;

use http::Response;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::alarm::{Alarm, Alarms};
use crate::body::ResponseBody;
use crate::error::{Error, Kind};
use crate::reuse::{Kept, Reuse, Reused};
use crate::time::{Activity, TryLimit};

pin_project! {
    /// Resolves as the inner future does, or with a timeout of the try.
    ///
    /// The limit covers the time to the response's headers, from the end of the request on where that streams: once they came the answer
    /// is committed to (Envoy `per_try_timeout` on a retriable request).
    #[derive(Debug)]
    pub struct AttemptFuture<F> {
        #[pin]
        inner: F,
        // Most policies have none; in a box that is used again, since every room above moves this.
        limits: Option<Reused<Limits>>,
    }
}

/// What limits a try of its own.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    whole: Option<(TryLimit, Alarm)>,
    /// Where the limit of the whole begins with the end of the request, and that was not there when the call began.
    activity: Option<Arc<Activity>>,
    idle: Option<(Duration, Arc<Alarms>)>,
}

impl Limits {
    pub(super) fn begin(
        alarms: &Arc<Alarms>,
        limit: Option<TryLimit>,
        idle: Option<Duration>,
        activity: Option<&Arc<Activity>>,
    ) -> Reused<Self> {
        let mut limits = Reused::<Self>::take();
        // One that has ended by now began no later than the try.
        let is_open = |activity: &&Arc<Activity>| limit.is_some() && activity.ended().is_none();
        limits.activity = activity.filter(is_open).cloned();
        limits.whole = limit.map(|limit| (limit, alarms.from(limit.began, limit.after)));
        limits.idle = idle.map(|idle| (idle, Arc::clone(alarms)));
        limits
    }

    /// The limit of being idle goes on with an answer that came; what is waited for is ended when it is too late.
    #[inline]
    pub(crate) fn bound(&mut self, polled: &mut Poll<Result<Response<ResponseBody>, Error>>, cx: &mut Context<'_>) {
        match polled {
            Poll::Ready(Ok(response)) => {
                if let Some((idle, alarms)) = &self.idle {
                    response.body_mut().idle_at_most(*idle, alarms);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if let Poll::Ready(late) = self.poll_late(cx) {
                    *polled = Poll::Ready(Err(late));
                }
            }
        }
    }

    /// Ready once the try is too late. The alarm may go off early: while the request is not at its end, the limit cannot end before as
    /// long from now.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some((limit, alarm)) = &mut self.whole else {
            return Poll::Pending;
        };
        loop {
            ready!(alarm.poll(cx));
            let now = Instant::now();
            let Some(activity) = &self.activity else {
                return Poll::Ready(late(*limit));
            };
            match limit.ends(Some(activity)) {
                Some(ends) if now >= ends => return Poll::Ready(late(*limit)),
                Some(ends) => alarm.again(ends),
                None => alarm.again(now + limit.after),
            }
        }
    }
}

impl Reuse for Limits {
    fn kept() -> &'static LocalKey<Kept<Self>> {
        thread_local! {
            static KEPT: Kept<Limits> = const { Kept::new(Vec::new()) };
        }
        &KEPT
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<F> AttemptFuture<F> {
    #[inline]
    pub(super) fn new(inner: F, limits: Option<Reused<Limits>>) -> Self {
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
        // Changed where it is: an answer is large, and is moved by each room that takes it out.
        let mut polled = this.inner.poll(cx);
        if let Some(limits) = this.limits {
            limits.bound(&mut polled, cx);
        }
        polled
    }
}

/// The end of a try whose time is up.
pub(crate) fn late(limit: TryLimit) -> Error {
    Error::new(match limit.idle {
        true => Kind::PerTryIdle(limit.after),
        false => Kind::PerTryTimeout(limit.after),
    })
}
