//! Randomness that clones share and tests can seed.
//!
//! The trap this avoids: a generator that is a field of a `Clone` service is copied with it, and since callers clone a
//! channel per task, every clone repeats the same draws and a 50/50 split sends all calls to one side. Here the state is
//! one shared counter: a draw takes the next number from it and hashes it (SplitMix64, Steele et al. 2014), which costs one
//! relaxed atomic add and is reproducible from a seed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::TryRng;
use rand::rngs::SysRng;

/// The odd constant of SplitMix64: consecutive states are as far apart as 64 bits allow.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A shared source of random numbers. Clones continue one sequence; they never repeat it.
///
/// Not for keys or tokens: it is predictable to whoever sees a few draws.
///
/// ```
/// use mesh_core::Entropy;
/// let entropy = Entropy::seeded(7);
/// let clone = entropy.clone();
/// assert_ne!(entropy.draw().next(), clone.draw().next());
/// ```
#[derive(Clone, Debug)]
pub struct Entropy {
    counter: Arc<AtomicU64>,
}

impl Entropy {
    /// Seeded by the operating system.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give: nothing that follows could be trusted then.
    pub fn from_os() -> Self {
        Self::seeded(SysRng.try_next_u64().expect("the operating system provides randomness"))
    }

    /// A reproducible sequence, for tests and simulations.
    pub fn seeded(seed: u64) -> Self {
        Self {
            counter: Arc::new(AtomicU64::new(seed)),
        }
    }

    /// A generator for one request's decisions.
    pub fn draw(&self) -> Draw {
        Draw {
            state: mix(self.counter.fetch_add(GAMMA, Ordering::Relaxed)),
        }
    }
}

/// The draws of one request. Deliberately not `Clone`: a copy would repeat them.
#[derive(Debug)]
pub struct Draw {
    state: u64,
}

impl Draw {
    /// The next 64 random bits.
    #[allow(
        clippy::should_implement_trait,
        reason = "an endless generator is not an iterator to be adapted"
    )]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number below `bound`, or 0 when `bound` is 0. Lemire's multiply-shift: the bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

impl TryRng for Draw {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_continue_one_sequence() {
        let entropy = Entropy::seeded(1);
        let mut seen: Vec<u64> = (0..1000).map(|_| entropy.clone().draw().next()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn a_seed_reproduces() {
        let draws = |seed| -> Vec<u64> {
            let entropy = Entropy::seeded(seed);
            (0..10).map(|_| entropy.draw().next()).collect()
        };
        assert_eq!(draws(3), draws(3));
        assert_ne!(draws(3), draws(4));
    }

    #[test]
    fn below_stays_below_and_is_even() {
        let entropy = Entropy::seeded(2);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[entropy.draw().below(10) as usize] += 1;
        }
        // 10,000 expected, sd 95: five standard deviations.
        assert!(counts.iter().all(|n| (9_525..=10_475).contains(n)), "{counts:?}");
        assert_eq!(entropy.draw().below(0), 0);
    }
}
