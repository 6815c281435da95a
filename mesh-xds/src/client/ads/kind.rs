//! What the protocol remembers of one type of resource.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::backoff;

/// The most answers of one type that accept and wait to be sent. There are as many only where the control plane does not read
/// what it is sent; nothing more is read of it then, and nothing is given up on.
const MAX_ACCEPTANCES: usize = 32;

/// The most answers of one type that refuse and wait. The oldest gives way to the newest, which is the one that control planes
/// look at: that something is refused must not keep anything else from being heard.
const MAX_REFUSALS: usize = 32;

#[derive(Debug)]
pub(crate) struct TypeState<M> {
    /// The names that are looked at; those that are said, unless everything is asked for.
    pub(super) names: BTreeMap<Arc<str>, Timer>,
    /// All there is of this type is asked for.
    pub(super) everything: bool,
    /// When resources that have a time to live end. It runs on while there is no stream.
    pub(super) lives: BTreeMap<Arc<str>, Instant>,
    /// How many names are given up at which moment.
    pub(super) waits: Waits,
    /// Some name may not have been asked for on this stream.
    pub(super) has_idle: bool,
    /// What only one variant of the protocol remembers.
    pub(super) memory: M,
    /// Answers that are to be sent, the oldest first.
    pub(super) replies: VecDeque<Reply>,
    /// The names are not those of the last request.
    pub(super) changed: bool,
    /// A request went out on this stream.
    pub(super) asked: bool,
    pub(super) pace: Pace,
}

/// When the next refusal of one type may be sent. A control plane that answers each with the same bad resources would
/// otherwise be talked to at wire speed: so the first goes at once, and those that follow it as far apart as attempts at a
/// stream that fails, until something good comes. It outlives streams.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// After the last refusal.
    next: Option<Instant>,
    /// From the last refusal until then. Zero before the first.
    pause: Duration,
    /// How many of those that waited go with the last one: where each response is answered by itself, all that wait go
    /// together.
    at_once: usize,
}

impl Pace {
    fn holds(&self, now: Instant) -> bool {
        self.at_once == 0 && self.next.is_some_and(|next| now < next)
    }

    /// A refusal goes out, and so many more wait.
    fn refused(&mut self, now: Instant, more: usize) {
        if let Some(left) = self.at_once.checked_sub(1) {
            self.at_once = left;
            return;
        }
        self.at_once = more;
        self.pause = match self.pause {
            Duration::ZERO => backoff::FIRST,
            pause => backoff::grown(pause),
        };
        self.next = now.checked_add(self.pause);
    }

    /// Something good came. What is bad after it is held no longer than after a first refusal, and no less: good and bad may
    /// take turns.
    pub(super) fn accepted(&mut self) {
        let last = self.next.and_then(|next| next.checked_sub(self.pause));
        self.next = last.map(|last| last + self.pause.min(backoff::FIRST));
        self.pause = Duration::ZERO;
    }
}

/// The answer to one response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(super) nonce: String,
    /// Set for a NACK: why.
    pub(super) refused: Option<String>,
    /// The names that it refuses.
    pub(super) names: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Not asked for on this stream.
    Idle,
    /// Asked for; gone if unheard of by then.
    Until(Instant),
    /// Heard of.
    Done,
}

/// How many names are waited for until when, so that the first moment is known without a look at each name: there may be tens
/// of thousands, and every event asks.
#[derive(Debug, Default)]
pub(crate) struct Waits(BTreeMap<Instant, usize>);

impl Waits {
    fn begin(&mut self, until: Instant) {
        *self.0.entry(until).or_default() += 1;
    }

    fn end(&mut self, until: Instant) {
        if let Entry::Occupied(mut waiting) = self.0.entry(until) {
            *waiting.get_mut() -= 1;
            if *waiting.get() == 0 {
                waiting.remove();
            }
        }
    }

    /// Puts all moments off.
    fn put_off(&mut self, by: Duration) {
        let all = std::mem::take(&mut self.0).into_iter();
        self.0 = all.map(|(until, count)| (until + by, count)).collect();
    }

    fn first(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(until, _)| *until)
    }

    /// Ends the wait for a name, if there is one.
    pub(super) fn is_over(&mut self, timer: &mut Timer) {
        if let Some(until) = timer.until() {
            self.end(until);
        }
        *timer = Timer::Done;
    }
}

impl Timer {
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Until(at) => Some(*at),
            Self::Idle | Self::Done => None,
        }
    }
}

