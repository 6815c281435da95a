//! What became of the tries of a cluster's calls beyond their first, and of those that a breaker refused: counted where it is decided, for
//! whoever asks why retries do not help, or are not made.

use std::sync::atomic::{AtomicU64, Ordering};

use mesh_core::retry::Why;

/// What may become of a retry, in the order of [`Fate::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was begun.
    Begun,
    /// A call that was retried had a good answer in the end, by the head of that.
    Helped,
    /// There was none: every try that the policy gives was made.
    Exhausted,
    /// There was none: the budget, or the limit of retries in flight, had nothing left.
    OverBudget,
    /// There was none: the answer said so.
    Told,
    /// There was none: the request may have been processed, and is not to be processed twice.
    Unsafe,
}

impl Fate {
    pub(crate) const ALL: [Self; 6] = [
        Self::Begun,
        Self::Helped,
        Self::Exhausted,
        Self::OverBudget,
        Self::Told,
        Self::Unsafe,
    ];

    /// For a label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "retried",
            Self::Helped => "success",
            Self::Exhausted => "limit",
            Self::OverBudget => "budget",
            Self::Told => "told",
            Self::Unsafe => "unsafe",
        }
    }
}

/// The limits that a call meets, by Envoy's names; what has none of these is of the last.
const LIMITS: [&str; 4] = ["max_requests", "max_pending_requests", "max_connections", "other"];

/// The counts of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    retries: [AtomicU64; Fate::ALL.len()],
    refused: [AtomicU64; LIMITS.len()],
}

impl Fates {
    pub(super) fn count(&self, fate: Fate) {
        self.retries[fate as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// There is no other try, for this reason.
    pub(super) fn gave_up(&self, why: Why) {
        match why {
            Why::Exhausted => self.count(Fate::Exhausted),
            Why::OverBudget => self.count(Fate::OverBudget),
            Why::Told => self.count(Fate::Told),
            Why::Unsafe => self.count(Fate::Unsafe),
            // Most calls: there was nothing to be retried.
            Why::NotNamed => {}
        }
    }

    /// This limit refused a try.
    pub(super) fn refused(&self, limit: &str) {
        let index = LIMITS.iter().position(|known| *known == limit);
        self.refused[index.unwrap_or(LIMITS.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were of each.
    pub(crate) fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |fate: Fate| self.retries[fate as usize].load(Ordering::Relaxed);
        Fate::ALL.into_iter().map(move |fate| (fate.as_str(), count(fate)))
    }

    /// How many tries each limit refused.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refused.iter().map(|count| count.load(Ordering::Relaxed));
        LIMITS.into_iter().zip(counts)
    }
}
