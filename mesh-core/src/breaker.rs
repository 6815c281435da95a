//! Whether there is room for one more: the counts behind a cluster's circuit breakers (Envoy `circuit_breakers`, gRFC A32).
//!
//! Memory, and so outside of the snapshot: one set per cluster of a process, whatever is published meanwhile. A limit that is
//! lowered refuses what is new and ends nothing that runs. Whoever takes a place gives it back, which is the work of guards in
//! the data plane.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::RoutingPriority;

/// How many of something there are, up to a limit that is said each time.
///
/// ```
/// let breaker = mesh_core::breaker::Breaker::default();
/// assert!(breaker.take(1));
/// assert!(!breaker.take(1));
/// breaker.give_back();
/// assert_eq!((breaker.used(), breaker.remaining(1)), (0, 1));
/// ```
#[derive(Debug, Default)]
pub struct Breaker {
    used: AtomicU32,
}

impl Breaker {
    /// Takes a place; `false` when `max` are taken.
    ///
    /// One addition when there is room, which is the common case. At the limit it is taken and given back, so two callers who
    /// come in the same instant for the last place may both be refused; never are both let in.
    #[must_use = "a place that was taken must be given back"]
    pub fn take(&self, max: u32) -> bool {
        if self.used.fetch_add(1, Ordering::Relaxed) < max {
            return true;
        }
        self.give_back();
        false
    }

    /// Takes a place whatever the limit.
    pub fn take_over_limit(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a place back.
    pub fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many places are taken.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// How many are left.
    pub fn remaining(&self, max: u32) -> u32 {
        max.saturating_sub(self.used())
    }
}

/// What a cluster's calls of one priority use.
#[derive(Debug, Default)]
pub struct Breakers {
    /// Connections, and those being made.
    pub connections: Breaker,
    /// Calls that wait for a connection.
    pub pending_requests: Breaker,
    /// Calls in flight.
    pub requests: Breaker,
}

/// What a cluster uses, by priority.
#[derive(Debug, Default)]
pub struct ClusterBreakers {
    default: Breakers,
    high: Breakers,
}

impl ClusterBreakers {
    /// The counts of one priority.
    pub fn of(&self, priority: RoutingPriority) -> &Breakers {
        match priority {
            RoutingPriority::Default => &self.default,
            RoutingPriority::High => &self.high,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_lowered_limit_refuses_what_is_new_and_ends_nothing() {
        let breaker = Breaker::default();
        assert!((0..5).all(|_| breaker.take(5)));
        assert!(!breaker.take(2));
        assert_eq!((breaker.used(), breaker.remaining(2), breaker.remaining(9)), (5, 0, 4));
        (0..4).for_each(|_| breaker.give_back());
        assert!(breaker.take(2) && !breaker.take(2) && !breaker.take(0));
    }

    proptest! {
        /// Against a plain number, for any order of what can happen.
        #[test]
        fn it_counts_as_a_number_does(steps in prop::collection::vec((0u8..4, 0u32..6), 0..200)) {
            let (breaker, mut used) = (Breaker::default(), 0u32);
            for (step, max) in steps {
                match step {
                    0 | 1 => {
                        prop_assert_eq!(breaker.take(max), used < max);
                        used += u32::from(used < max);
                    }
                    2 if used > 0 => {
                        breaker.give_back();
                        used -= 1;
                    }
                    3 => {
                        breaker.take_over_limit();
                        used += 1;
                    }
                    _ => {}
                }
                prop_assert_eq!((breaker.used(), breaker.remaining(max)), (used, max.saturating_sub(used)));
            }
        }
    }
}
