//! What the rooms know of a call's time: when it must be over, and what of its request is on its way.
//!
//! Limits of the answer begin with the end of the request. A request that is whole when its call begins has ended then, and nothing is
//! shared for it; what streams, or may be held up by a fault, has an [`Activity`] between who sends it and who keeps the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What the deadline room found out of a call's time.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallTime {
    /// When the call must be over; where a limit begins later ([`Activity::ends`]), for all others.
    pub(crate) deadline: Option<Instant>,
    /// What is left of it while no time has passed; `None`: the clock must be asked.
    pub(crate) fresh: Option<Duration>,
    /// The peer is to be told the time in Envoy's header.
    pub(crate) expected: bool,
    /// The peer is to be told the time in `grpc-timeout`.
    pub(crate) grpc: bool,
    /// The caller's own `grpc-timeout` is the limit, and tells it already.
    pub(crate) told: bool,
    /// The inbound request that the call is made for is itself another try.
    pub(crate) is_retry: bool,
    /// Told what is sent of the request, where streams may not be idle, or where a limit begins with its end and that is not there yet.
    pub(crate) activity: Option<Arc<Activity>>,
}

impl CallTime {
    /// What is left of it, for all that can be said at `now`; `None`: it has no limit.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let whole = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
        let answer = self.activity.as_ref().and_then(|activity| activity.left(now));
        whole.into_iter().chain(answer).min()
    }
}

/// What is known of a request that is on its way: when something of it moved last, and when it ended.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Milliseconds since it began.
    last: AtomicU64,
    /// Nanoseconds from when it began to the end of the request.
    ended: AtomicU64,
    /// How long the answer may take from then on.
    answer: Option<Duration>,
}

/// The request is not at its end.
const OPEN: u64 = u64::MAX;

impl Activity {
    /// Of a request that is not at its end, unless `is_whole`.
    pub(crate) fn begin(now: Instant, is_whole: bool, answer: Option<Duration>) -> Self {
        Self {
            began: now,
            last: AtomicU64::new(0),
            ended: AtomicU64::new(if is_whole { 0 } else { OPEN }),
            answer,
        }
    }

    /// All of it was sent.
    pub(crate) fn end(&self) {
        let passed = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(OPEN - 1);
        // Of several tries the first counts.
        let _ = self
            .ended
            .compare_exchange(OPEN, passed, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// It is held back as a whole.
    pub(crate) fn hold(&self) {
        self.ended.store(OPEN, Ordering::Relaxed);
    }

    /// When all of it was sent.
    pub(crate) fn ended(&self) -> Option<Instant> {
        match self.ended.load(Ordering::Relaxed) {
            OPEN => None,
            nanos => Some(self.began + Duration::from_nanos(nanos)),
        }
    }

    /// When the answer must be over.
    pub(crate) fn ends(&self) -> Option<Instant> {
        self.ended()?.checked_add(self.answer?)
    }

    /// How long the answer may take.
    pub(crate) fn answer(&self) -> Option<Duration> {
        self.answer
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        match self.ends() {
            Some(ends) => Some(ends.saturating_duration_since(now)),
            None => self.answer,
        }
    }

    pub(crate) fn touch(&self) {
        let passed = self.began.elapsed().as_millis() as u64;
        self.last.fetch_max(passed, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// How long one try may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TryLimit {
    /// When it began: the clock is read once for all that goes by it.
    pub(crate) began: Instant,
    pub(crate) after: Duration,
    /// It is the limit of being idle, which is the shorter.
    pub(crate) idle: bool,
}

impl TryLimit {
    /// When the try is over. Its answer has that long from the end of the request on (Envoy); `None`: that is not there yet.
    pub(crate) fn ends(&self, activity: Option<&Activity>) -> Option<Instant> {
        let begun = match activity.filter(|_| !self.idle) {
            None => self.began,
            Some(activity) => self.began.max(activity.ended()?),
        };
        begun.checked_add(self.after)
    }
}

/// When a try's time is up, or its call's.
#[derive(Debug)]
pub(crate) enum Expiry {
    /// It is known; `None`: never.
    At(Option<Instant>),
    /// It depends on when the request ends. In a box, since most requests are there when they begin.
    Later(Box<Later>),
}

impl Default for Expiry {
    fn default() -> Self {
        Self::At(None)
    }
}

#[derive(Debug)]
pub(crate) struct Later {
    activity: Arc<Activity>,
    limit: Option<TryLimit>,
    deadline: Option<Instant>,
}

impl Expiry {
    #[inline]
    pub(crate) fn at(limit: Option<TryLimit>, deadline: Option<Instant>) -> Self {
        let own = limit.and_then(|limit| limit.ends(None));
        Self::At(own.into_iter().chain(deadline).min())
    }

    pub(crate) fn by(activity: &Arc<Activity>, limit: Option<TryLimit>, deadline: Option<Instant>) -> Self {
        Self::Later(Box::new(Later {
            activity: Arc::clone(activity),
            limit,
            deadline,
        }))
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let at = match self {
            Self::At(at) => *at,
            Self::Later(later) => {
                let own = later.limit.and_then(|limit| limit.ends(Some(&later.activity)));
                own.into_iter().chain(later.activity.ends()).chain(later.deadline).min()
            }
        };
        at.is_some_and(|at| now >= at)
    }

    /// Whether the request is not at its end: its peer may well say nothing yet.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Later(later) if later.activity.ended().is_none())
    }
}
