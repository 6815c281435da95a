//! A running limit. It is set when the call begins and moves into the response body, since a call ends with its last frame.
//!
//! One timer serves the limit of the whole and the limit of being idle: it is set for whichever comes first, and when it goes off
//! early, because something moved meanwhile, it is set again. So a frame costs a look at the clock and no timer. A limit that begins
//! with the end of the request works the same way: while that is not there, the limit cannot end before as long from now. What is
//! needed for more than the first limit is in a box that is used again, since most calls have only that and every room moves this.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;
use std::time::Duration;

use mesh_core::deadline::{Limit, Of};
use tokio::time::Instant;

use crate::alarm::{Alarm, Alarms};
use crate::error::{Error, Kind};
use crate::reuse::{Kept, Reuse, Reused};
use crate::time::Activity;

/// A running limit, which moves from the future into the response body.
#[derive(Debug)]
pub(crate) struct Deadline {
    total: Option<Limit>,
    moving: Option<Reused<Moving>>,
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

/// Limits whose end moves, beside a whole one.
#[derive(Debug, Default)]
struct Moving {
    idle: Option<Idle>,
    /// Of the answer, from the end of the request on.
    answer: Option<Arc<Activity>>,
    /// When the whole is over.
    until: Option<Instant>,
}

impl Reuse for Moving {
    fn kept() -> &'static LocalKey<Kept<Self>> {
        thread_local! {
            static KEPT: Kept<Moving> = const { Kept::new(Vec::new()) };
        }
        &KEPT
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
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

impl Moving {
    fn new(idle: Option<Idle>, answer: Option<Arc<Activity>>, until: Option<Instant>) -> Reused<Self> {
        let mut moving = Reused::<Self>::take();
        moving.idle = idle;
        moving.answer = answer;
        moving.until = until;
        moving
    }

    /// When one of them may be over at the earliest.
    fn next(&self, now: Instant) -> Option<Instant> {
        let idle = self.idle.as_ref().map(Idle::ends);
        let answer = self.answer.as_ref().and_then(|activity| match activity.ended() {
            Some(_) => activity.ends(),
            None => now.checked_add(activity.answer()?),
        });
        idle.into_iter().chain(answer).chain(self.until).min()
    }
}

impl Deadline {
    /// The longest limit that is kept exactly; a greater one stands for it.
    pub(crate) const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Runs for what is left of `total`, for as long as `idle` says, and for as long as the `answer` may take; `None` when none is a limit.
    #[inline]
    pub(crate) fn new(
        alarms: &Arc<Alarms>,
        now: Instant,
        total: Option<(Duration, Limit)>,
        idle: Option<Idle>,
        answer: Option<Arc<Activity>>,
    ) -> Option<Self> {
        let moving =
            (idle.is_some() || answer.is_some()).then(|| Moving::new(idle, answer, total.map(|(left, _)| now + left)));
        let after = match (&moving, total) {
            (Some(moving), _) => moving.next(now)?.saturating_duration_since(now),
            (None, Some((left, _))) => left,
            (None, None) => return None,
        };
        Some(Self {
            total: total.map(|(_, limit)| limit),
            moving,
            timer: alarms.from(now, after),
        })
    }

    /// A try's limit of being idle.
    pub(crate) fn of_try(alarms: &Arc<Alarms>, idle: Idle) -> Self {
        Self {
            total: None,
            timer: alarms.from(idle.last, idle.limit),
            moving: Some(Moving::new(Some(idle), None, None)),
        }
    }

    /// A try's limit of being idle joins the call's limits, of which `until` is the end of the whole.
    pub(crate) fn join(&mut self, mut of_try: Self, until: Option<Instant>) {
        let Some(idle) = of_try.moving.as_mut().and_then(|moving| moving.idle.take()) else {
            return;
        };
        let moving = self.moving.get_or_insert_with(|| Moving::new(None, None, until));
        if moving.idle.as_ref().is_none_or(|own| idle.limit < own.limit) {
            let last = idle.last;
            moving.idle = Some(idle);
            if let Some(next) = moving.next(last) {
                self.timer.again(next);
            }
        }
    }

    /// Something moved.
    pub(crate) fn moved(&mut self) {
        if let Some(idle) = self.moving.as_mut().and_then(|moving| moving.idle.as_mut()) {
            idle.last = Instant::now();
        }
    }

    /// The error to report, if time is up. Cheap: for who has more to hand out and must not go on for ever.
    pub(crate) fn expired(&self) -> Option<Error> {
        if !self.timer.has_gone_off() {
            return None;
        }
        match &self.moving {
            None => self.total.as_ref().map(over),
            Some(moving) => self.over_at(moving, Instant::now()),
        }
    }

    /// Ready, with the error to report, once time is up.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            ready!(self.timer.poll(cx));
            let Some(moving) = &self.moving else {
                return match &self.total {
                    Some(limit) => Poll::Ready(over(limit)),
                    None => Poll::Pending,
                };
            };
            let now = Instant::now();
            if let Some(error) = self.over_at(moving, now) {
                return Poll::Ready(error);
            }
            if let Some(idle) = moving.idle.as_ref().filter(|idle| now >= idle.ends()) {
                return Poll::Ready(idle.error());
            }
            let Some(next) = moving.next(now) else {
                return Poll::Pending;
            };
            self.timer.again(next);
        }
    }

    /// What is over beside the limit of being idle.
    fn over_at(&self, moving: &Moving, now: Instant) -> Option<Error> {
        if let Some(limit) = &self.total
            && moving.until.is_some_and(|until| now >= until)
        {
            return Some(over(limit));
        }
        let activity = moving.answer.as_ref()?;
        let total = activity.answer()?;
        activity
            .ends()
            .is_some_and(|ends| now >= ends)
            .then(|| over(&Limit { total, of: Of::Route }))
    }
}

fn over(limit: &Limit) -> Error {
    Error::new(match limit.of {
        Of::MaxStream => Kind::MaxStream(limit.total),
        Of::Route | Of::Caller | Of::Inherited => Kind::Deadline(*limit),
    })
}
