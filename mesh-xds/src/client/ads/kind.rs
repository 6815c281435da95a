//! What the protocol remembers of one type of resource.

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
    pub(super) names: BTreeMap<Arc<str>, Timer>,
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

impl<M> TypeState<M> {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        if let Some(held) = self.held_until()
            && now < held
        {
            return false;
        }
        // An empty list as the first of a stream would ask for everything.
        !self.replies.is_empty() || (self.changed && self.asked) || (!self.asked && !self.names.is_empty())
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
            memory: M::default(),
            replies: VecDeque::new(),
            changed: false,
            asked: false,
            last_refusal: None,
        }
    }
}
