//! Whose each key is. A key that two workloads have tells one of them as the other: by mistake (an image with a key in it) or on
//! purpose, somebody else's key with a certificate of one's own. The second to come is refused.
//!
//! Kept in memory for as long as the certificate lasts: after a restart the first to come is believed again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mesh_core::identity::SpiffeId;

/// The most keys that are remembered. One that finds no room is not remembered, and signed all the same.
const MAX_KEYS: usize = 100_000;

/// The keys of certificates that have not ended, by the hash of their public halves.
#[derive(Debug, Default)]
pub(super) struct Keys(Mutex<HashMap<Box<str>, (SpiffeId, u64)>>);

impl Keys {
    /// Whether `id` may have the key: nobody else has it.
    pub(super) fn admits(&self, key_hash: &str, id: &SpiffeId, now: u64) -> bool {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(key_hash).is_none_or(|(owner, end)| owner == id || *end < now)
    }

    /// `id` has it until `end`.
    pub(super) fn remember(&self, key_hash: &str, id: &SpiffeId, end: u64, now: u64) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= MAX_KEYS {
            keys.retain(|_, (_, end)| *end >= now);
        }
        if keys.len() < MAX_KEYS {
            keys.insert(key_hash.into(), (id.clone(), end));
        }
    }
}
