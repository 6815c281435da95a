//! A running limit. It is set when the call begins and moves into the response body, since a call ends with its last frame.
//!
//! One timer serves the limit of the whole and the limit of being idle: it is set for whichever comes first, and when it goes off
//! early, because something moved meanwhile, it is set again. So a frame costs a look at the clock and no timer. What is needed
//! for the second limit is in a box, since most calls have only the first and every room moves this.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mesh_core::deadline::{Limit, Of};
use tokio::time::Instant;

use crate::alarm::{Alarm, Alarms};
use crate::error::{Error, Kind};
use crate::request::Activity;

/// A running limit, which moves from the future into the response body.
#[derive(Debug)]
pub(crate) struct Deadline {
    total: Option<Limit>,
    quiet: Option<Box<Quiet>>,
    timer: Alarm,
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

/// An idle limit beside a whole one.
#[derive(Debug)]
struct Quiet {
    idle: Idle,
    /// When the whole is over.
    until: Option<Instant>,
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

impl Quiet {
    fn next(&self) -> Instant {
        let ends = self.idle.ends();
        self.until.map_or(ends, |until| until.min(ends))
    }
}

impl Deadline {
    /// The longest limit that is kept exactly; a greater one stands for it.
    pub(crate) const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Runs for what is left of `total`, and for as long as `idle` says; `None` when neither is a limit.
    pub(crate) fn new(
        alarms: &Arc<Alarms>,
        now: Instant,
        total: Option<(Duration, Limit)>,
        idle: Option<Idle>,
    ) -> Option<Self> {
        let quiet = idle.map(|idle| {
            let until = total.map(|(left, _)| now + left);
            Box::new(Quiet { idle, until })
        });
        let after = match (&quiet, total) {
            (Some(quiet), _) => quiet.next().saturating_duration_since(now),
            (None, Some((left, _))) => left,
            (None, None) => return None,
        };
        Some(Self {
            total: total.map(|(_, limit)| limit),
            quiet,
            timer: alarms.from(now, after),
        })
    }

    /// A try's limit of being idle.
    pub(crate) fn of_try(alarms: &Arc<Alarms>, idle: Idle) -> Self {
        Self {
            total: None,
            timer: alarms.from(idle.last, idle.limit),
            quiet: Some(Box::new(Quiet { idle, until: None })),
        }
    }

    /// A try's limit of being idle joins the call's limits, of which `until` is the end of the whole.
    pub(crate) fn join(&mut self, of_try: Self, until: Option<Instant>) {
        let Some(mut theirs) = of_try.quiet else { return };
        let own = self.quiet.as_ref().map(|quiet| quiet.idle.limit);
        if own.is_none_or(|own| theirs.idle.limit < own) {
            theirs.until = self.quiet.as_ref().map_or(until, |quiet| quiet.until);
            self.timer.again(theirs.next());
            self.quiet = Some(theirs);
        }
    }

    /// Something moved.
    pub(crate) fn moved(&mut self) {
        if let Some(quiet) = &mut self.quiet {
            quiet.idle.last = Instant::now();
        }
    }

    /// The error to report, if time is up. Cheap: for who has more to hand out and must not go on for ever.
    pub(crate) fn expired(&self) -> Option<Error> {
        let limit = self.total.as_ref().filter(|_| self.timer.has_gone_off())?;
        let over = self.quiet.as_ref().is_none_or(|quiet| quiet.is_over(Instant::now()));
        over.then(|| self::over(limit))
    }

    /// Ready, with the error to report, once time is up.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            ready!(self.timer.poll(cx));
            let now = Instant::now();
            match (&self.total, &self.quiet) {
                (Some(limit), None) => return Poll::Ready(over(limit)),
                (Some(limit), Some(quiet)) if quiet.is_over(now) => return Poll::Ready(over(limit)),
                (_, Some(quiet)) if now >= quiet.idle.ends() => return Poll::Ready(quiet.idle.error()),
                (_, Some(quiet)) => self.timer.again(quiet.next()),
                (None, None) => return Poll::Pending,
            }
        }
    }
}

impl Quiet {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

fn over(limit: &Limit) -> Error {
    Error::new(match limit.of {
        Of::MaxStream => Kind::MaxStream(limit.total),
        Of::Route | Of::Caller | Of::Inherited => Kind::Deadline(limit.total),
    })
}
