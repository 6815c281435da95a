//! Hosts side by side, each as broad as its weight: where on it a number falls says which host.
//!
//! A rotation over it takes steps of the golden section of its breadth, rounded until each step-by-step walk meets every place
//! once. So a host has exactly its share of every full round, and nearly its share of any part of one (no other step spreads
//! more evenly), for one atomic add and a binary search: no lock, no heap, and nothing to write back, which the earliest-
//! deadline queue that Envoy keeps for this needs at every pick.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::entropy::Draw;

/// Hosts of different weights.
#[derive(Debug)]
pub(super) struct Wheel {
    /// Where each host's breadth ends.
    ends: Box<[u64]>,
    /// The host at the first place of each part, the parts being `1 << shift` broad; and the last host. A look-up begins there and
    /// mostly ends in the same cache line, where a search through the ends of a hundred thousand hosts would touch ten.
    guide: Box<[u32]>,
    shift: u32,
    step: u64,
}

/// How many hosts a part is made for: their ends fill a cache line.
const PER_PART: u64 = 8;

impl Wheel {
    /// `None` when all weigh the same: an index is enough then.
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Option<Self> {
        let first = weights.clone().next()?;
        let (mut is_even, mut common) = (true, 0);
        for weight in weights.clone() {
            is_even &= weight == first;
            if common != 1 {
                common = gcd(common, u64::from(weight));
            }
        }
        if is_even {
            return None;
        }
        // Without what all weights have in common a round is shorter. A division is dear where there are many.
        let breadth = |weight: u32| match common {
            0 | 1 => u64::from(weight),
            common => u64::from(weight) / common,
        };
        let ends = weights.scan(0, |end, weight| {
            *end += breadth(weight);
            Some(*end)
        });
        let ends: Box<[u64]> = ends.collect();
        let total = ends.last().copied().filter(|total| *total > 0)?;
        let golden = (total as f64 * 0.618_033_988_749_894_9) as u64;
        let step = (golden.max(1)..).find(|step| gcd(*step, total) == 1)?;
        let parts = (ends.len() as u64 / PER_PART).max(1);
        let shift = (total / parts).max(1).ilog2() + 1;
        Some(Self {
            guide: guide(&ends, total, shift),
            ends,
            shift,
            step,
        })
    }

    fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or_default()
    }

    /// The host at `place`, which is below the total.
    fn at(&self, place: u64) -> usize {
        let part = (place >> self.shift) as usize;
        let [from, to] = [part, part + 1].map(|part| self.guide[part] as usize);
        from + self.ends[from..to].partition_point(|end| *end <= place)
    }

    pub(super) fn any(&self, draw: &mut Draw) -> usize {
        self.at(draw.below(self.total()))
    }

    /// The host whose turn is the `turn`th.
    pub(super) fn turn(&self, turn: u64) -> usize {
        let total = self.total();
        let place = match u32::try_from(total) {
            Ok(_) => turn % total * self.step % total,
            Err(_) => (u128::from(turn % total) * u128::from(self.step) % u128::from(total)) as u64,
        };
        self.at(place)
    }
}

/// See [`Wheel::guide`].
fn guide(ends: &[u64], total: u64, shift: u32) -> Box<[u32]> {
    let parts = ((total - 1) >> shift) + 1;
    let mut host = 0;
    let firsts = (0..parts).map(|part| {
        while ends[host] <= part << shift {
            host += 1;
        }
        host as u32
    });
    let mut guide: Vec<u32> = firsts.collect();
    guide.push(ends.len() as u32 - 1);
    guide.into()
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Any of so many hosts, as often as their weights say.
pub(super) fn any(wheel: Option<&Wheel>, hosts: usize, draw: &mut Draw) -> usize {
    match wheel {
        Some(wheel) => wheel.any(draw),
        None => draw.below(hosts as u64) as usize,
    }
}

/// Each in turn, as often as its weight says.
#[derive(Debug)]
pub struct Rotation {
    wheel: Option<Wheel>,
    next: AtomicU64,
}

impl Rotation {
    /// Begins at a random place, or all clients would begin at the same host.
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone, draw: &mut Draw) -> Self {
        Self {
            wheel: Wheel::new(weights),
            next: AtomicU64::new(draw.next() >> 1),
        }
    }

    pub(super) fn next(&self, hosts: usize) -> usize {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match &self.wheel {
            Some(wheel) => wheel.turn(turn),
            None => (turn % hosts as u64) as usize,
        }
    }
}

