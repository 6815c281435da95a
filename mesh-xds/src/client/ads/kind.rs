//! What the protocol remembers of one type of resource.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least time between two refusals of one type: a control plane that answers each with the same bad resources would
/// otherwise be talked to at wire speed.
const REFUSAL_INTERVAL: Duration = Duration::from_millis(100);

/// The most answers of one type that wait to be sent. While there are as many, nothing more is read.
const MAX_REPLIES: usize = 32;

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
    pub(super) last_refusal: Option<Instant>,
}

/// The answer to one response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(super) nonce: String,
    /// Set for a NACK: why.
    pub(super) refused: Option<String>,
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
        if let Some(held) = self.held_until()
            && now < held
        {
            return false;
        }
        // An empty list as the first of a stream would ask for everything.
        let has_first = self.everything || !self.names.is_empty();
        !self.replies.is_empty() || (self.changed && self.asked) || (!self.asked && has_first)
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
        let next = self.replies.front()?;
        next.refused
            .as_ref()
            .and(self.last_refusal)
            .map(|last| last + REFUSAL_INTERVAL)
    }

    /// Whether another answer would find room.
    pub(super) fn has_room(&self) -> bool {
        self.replies.len() < MAX_REPLIES
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
            last_refusal: None,
        }
    }
}
