//! A new host gets its share bit by bit (Envoy `slow_start_config`, Istio `warmup`).
//!
//! A process that has just begun fills caches and compiles; all of its share at once would make its first callers wait. So its
//! weight grows with its age: which hosts are young is kept here, what that makes of their weights is told, and the pickers see
//! nothing but weights.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::SlowStart;

/// The hosts of a cluster that have not their full share yet. Empty, and at no cost, where nothing is configured.
#[derive(Debug, Default)]
pub struct Warming {
    since: HashMap<SocketAddr, Instant>,
    /// Those that may not be called: they begin anew when they return.
    out: HashSet<SocketAddr>,
}

/// How many steps the window is cut into: weights are taken over that often.
const STEPS: u32 = 20;
/// The least time between two of them.
const MIN_STEP: Duration = Duration::from_millis(200);

impl Warming {
    /// Takes over the hosts there are: `(address, is new, is out)` of each. Those that are new, or were out, begin now.
    pub fn reconcile(&mut self, hosts: impl Iterator<Item = (SocketAddr, bool, bool)>, now: Instant) {
        let before = std::mem::take(self);
        for (address, is_new, is_out) in hosts {
            if is_out {
                self.out.insert(address);
            } else if is_new || before.out.contains(&address) {
                self.since.insert(address, now);
            } else if let Some(since) = before.since.get(&address) {
                self.since.insert(address, *since);
            }
        }
    }

    /// Percent of its weight that a host has now.
    pub fn percent(&self, config: &SlowStart, address: SocketAddr, now: Instant) -> u32 {
        match self.since.get(&address) {
            None => 100,
            Some(since) => percent(config, now.saturating_duration_since(*since)),
        }
    }

    /// Lets go of those that have their full share; when weights are to be taken over again, if ever.
    pub fn tick(&mut self, config: &SlowStart, now: Instant) -> Option<Instant> {
        self.since
            .retain(|_, since| now.saturating_duration_since(*since) < config.window);
        (!self.since.is_empty()).then(|| now + (config.window / STEPS).max(MIN_STEP))
    }
}

/// Envoy's formula: the part of the window that is over, and a second of it at once, to the power of 1 / aggression.
fn percent(config: &SlowStart, age: Duration) -> u32 {
    if age >= config.window {
        return 100;
    }
    let part = age.as_secs_f64().max(1.0) / config.window.as_secs_f64();
    let grown = part.powf(1000.0 / f64::from(config.aggression_per_mille.max(1)));
    ((grown * 100.0) as u32).clamp(config.min_weight.get().max(1), 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Percent;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// Envoy's documentation: a window of a minute, aggression 1.0, no weight below a tenth.
    #[test]
    fn a_share_grows_with_age() {
        let linear = SlowStart::new(Duration::from_secs(60));
        let at_age = |config: &SlowStart, seconds| percent(config, Duration::from_secs(seconds));
        for (seconds, expected) in [
            (0, 10),
            (5, 10),
            (6, 10),
            (15, 25),
            (30, 50),
            (45, 75),
            (59, 98),
            (60, 100),
            (600, 100),
        ] {
            assert_eq!(at_age(&linear, seconds), expected, "{seconds} s");
        }
        // Faster at first with more aggression, slower with less.
        let with = |aggression_per_mille| SlowStart {
            aggression_per_mille,
            min_weight: Percent::ZERO,
            ..linear
        };
        assert_eq!(at_age(&with(2_000), 15), 50);
        assert_eq!(at_age(&with(500), 30), 25);
        // A second counts at once; and nobody has nothing.
        assert_eq!([0, 1].map(|seconds| at_age(&with(1_000), seconds)), [1, 1]);
        assert_eq!(at_age(&with(100), 1), 1);
        // A window of less than a second is over with its first.
        assert_eq!(
            percent(&SlowStart::new(Duration::from_millis(500)), Duration::ZERO),
            100
        );
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
    fn who_is_new_or_returns_begins_anew() {
        let config = SlowStart::new(Duration::from_secs(10));
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let mut warming = Warming::default();
        let shares = |warming: &Warming, now| [1, 2, 3].map(|port| warming.percent(&config, at(port), now));
        warming.reconcile(
            [(at(1), false, false), (at(2), true, false), (at(3), false, true)].into_iter(),
            second(0),
        );
        assert_eq!(shares(&warming, second(5)), [100, 50, 100]);
        // 3 returns; 2 goes on; an update restarts nobody.
        warming.reconcile([1, 2, 3].map(|port| (at(port), false, false)).into_iter(), second(5));
        assert_eq!(shares(&warming, second(8)), [100, 80, 30]);
        assert_eq!(
            warming.tick(&config, second(8)),
            Some(second(8) + Duration::from_millis(500))
        );
        assert!(warming.tick(&config, second(14)).is_some());
        assert_eq!(warming.tick(&config, second(15)), None);
        assert_eq!(shares(&warming, second(15)), [100, 100, 100]);
        // Who leaves is forgotten.
        warming.reconcile([(at(1), true, false)].into_iter(), second(20));
        warming.reconcile(std::iter::empty(), second(21));
        assert_eq!(warming.tick(&config, second(21)), None);
    }
}