/// Any, as often as its weight says.
#[derive(Debug)]
pub struct Lots {
    wheel: Option<Wheel>,
}

impl Lots {
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Self {
        Self {
            wheel: Wheel::new(weights),
        }
    }

    pub(super) fn draw(&self, hosts: usize, draw: &mut Draw) -> usize {
        any(self.wheel.as_ref(), hosts, draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;

    fn turns(weights: &[u32], turns: usize) -> Vec<usize> {
        let rotation = Rotation::new(weights.iter().copied(), &mut Entropy::seeded(9).draw());
        (0..turns).map(|_| rotation.next(weights.len())).collect()
    }

    fn shares(picks: &[usize], hosts: usize) -> Vec<usize> {
        (0..hosts)
            .map(|host| picks.iter().filter(|pick| **pick == host).count())
            .collect()
    }

    #[test]
    fn a_full_round_gives_each_exactly_its_weight() {
        for weights in [
            &[5, 1, 1][..],
            &[1, 2, 3, 4],
            &[100, 1],
            &[7, 7, 8],
            &[2, 4, 6],
            &[1_000_003, 2],
        ] {
            let common = weights.iter().fold(0, |common, weight| gcd(common, u64::from(*weight))) as u32;
            let weights: Vec<u32> = weights.iter().map(|weight| weight / common).collect();
            let round: usize = weights.iter().map(|weight| *weight as usize).sum();
            let expected: Vec<usize> = weights.iter().map(|weight| *weight as usize).collect();
            assert_eq!(shares(&turns(&weights, round), weights.len()), expected, "{weights:?}");
        }
        assert_eq!(shares(&turns(&[3, 3, 3], 300), 3), [100; 3]);
    }

    #[test]
    fn and_any_part_of_one_nearly_so() {
        let weights = [50u32, 30, 15, 5];
        let picks = turns(&weights, 1_000);
        for window in [10, 20, 50, 99] {
            for part in picks.windows(window) {
                for (host, weight) in weights.iter().enumerate() {
                    let count = part.iter().filter(|pick| **pick == host).count() as f64;
                    let fair = window as f64 * f64::from(*weight) / 100.0;
                    assert!((count - fair).abs() < 3.0, "{host} of {window}: {count}, not {fair}");
                }
            }
        }
    }

    /// Whatever the weights, and however unevenly they lie: the host of a place is the first that ends behind it.
    #[test]
    fn a_place_is_looked_up_as_a_search_would_find_it() {
        let mut draw = Entropy::seeded(4).draw();
        for hosts in [2, 7, 8, 9, 63, 1_000] {
            for kind in 0..4 {
                let weights: Vec<u32> = (0..hosts)
                    .map(|host| match kind {
                        0 => draw.below(3) as u32,
                        1 => 1 + draw.below(1_000) as u32,
                        2 => u32::from(host % 97 == 1) * u32::MAX,
                        _ => 1 + u32::from(host == hosts / 2) * 1_000_000,
                    })
                    .collect();
                let Some(wheel) = Wheel::new(weights.iter().copied()) else {
                    continue;
                };
                let total = wheel.total();
                let ends = wheel.ends.iter().flat_map(|end| [end.saturating_sub(1), *end]);
                let drawn: Vec<u64> = (0..200).map(|_| draw.below(total)).collect();
                for place in ends.chain(drawn).filter(|place| *place < total) {
                    let searched = wheel.ends.partition_point(|end| *end <= place);
                    assert_eq!(wheel.at(place), searched, "{place} of {weights:?}");
                }
            }
        }
    }

    #[test]
    fn great_weights_do_not_overflow() {
        let weights = [u32::MAX, u32::MAX - 1, u32::MAX - 2];
        let shares = shares(&turns(&weights, 3_000), 3);
        assert!(shares.iter().all(|share| share.abs_diff(1_000) < 5), "{shares:?}");
    }

    #[test]
    fn a_weight_of_none_is_never_met() {
        assert_eq!(shares(&turns(&[0, 2, 1], 300), 3), [0, 200, 100]);
        assert_eq!(shares(&turns(&[0, 0], 10), 2), [5, 5]);
    }
}
