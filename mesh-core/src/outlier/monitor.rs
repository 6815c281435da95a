//! What is counted of one host, from every call made to it.
//!
//! Successes are the common case and cost one addition and two loads. Halves of one word hold what is read together, so that
//! an interval's successes and failures are taken in one swap and no call falls between two intervals.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::{Cause, Observation};
use crate::config::OutlierDetection;

/// A host under observation. Shared by whoever calls it and by the detector of its cluster.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Answers of this interval; see [`Tallied`].
    answers: AtomicU64,
    /// The same, of answers at all; counted only where origins are counted apart.
    local: AtomicU64,
    /// Failed answers in a row: gateway failures in the upper half, all of 5xx in the lower.
    in_a_row: AtomicU64,
    /// Missing answers in a row.
    local_in_a_row: AtomicU32,
    flags: AtomicU8,
}

/// One success in the word of an interval, whose upper half holds the failures. Four thousand million of either in an interval
/// would wrap, which no host serves.
const SUCCESS: u64 = 1;
const FAILURE: u64 = 1 << 32;

const EJECTED: u8 = 1;
const SPLIT: u8 = 2;

/// What a host did in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tallied {
    pub(super) successes: u32,
    pub(super) failures: u32,
}

impl Monitor {
    /// Whether the host is out of service.
    pub fn is_ejected(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & EJECTED != 0
    }

    /// Counts a success.
    pub fn succeeded(&self) {
        self.answers.fetch_add(SUCCESS, Ordering::Relaxed);
        // Read first: in good times nothing is written that another core reads.
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        self.answered();
    }

    /// Counts what a try tells. `true`: failures in a row reached their count, and the detector is to be asked
    /// ([`OutlierDetector::suspect`](super::OutlierDetector::suspect)). Until it was, every further failure says so again.
    #[must_use = "the detector is to be asked"]
    pub fn observe(&self, observation: Observation, config: &OutlierDetection) -> bool {
        match observation {
            Observation::Success => {
                self.succeeded();
                return false;
            }
            Observation::LocalOriginFailure if self.is_split() => {
                self.local.fetch_add(FAILURE, Ordering::Relaxed);
                add_one(&self.local_in_a_row);
            }
            Observation::LocalOriginFailure => self.failed(true),
            Observation::GatewayFailure | Observation::ServerError => {
                self.failed(observation == Observation::GatewayFailure);
                self.answered();
            }
        }
        self.reached(config).next().is_some()
    }

    fn is_split(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & SPLIT != 0
    }

    /// There was an answer, whatever it said.
    fn answered(&self) {
        if self.is_split() {
            self.local.fetch_add(SUCCESS, Ordering::Relaxed);
            self.local_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    fn failed(&self, gateway: bool) {
        self.answers.fetch_add(FAILURE, Ordering::Relaxed);
        let more = |word: u64| {
            let (gateways, all) = halves(word);
            // An answer of another 5xx ends a row of gateway failures, as a success does.
            let gateways = if gateway { gateways.saturating_add(1) } else { 0 };
            Some(u64::from(gateways) << 32 | u64::from(all.saturating_add(1)))
        };
        // It never gives up: `more` always has a value.
        let _ = self.in_a_row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Which counts in a row are reached, in the order they are acted on (Envoy: gateway failures first).
    pub(super) fn reached(&self, config: &OutlierDetection) -> impl Iterator<Item = Cause> {
        let (gateways, all) = halves(self.in_a_row.load(Ordering::Relaxed));
        let local = self.local_in_a_row.load(Ordering::Relaxed);
        let counts = [
            (
                gateways,
                config.consecutive_gateway_failure.count,
                Cause::ConsecutiveGatewayFailure,
            ),
            (all, config.consecutive_5xx.count, Cause::Consecutive5xx),
            (
                local,
                config.consecutive_local_origin_failure.count,
                Cause::ConsecutiveLocalOriginFailure,
            ),
        ];
        let reached = |(count, limit, cause)| (limit > 0 && count >= limit).then_some(cause);
        counts.into_iter().filter_map(reached)
    }

    /// A count in a row was acted on: it begins anew, so that a host that was not ejected is suspected again in time.
    pub(super) fn restart(&self, cause: Cause) {
        match cause {
            Cause::Consecutive5xx => {
                self.in_a_row.fetch_and(u64::from(u32::MAX) << 32, Ordering::Relaxed);
            }
            Cause::ConsecutiveGatewayFailure => {
                self.in_a_row.fetch_and(u64::from(u32::MAX), Ordering::Relaxed);
            }
            _ => self.local_in_a_row.store(0, Ordering::Relaxed),
        }
    }

    pub(super) fn eject(&self) {
        self.flags.fetch_or(EJECTED, Ordering::Relaxed);
    }

    /// Back in service, with nothing held against it.
    pub(super) fn pardon(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
        self.local_in_a_row.store(0, Ordering::Relaxed);
        self.flags.fetch_and(!EJECTED, Ordering::Relaxed);
    }

    pub(super) fn split(&self, apart: bool) {
        match apart {
            true => self.flags.fetch_or(SPLIT, Ordering::Relaxed),
            false => self.flags.fetch_and(!SPLIT, Ordering::Relaxed),
        };
    }

    /// The interval that ends here: its answers, and its answers at all.
    pub(super) fn take(&self) -> [Tallied; 2] {
        let take = |word: &AtomicU64| {
            let (failures, successes) = halves(word.swap(0, Ordering::Relaxed));
            Tallied { successes, failures }
        };
        [take(&self.answers), take(&self.local)]
    }
}

fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

fn add_one(count: &AtomicU32) {
    // It never gives up: the closure always has a value.
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_add(1)));
}
