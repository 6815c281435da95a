//! How often the CA is asked.
//!
//! Failures to prove an identity are counted by source: ten a minute is generous for a mistake and nothing for guessing. Only
//! who failed is held to that, since many workloads share an address, behind a NAT or on one host, and one that guesses must
//! not shut the CA for the others. A proof costs a hash and a look-up, so it is tried first.
//!
//! Who proved itself is bounded for the whole authority, since each answer costs a signature; joins and renewals apart, so
//! that a flood of joins lets no certificate expire.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures a source may have in a minute.
const FAILURES_PER_MINUTE: u32 = 10;
/// Joins, and likewise renewals, of all sources together in a minute: a few milliseconds of signing a second.
const REQUESTS_PER_MINUTE: u32 = 6_000;
/// Lines about refusals in a minute: more than are read, and less than fill a disk. What is beyond is counted.
const REFUSALS_TOLD_PER_MINUTE: u32 = 600;
/// Sources that are remembered at once. When there are more, the one that is nearest to being forgiven goes.
const MAX_SOURCES: usize = 4_096;

const MINUTE: Duration = Duration::from_secs(60);

/// The bounds and what is left of them.
#[derive(Debug)]
pub(super) struct Limiter {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    joins: Bucket,
    renewals: Bucket,
    failures: HashMap<IpAddr, Bucket>,
    told: Bucket,
}

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                joins: Bucket::full(REQUESTS_PER_MINUTE, now),
                renewals: Bucket::full(REQUESTS_PER_MINUTE, now),
                failures: HashMap::new(),
                told: Bucket::full(REFUSALS_TOLD_PER_MINUTE, now),
            }),
        }
    }

    /// Counts a request with a join token that was found good; `false` refuses it.
    pub(super) fn admits_join(&self, now: Instant) -> bool {
        self.state().joins.take(now)
    }

    /// Whether there is room in the log for one more refusal.
    pub(super) fn admits_line(&self, now: Instant) -> bool {
        self.state().told.take(now)
    }

    /// Counts a request with a certificate; `false` refuses it.
    pub(super) fn admits_renewal(&self, now: Instant) -> bool {
        self.state().renewals.take(now)
    }

    /// Counts a failure; `false`: the source had more than it may.
    pub(super) fn admits_failure(&self, source: IpAddr, now: Instant) -> bool {
        let mut state = self.state();
        let failures = &mut state.failures;
        if !failures.contains_key(&source) && failures.len() >= MAX_SOURCES {
            failures.retain(|_, bucket| bucket.left(now) < FAILURES_PER_MINUTE);
            if failures.len() >= MAX_SOURCES {
                let oldest = failures
                    .iter()
                    .min_by_key(|(_, bucket)| bucket.since)
                    .map(|(source, _)| *source);
                oldest.and_then(|source| failures.remove(&source));
            }
        }
        failures
            .entry(source)
            .or_insert_with(|| Bucket::full(FAILURES_PER_MINUTE, now))
            .take(now)
    }

    /// Whether a source has no failure left. It counts none.
    pub(super) fn has_failed_too_often(&self, source: IpAddr, now: Instant) -> bool {
        let mut state = self.state();
        state
            .failures
            .get_mut(&source)
            .is_some_and(|bucket| bucket.left(now) == 0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token bucket that is full after a minute of rest.
#[derive(Debug)]
struct Bucket {
    size: u32,
    left: u32,
    /// When `left` was last brought up to date.
    since: Instant,
}

impl Bucket {
    fn full(size: u32, now: Instant) -> Self {
        Self {
            size,
            left: size,
            since: now,
        }
    }

    fn left(&mut self, now: Instant) -> u32 {
        let each = MINUTE / self.size;
        let gained = now.saturating_duration_since(self.since).as_nanos() / each.as_nanos();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(gained).min(self.size);
        self.since = if self.left == self.size {
            now
        } else {
            self.since + each * gained
        };
        self.left
    }

    fn take(&mut self, now: Instant) -> bool {
        let some = self.left(now) > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_forgiven_one_by_one() {
        let start = Instant::now();
        let limiter = Limiter::new(start);
        let (source, other): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        for _ in 0..FAILURES_PER_MINUTE {
            assert!(limiter.admits_failure(source, start));
        }
        assert!(!limiter.admits_failure(source, start));
        assert!(limiter.admits_failure(other, start));
        let later = start + Duration::from_secs(6);
        assert!(limiter.admits_failure(source, later));
        assert!(!limiter.admits_failure(source, later));
        assert!(limiter.admits_failure(source, start + MINUTE));
    }

    #[test]
    fn refusals_are_told_so_many_times_a_minute() {
        let now = Instant::now();
        let limiter = Limiter::new(now);
        let told = (0..10 * REFUSALS_TOLD_PER_MINUTE).filter(|_| limiter.admits_line(now));
        assert_eq!(told.count(), REFUSALS_TOLD_PER_MINUTE as usize);
        assert!(limiter.admits_line(now + MINUTE));
    }

    #[test]
    fn joins_are_bounded_and_leave_renewals_alone() {
        let now = Instant::now();
        let limiter = Limiter::new(now);
        let joined = (0..2 * REQUESTS_PER_MINUTE)
            .filter(|_| limiter.admits_join(now))
            .count();
        let renewed = (0..2 * REQUESTS_PER_MINUTE)
            .filter(|_| limiter.admits_renewal(now))
            .count();
        assert_eq!(
            (joined, renewed),
            (REQUESTS_PER_MINUTE as usize, REQUESTS_PER_MINUTE as usize)
        );
    }

    #[test]
    fn failures_spend_nothing_of_the_others_and_no_memory_without_bound() {
        let now = Instant::now();
        let limiter = Limiter::new(now);
        for number in 0..2 * REQUESTS_PER_MINUTE {
            limiter.admits_failure(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(limiter.state().failures.len() <= MAX_SOURCES);
        assert!(limiter.admits_join(now) && limiter.admits_renewal(now));
    }
}
