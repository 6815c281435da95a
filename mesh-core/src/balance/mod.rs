//! Which endpoint. A picker is an enum, a closed set, so that a pick is a jump and not a call through a pointer.
//!
//! It works on indices into the hosts it was made for, through [`Load`]: this crate never sees a connection. A picker and
//! its hosts are swapped together. A pick never waits and never walks all hosts: in a large cluster it looks at a handful.

mod drop;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::LbPolicy;
use crate::entropy::Draw;

pub use drop::dropped;

/// What a picker may ask of a host.
pub trait Load {
    /// Calls in flight.
    fn in_flight(&self) -> u32;

    /// Whether it can be called now: not while its last connect failed and its backoff runs.
    fn is_available(&self) -> bool;

    /// Its share, at least 1.
    fn weight(&self) -> u32;
}

/// Hosts are shared with the calls made to them.
impl<T: Load> Load for std::sync::Arc<T> {
    fn in_flight(&self) -> u32 {
        T::in_flight(self)
    }

    fn is_available(&self) -> bool {
        T::is_available(self)
    }

    fn weight(&self) -> u32 {
        T::weight(self)
    }
}

/// How often a pick looks for another host when the one it drew is unavailable or was tried already. Istio's
/// `host_selection_retry_max_attempts`.
const MAX_REDRAWS: usize = 5;

/// Chooses among hosts. Immutable but for the rotation's counter.
#[derive(Debug)]
pub enum Picker {
    /// The fewest calls in flight per weight, of `choices` random hosts.
    LeastRequest {
        /// How many are compared.
        choices: u32,
    },
    /// Each in turn.
    RoundRobin {
        /// The next turn.
        next: AtomicUsize,
    },
    /// Any.
    Random,
}

impl Picker {
    /// A picker for `policy`. A rotation begins at a random place, or all clients would begin at the same host.
    pub fn new(policy: LbPolicy, draw: &mut Draw) -> Self {
        match policy {
            LbPolicy::LeastRequest { choices } => Self::LeastRequest {
                choices: choices.clamp(2, 10),
            },
            LbPolicy::RoundRobin => Self::RoundRobin {
                next: AtomicUsize::new(draw.next() as usize >> 1),
            },
            LbPolicy::Random => Self::Random,
        }
    }

    /// The index of the host to call; `None` when there is none at all.
    ///
    /// Hosts that are unavailable or that this call `tried` are avoided as far as a few more draws can; when every draw finds such a one,
    /// it is returned all the same: calling a doubtful host beats failing without a try (Envoy: previous-hosts predicate
    /// gives up after its attempts).
    pub fn pick<L: Load>(&self, hosts: &[L], tried: impl Fn(&L) -> bool, draw: &mut Draw) -> Option<usize> {
        match hosts.len() {
            0 => return None,
            1 => return Some(0),
            _ => {}
        }
        let good = |index: usize| hosts[index].is_available() && !tried(&hosts[index]);
        let mut last = 0;
        for _ in 0..=MAX_REDRAWS {
            last = self.candidate(hosts, &good, draw);
            if good(last) {
                return Some(last);
            }
        }
        // Unlucky, or all bad: walk on from the last draw, so that one good host of a few is found for certain.
        let walk = (1..hosts.len().min(MAX_WALK)).map(|step| (last + step) % hosts.len());
        Some(walk.into_iter().find(|index| good(*index)).unwrap_or(last))
    }

    fn candidate<L: Load>(&self, hosts: &[L], good: &impl Fn(usize) -> bool, draw: &mut Draw) -> usize {
        let any = |draw: &mut Draw| draw.below(hosts.len() as u64) as usize;
        match self {
            Self::LeastRequest { choices } => {
                let mut best = any(draw);
                for _ in 1..*choices {
                    let other = any(draw);
                    let better = match (good(best), good(other)) {
                        (true, false) => false,
                        (false, true) => true,
                        _ => lighter(&hosts[other], &hosts[best]),
                    };
                    if better {
                        best = other;
                    }
                }
                best
            }
            Self::RoundRobin { next } => next.fetch_add(1, Ordering::Relaxed) % hosts.len(),
            Self::Random => any(draw),
        }
    }
}

/// The longest walk after unlucky draws: small clusters are searched wholly, large ones never.
const MAX_WALK: usize = 32;

/// Whether `a` has fewer calls in flight per weight than `b`: cross-multiplied, so that no division is needed. The call to
/// come is counted, or hosts without calls would tie whatever their weights.
fn lighter<L: Load>(a: &L, b: &L) -> bool {
    u64::from(a.in_flight() + 1) * u64::from(b.weight()) < u64::from(b.in_flight() + 1) * u64::from(a.weight())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;

    struct Host {
        in_flight: u32,
        available: bool,
        weight: u32,
    }

    impl Load for Host {
        fn in_flight(&self) -> u32 {
            self.in_flight
        }

        fn is_available(&self) -> bool {
            self.available
        }

        fn weight(&self) -> u32 {
            self.weight
        }
    }

    fn hosts(in_flight: &[u32]) -> Vec<Host> {
        in_flight
            .iter()
            .map(|n| Host {
                in_flight: *n,
                available: true,
                weight: 1,
            })
            .collect()
    }

    fn shares(policy: LbPolicy, hosts: &[Host], picks: usize) -> Vec<usize> {
        let entropy = Entropy::seeded(11);
        let picker = Picker::new(policy, &mut entropy.draw());
        let mut shares = vec![0; hosts.len()];
        for _ in 0..picks {
            shares[picker.pick(hosts, |_| false, &mut entropy.draw()).unwrap()] += 1;
        }
        shares
    }

    const LEAST: LbPolicy = LbPolicy::LeastRequest { choices: 2 };

    #[test]
    fn two_choices_avoid_the_busy_one() {
        let shares = shares(LEAST, &hosts(&[0, 9, 0]), 9_000);
        // Drawn with replacement, the busy one is chosen only when drawn twice: 1 in 9.
        assert!((850..1_150).contains(&shares[1]), "{shares:?}");
    }

    #[test]
    fn weights_count() {
        let mut two = hosts(&[0, 0]);
        two[0].weight = 3;
        let shares = shares(LEAST, &two, 4_000);
        assert!(shares[0] > 2 * shares[1], "{shares:?}");
    }

    #[test]
    fn round_robin_is_even() {
        let shares = shares(LbPolicy::RoundRobin, &hosts(&[0, 5, 9]), 3_000);
        assert_eq!(shares, [1_000; 3]);
    }

    #[test]
    fn unavailable_and_tried_hosts_are_avoided_until_there_is_no_other() {
        for policy in [LEAST, LbPolicy::RoundRobin, LbPolicy::Random] {
            let entropy = Entropy::seeded(5);
            let mut three = hosts(&[0, 0, 0]);
            three[1].available = false;
            three[2].weight = 7;
            let picker = Picker::new(policy, &mut entropy.draw());
            for _ in 0..1_000 {
                assert_eq!(
                    picker.pick(&three, |host| host.weight == 7, &mut entropy.draw()),
                    Some(0),
                    "{policy:?}"
                );
            }
            three[0].available = false;
            three[2].available = false;
            assert!(picker.pick(&three, |_| false, &mut entropy.draw()).is_some());
            assert_eq!(picker.pick::<Host>(&[], |_| false, &mut entropy.draw()), None);
        }
    }
}
