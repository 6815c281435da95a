//! How much more than its share a host takes where calls go by a hash, and where those go that are too many ("Consistent Hashing
//! with Bounded Loads", arXiv 1608.01350, with the random jumps of 1908.08762; Envoy `hash_balance_factor`).
//!
//! Calls that hash alike try other hosts in the same order, so that what is too much for one host goes to the same few others.
//! Envoy shuffles all hosts for that and may look at each; here some are looked at and nothing is allocated. Where the mean load
//! is bounded at `f` times, less than `1/f` of the hosts can be full: sixty-four looks in a row find only full ones once in 10^5
//! at 120 %.

use super::Load;
use crate::config::BalanceFactor;

/// The most hosts that are looked at for one call.
const MAX_LOOKS: usize = 64;

/// What is known of all hosts together.
#[derive(Debug)]
pub(super) struct Bound {
    factor: BalanceFactor,
    /// The sum of the weights.
    total: u64,
}

impl Bound {
    pub(super) fn new<L: Load>(factor: Option<BalanceFactor>, hosts: &[L]) -> Option<Self> {
        let total = hosts.iter().map(|host| u64::from(host.weight())).sum();
        factor.map(|factor| Self { factor, total })
    }

    /// The host that takes a call in place of `first`: that one while it is not too busy, else the first of others that is not,
    /// else the least busy of those met. `in_flight`: the calls of all hosts.
    pub(super) fn settle<L: Load>(
        &self,
        hosts: &[L],
        first: usize,
        hash: u64,
        in_flight: u32,
        available: impl Fn(usize) -> bool,
    ) -> usize {
        let mut least = self.load(&hosts[first], in_flight);
        if !least.is_full() {
            return first;
        }
        let mut best = first;
        let (mut index, step) = jump(hosts.len(), hash);
        for _ in 0..hosts.len().min(MAX_LOOKS) {
            index = (index + step) % hosts.len();
            if index == first || !available(index) {
                continue;
            }
            let load = self.load(&hosts[index], in_flight);
            if !load.is_full() {
                return index;
            }
            if load.is_less_than(least) {
                (best, least) = (index, load);
            }
        }
        best
    }

    fn load<L: Load>(&self, host: &L, in_flight: u32) -> Busy {
        let all = ((u128::from(in_flight) + 1) * u128::from(self.factor.percent())).div_ceil(100);
        let share = (all * u128::from(host.weight())).div_ceil(u128::from(self.total.max(1)));
        Busy {
            in_flight: host.in_flight(),
            slots: u64::try_from(share).unwrap_or(u64::MAX).max(1),
        }
    }
}

/// Calls of a host, and how many it may have.
#[derive(Clone, Copy)]
struct Busy {
    in_flight: u32,
    slots: u64,
}

impl Busy {
    /// As in Envoy, one that has all that it may have takes one more.
    fn is_full(self) -> bool {
        u64::from(self.in_flight) > self.slots
    }

    fn is_less_than(self, other: Self) -> bool {
        u128::from(self.in_flight) * u128::from(other.slots) < u128::from(other.in_flight) * u128::from(self.slots)
    }
}

/// Where a walk through all of `count` places begins, and its step: it meets each place once in `count` steps.
fn jump(count: usize, hash: u64) -> (usize, usize) {
    let mut random = hash;
    let start = next(&mut random) as usize % count;
    let mut step = next(&mut random) as usize % count;
    // Among so many consecutive numbers one has no divisor in common with any count that memory holds.
    while gcd(step, count) != 1 {
        step += 1;
    }
    (start, step)
}

fn gcd(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_each_place_once() {
        for count in [2, 3, 4, 6, 10, 12, 30, 64, 97, 210] {
            for seed in 0..20 {
                let (start, step) = jump(count, seed);
                let mut met: Vec<usize> = (1..=count).map(|look| (start + look * step) % count).collect();
                met.sort_unstable();
                assert_eq!(met, (0..count).collect::<Vec<_>>(), "{count} {seed}");
            }
        }
    }
}
