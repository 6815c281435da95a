//! Counts of rare events. One map under one lock: what it counts is rare, and its keys are bounded by the program's text.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts of rare events, by event and reason. Both are static words, which is what bounds the number of entries; nothing
/// that a peer sends can become a label. Clones share the counts.
///
/// ```
/// let tally = mesh_core::report::Tally::default();
/// tally.count("handshake_refused", "expired");
/// assert_eq!(tally.get("handshake_refused", "expired"), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Arc<Mutex<BTreeMap<(&'static str, &'static str), u64>>>,
}

impl Tally {
    /// Adds one.
    pub fn count(&self, event: &'static str, reason: &'static str) {
        *self.lock().entry((event, reason)).or_default() += 1;
    }

    /// How often `event` happened for `reason`.
    pub fn get(&self, event: &'static str, reason: &'static str) -> u64 {
        self.lock().get(&(event, reason)).copied().unwrap_or_default()
    }

    /// How often `event` happened, for whatever reason.
    pub fn total(&self, event: &'static str) -> u64 {
        self.lock()
            .iter()
            .filter(|((name, _), _)| *name == event)
            .map(|(_, count)| count)
            .sum()
    }

    /// Every count, in order of event and reason.
    pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.lock()
            .iter()
            .map(|((event, reason), count)| (*event, *reason, *count))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(&'static str, &'static str), u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
