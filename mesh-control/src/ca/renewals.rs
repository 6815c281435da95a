//! Which certificates have been renewed, and with what key.
//!
//! A workload renews each of its certificates once, and asks again with the same key when the answer was lost. One that is renewed
//! with two keys is at two places: the process it was made for has lost it, or restarted at that very moment. Nobody is refused
//! for it, since which of the two is the owner cannot be told; whoever reads the log is told.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The most certificates that are remembered. One that finds no room is not, and a copy of it goes unnoticed.
const MAX_CERTIFICATES: usize = 100_000;
/// How long one is remembered in seconds after it was renewed: no certificate of ours lasts longer.
const MEMORY_S: u64 = super::MAX_LEAF_LIFETIME.as_secs();

/// Certificates by their hashes.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<HashMap<[u8; 32], Renewed>>);

/// The hash of the first key that one was renewed with, and when that is forgotten.
type Renewed = (Box<str>, u64);

impl Renewals {
    /// Remembers a renewal; `true`: that certificate was renewed with another key before.
    pub(super) fn is_second(&self, certificate: [u8; 32], key_hash: &str, now: u64) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, _)) = all.get(&certificate) {
            return **key != *key_hash;
        }
        if all.len() >= MAX_CERTIFICATES {
            all.retain(|_, (_, end)| *end >= now);
        }
        if all.len() < MAX_CERTIFICATES {
            all.insert(certificate, (key_hash.into(), now + MEMORY_S));
        }
        false
    }
}
