//! A running limit. It is set when the call begins and moves into the response body, since a call ends with its last frame.
//!
//! One timer serves the limit of the whole and the limit of being idle: it is set for whichever comes first, and when it goes off
//! early, because something moved meanwhile, it is set again. So a frame costs a look at the clock and no timer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mesh_core::deadline::{Limit, Of};
use tokio::time::{Instant, Sleep};

use crate::error::{Error, Kind};
use crate::request::Activity;

/// A running limit, which moves from the future into the response body.
#[derive(Debug)]
pub(crate) struct Deadline {
    total: Option<(Instant, Limit)>,
    idle: Option<Idle>,
    // Boxed, since a timer that runs cannot be moved, and this one outlives the future.
    sleep: Pin<Box<Sleep>>,
}

/// How long nothing may move.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) limit: Duration,
    pub(crate) last: Instant,
    /// What is sent of the request counts too.
    pub(crate) activity: Option<Arc<Activity>>,
    /// It is a try's limit, and not the stream's.
    pub(crate) of_try: bool,
}

impl Idle {
    fn ends(&self) -> Instant {
        let sent = self.activity.as_ref().map(|activity| activity.last());
        self.last.max(sent.unwrap_or(self.last)) + self.limit
    }

    fn error(&self) -> Error {
        Error::new(match self.of_try {
            true => Kind::PerTryIdle(self.limit),
            false => Kind::Idle(self.limit),
        })
    }
}

impl Deadline {
    /// The longest limit that is kept exactly; a greater one stands for it. tokio's timers reach about two years.
    pub(crate) const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Runs until `total` and for as long as `idle` says; `None` when neither is a limit.
    pub(crate) fn new(total: Option<(Instant, Limit)>, idle: Option<Idle>) -> Option<Self> {
        let at = first(total.as_ref(), idle.as_ref())?;
        Some(Self {
            total,
            idle,
            sleep: Box::pin(tokio::time::sleep_until(at)),
        })
    }

    /// A try's limit of being idle joins the call's limits.
    pub(crate) fn join(this: &mut Option<Self>, of_try: Idle) {
        match this {
            None => *this = Self::new(None, Some(of_try)),
            Some(this) if this.idle.as_ref().is_some_and(|own| own.limit <= of_try.limit) => {}
            Some(this) => {
                this.idle = Some(of_try);
                this.arm();
            }
        }
    }

    /// The idle limit, when it is a try's.
    pub(crate) fn take_idle_of_try(self) -> Option<Idle> {
        self.idle.filter(|idle| idle.of_try)
    }

    /// Something moved.
    pub(crate) fn moved(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.last = Instant::now();
        }
    }

    /// The error to report, if time is up. Cheap: for who has more to hand out and must not go on for ever.
    pub(crate) fn expired(&self) -> Option<Error> {
        let (at, limit) = self.total.as_ref().filter(|_| self.sleep.is_elapsed())?;
        (Instant::now() >= *at).then(|| over(limit))
    }

    /// Ready, with the error to report, once time is up.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = Instant::now();
            if let Some((_, limit)) = self.total.as_ref().filter(|(at, _)| now >= *at) {
                return Poll::Ready(over(limit));
            }
            if let Some(idle) = self.idle.as_ref().filter(|idle| now >= idle.ends()) {
                return Poll::Ready(idle.error());
            }
            self.arm();
        }
    }

    fn arm(&mut self) {
        if let Some(at) = first(self.total.as_ref(), self.idle.as_ref()) {
            self.sleep.as_mut().reset(at);
        }
    }
}

fn first(total: Option<&(Instant, Limit)>, idle: Option<&Idle>) -> Option<Instant> {
    let total = total.map(|(at, _)| *at);
    let idle = idle.map(Idle::ends);
    total.into_iter().chain(idle).min()
}

fn over(limit: &Limit) -> Error {
    Error::new(match limit.of {
        Of::MaxStream => Kind::MaxStream(limit.total),
        Of::Route | Of::Caller | Of::Inherited => Kind::Deadline(limit.total),
    })
}
