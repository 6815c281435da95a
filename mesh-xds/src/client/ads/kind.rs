//! What the protocol remembers of one type of resource.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least time between two refusals of one type: a control plane that answers each with the same bad resources would
/// otherwise be talked to at wire speed.
const REFUSAL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct TypeState {
    pub(super) names: BTreeMap<Arc<str>, Timer>,
    /// The last version that was accepted whole.
    pub(super) version: Arc<str>,
    /// Of the last response on this stream.
    pub(super) nonce: String,
    pub(super) reply: Option<Reply>,
    /// The names are not those of the last request.
    pub(super) changed: bool,
    /// A request went out on this stream.
    pub(super) asked: bool,
    pub(super) last_refusal: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Reply {
    Accept,
    Refuse(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Not asked for on this stream.
    Idle,
    /// Asked for; gone if unheard of by then.
    Until(Instant),
    /// Heard of.
    Done,
}

impl TypeState {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        if let Some(held) = self.held_until()
            && now < held
        {
            return false;
        }
        // An empty list as the first of a stream would ask for everything.
        self.reply.is_some() || (self.changed && self.asked) || (!self.asked && !self.names.is_empty())
    }

    /// Until when a refusal is held back.
    pub(super) fn held_until(&self) -> Option<Instant> {
        match self.reply {
            Some(Reply::Refuse(_)) => self.last_refusal.map(|last| last + REFUSAL_INTERVAL),
            Some(Reply::Accept) | None => None,
        }
    }
}
