//! Signatures that were found good, so that a token that comes with every request of a caller costs one check and not one each (Envoy
//! `jwt_cache_config`).
//!
//! What is remembered is that this very token, to the last byte, was signed by this very key; nothing that follows from it. Its times, its
//! audience and its issuer are judged each time, and so is whether the key is one that is believed: keys that a configuration no longer
//! has are not found among those that it has, so nothing needs to be told when they change, and what stayed is still known. A token that
//! was found bad is not remembered: that would be room for strangers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::config::Jwk;

/// The most tokens that are remembered (Envoy's default is 100 of each provider). Of more, the one that was seen last the longest ago goes.
const MAX_REMEMBERED: usize = 2048;
/// Callers meet at a lock only when their tokens are in one part.
const SHARDS: usize = 16;

type Digest = [u8; 32];

/// Remembers whose signatures were good. It outlives configurations; one for each server is enough.
#[derive(Debug, Default)]
pub struct TokenCache {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    /// Counts what is asked of it, for the age of what it has.
    asked: u64,
    known: HashMap<Digest, Known>,
}

#[derive(Debug)]
struct Known {
    key: Jwk,
    /// When the token ends, in seconds since the Unix epoch.
    ends: u64,
    seen: u64,
}

/// How the signatures of one request are checked.
#[derive(Debug, Default)]
pub struct Checks<'c> {
    cache: Option<&'c TokenCache>,
    made: usize,
}

impl TokenCache {
    /// Checks for one request, by what is remembered.
    pub fn checks(&self) -> Checks<'_> {
        Checks {
            cache: Some(self),
            made: 0,
        }
    }

    fn shard<T>(&self, digest: &Digest, then: impl FnOnce(&mut Shard) -> T) -> T {
        let shard = &self.shards[usize::from(digest[0]) % SHARDS];
        then(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Checks<'_> {
    /// How many signatures were looked at with a key.
    pub fn made(&self) -> usize {
        self.made
    }

    /// Whether `token` is known to be signed by one of those keys that `is_believed` says yes to.
    pub(super) fn knows(&self, token: &Fingerprint, is_believed: impl FnOnce(&Jwk) -> bool) -> bool {
        let (Some(cache), Fingerprint(Some(digest))) = (self.cache, token) else {
            return false;
        };
        cache.shard(digest, |shard| {
            shard.asked += 1;
            let (asked, known) = (shard.asked, shard.known.get_mut(digest));
            known.is_some_and(|known| {
                known.seen = asked;
                is_believed(&known.key)
            })
        })
    }

    /// What a token is known by.
    pub(super) fn fingerprint(&self, token: &str) -> Fingerprint {
        let digest = self.cache.map(|_| digest(&SHA256, token.as_bytes()));
        Fingerprint(digest.and_then(|digest| digest.as_ref().try_into().ok()))
    }

    /// Counts a signature that is looked at.
    pub(super) fn count(&mut self) {
        self.made += 1;
    }

    /// `key` signed the token, which ends then.
    pub(super) fn remember(&self, token: &Fingerprint, key: &Jwk, ends: u64, now: u64) {
        let (Some(cache), Fingerprint(Some(digest))) = (self.cache, token) else {
            return;
        };
        cache.shard(digest, |shard| {
            if shard.known.len() >= MAX_REMEMBERED / SHARDS && !shard.known.contains_key(digest) {
                shard.make_room(now);
            }
            let (key, seen) = (key.clone(), shard.asked);
            shard.known.insert(*digest, Known { key, ends, seen });
        });
    }
}

/// What a token is known by; nothing where nothing is remembered.
#[derive(Debug)]
pub(super) struct Fingerprint(Option<Digest>);

impl Shard {
    fn make_room(&mut self, now: u64) {
        self.known.retain(|_, known| now < known.ends);
        if self.known.len() >= MAX_REMEMBERED / SHARDS {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.seen);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Jwks;
    use crate::testing::TestIssuer;

    #[test]
    fn no_more_is_remembered_than_there_is_room_for_and_what_is_used_stays() {
        let cache = TokenCache::default();
        let keys = Jwks::parse(&TestIssuer::new("k").jwks()).unwrap();
        let (key, checks) = (&keys.keys()[0], cache.checks());
        let remembered = || -> usize { cache.shards.iter().map(|shard| shard.lock().unwrap().known.len()).sum() };
        let known = |text: &str| checks.knows(&checks.fingerprint(text), |_| true);
        let remember = |text: &str, ends, now| checks.remember(&checks.fingerprint(text), key, ends, now);
        remember("used", 1_000, 0);
        for number in 0..4 * MAX_REMEMBERED {
            remember(&number.to_string(), 100, 0);
            assert!(known("used"));
        }
        assert_eq!(remembered(), MAX_REMEMBERED);
        // Those that have ended go first, and all of them.
        for number in 0..SHARDS * 32 {
            remember(&format!("later {number}"), 1_000, 100);
        }
        assert!(remembered() < MAX_REMEMBERED / 2 && known("used"));
    }
}