impl<M> TypeState<M> {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        // An empty list as the first of a stream would ask for everything.
        let has_first = self.everything || !self.names.is_empty();
        self.ready(now).is_some() || (self.changed && self.asked) || (!self.asked && has_first)
    }

    /// Takes in the answer to the newest response. `each` says whether those before it are to be answered too.
    pub(super) fn answer(&mut self, reply: Reply, each: bool) {
        if !each {
            self.replies.clear();
        }
        if reply.refused.is_none() {
            self.pace.accepted();
        } else if self.refusals() == MAX_REFUSALS {
            let oldest = self.replies.iter().position(|reply| reply.refused.is_some());
            oldest.and_then(|place| self.replies.remove(place));
        }
        self.replies.push_back(reply);
        self.pace.at_once = self.pace.at_once.min(self.refusals());
    }

    /// The names that are refused by answers that were not sent.
    pub(super) fn unsaid(&self) -> impl Iterator<Item = &Arc<str>> {
        self.replies.iter().flat_map(|reply| &reply.names)
    }

    /// The next answer. One that is held back goes with other news if it must: without it, that would be taken for consent.
    pub(super) fn next_reply(&mut self, now: Instant, must: bool) -> Option<Reply> {
        let held = || (must && !self.replies.is_empty()).then_some(0);
        let place = self.ready(now).or_else(held)?;
        let reply = self.replies.remove(place)?;
        if reply.refused.is_some() {
            self.pace.refused(now, self.refusals());
        }
        Some(reply)
    }

    /// The place of the first answer that may go. Those that accept never wait for those that refuse.
    fn ready(&self, now: Instant) -> Option<usize> {
        let mut replies = self.replies.iter();
        replies.position(|reply| reply.refused.is_none() || !self.pace.holds(now))
    }

    fn refusals(&self) -> usize {
        self.replies.iter().filter(|reply| reply.refused.is_some()).count()
    }

    /// The names that are said.
    pub(super) fn said(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.keys().filter(|_| !self.everything)
    }

    /// A request with all names goes out: those that were not asked for are waited for until then.
    pub(super) fn ask(&mut self, until: Instant) {
        self.asked = true;
        // What everything does not hold is not there; nothing is waited for by name.
        if self.everything {
            return;
        }
        // Most requests are answers and say no new name.
        if !std::mem::take(&mut self.has_idle) {
            return;
        }
        for timer in self.names.values_mut().filter(|timer| **timer == Timer::Idle) {
            *timer = Timer::Until(until);
            self.waits.begin(until);
        }
    }

    /// When the first name is given up.
    pub(super) fn first_to_give_up(&self) -> Option<Instant> {
        self.waits.first()
    }

    /// The names that were waited for until now.
    pub(super) fn gave_up(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        if self.waits.first().is_none_or(|first| now < first) {
            return names;
        }
        for (name, timer) in &mut self.names {
            if let Some(until) = timer.until().filter(|until| *until <= now) {
                *timer = Timer::Done;
                self.waits.end(until);
                names.push(Arc::clone(name));
            }
        }
        names
    }

    /// What was waited for until now is waited for until then.
    pub(super) fn wait_again(&mut self, now: Instant, until: Instant) {
        for name in self.gave_up(now) {
            self.names.insert(name, Timer::Until(until));
            self.waits.begin(until);
        }
    }

    /// When the first resource that has a time to live ends.
    pub(super) fn first_to_end(&self) -> Option<Instant> {
        self.lives.values().min().copied()
    }

    /// The resources whose time to live is over.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<Arc<str>> {
        let over = self.lives.iter().filter(|(_, end)| **end <= now);
        let over: Vec<Arc<str>> = over.map(|(name, _)| Arc::clone(name)).collect();
        for name in &over {
            self.lives.remove(name);
        }
        over
    }

    /// The stream ended, and its nonces and timers with it.
    pub(super) fn stream_closed(&mut self) {
        self.replies.clear();
        self.pace.at_once = 0;
        self.asked = false;
        self.waits = Waits::default();
        self.has_idle = true;
        for timer in self.names.values_mut() {
            if timer.until().is_some() {
                *timer = Timer::Idle;
            }
        }
    }

    /// Until when a refusal is held back.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let waits = self.replies.iter().any(|reply| reply.refused.is_some());
        self.pace.next.filter(|_| waits && self.pace.at_once == 0)
    }

    /// Nothing was read for so long: what is waited for may have come.
    pub(super) fn put_off(&mut self, by: Duration) {
        self.waits.put_off(by);
        for timer in self.names.values_mut() {
            if let Timer::Until(until) = timer {
                *until += by;
            }
        }
    }

    /// Whether another answer would find room.
    pub(super) fn has_room(&self) -> bool {
        self.replies.len() - self.refusals() < MAX_ACCEPTANCES
    }
}

impl<M: Default> Default for TypeState<M> {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            everything: false,
            lives: BTreeMap::new(),
            waits: Waits::default(),
            has_idle: false,
            memory: M::default(),
            replies: VecDeque::new(),
            changed: false,
            asked: false,
            pace: Pace::default(),
        }
    }
}
