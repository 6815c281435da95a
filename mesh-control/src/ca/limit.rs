//! How often the CA is asked.
//!
//! Two bounds. Failures to prove an identity are counted by source: ten a minute is generous for a mistake and nothing for
//! guessing. Everything together is bounded for the whole authority, since each answer costs a signature. Successes are not
//! counted by source: a host may start a hundred workloads at once, and they share its address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures a source may have in a minute.
const FAILURES_PER_MINUTE: u32 = 10;
/// Requests of all sources together in a minute: a few milliseconds of signing a second.
const REQUESTS_PER_MINUTE: u32 = 6_000;
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
    all: Bucket,
    failures: HashMap<IpAddr, Bucket>,
}

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                all: Bucket::full(REQUESTS_PER_MINUTE, now),
                failures: HashMap::new(),
            }),
        }
    }

    /// Counts a request; `false` refuses it.
    pub(super) fn admits(&self, source: IpAddr, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let forgiven = state
            .failures
            .get_mut(&source)
            .is_none_or(|bucket| bucket.left(now) > 0);
        forgiven && state.all.take(now)
    }

    /// Counts a failure.
    pub(super) fn failed(&self, source: IpAddr, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
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
            .take(now);
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
            assert!(limiter.admits(source, start));
            limiter.failed(source, start);
        }
        assert!(!limiter.admits(source, start));
        assert!(limiter.admits(other, start));
        let later = start + Duration::from_secs(6);
        assert!(limiter.admits(source, later));
        limiter.failed(source, later);
        assert!(!limiter.admits(source, later));
        assert!(limiter.admits(source, start + MINUTE));
    }

    #[test]
    fn everything_together_is_bounded_and_so_is_the_memory() {
        let now = Instant::now();
        let limiter = Limiter::new(now);
        for number in 0..2 * REQUESTS_PER_MINUTE {
            let source = IpAddr::from(number.to_be_bytes());
            assert_eq!(limiter.admits(source, now), number < REQUESTS_PER_MINUTE, "{number}");
            limiter.failed(source, now);
        }
        assert!(limiter.state.lock().unwrap().failures.len() <= MAX_SOURCES);
    }
}
