//! How long to wait before the next attempt at a stream (gRFC A57, gRPC's connection backoff).

use std::time::Duration;

use mesh_core::Entropy;

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(120);
/// In tenths.
const FACTOR_TENTHS: u32 = 16;
/// A fifth less to a fifth more, so that the clients of one control plane do not return as one.
const JITTER_DIVISOR: u64 = 5;

/// Grows with each attempt until it is reset. Only something heard from the control plane resets it: a server that takes
/// connections and drops them is not well.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    entropy: Entropy,
}

impl Backoff {
    pub(crate) fn new(entropy: Entropy) -> Self {
        Self { next: FIRST, entropy }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * FACTOR_TENTHS / 10).min(MAX);
        let spread = base.as_micros() as u64 / JITTER_DIVISOR;
        let offset = self.entropy.draw().below(2 * spread + 1);
        Duration::from_micros(base.as_micros() as u64 - spread + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cp_9_it_grows_to_two_minutes_and_never_leaves_its_bounds() {
        let mut backoff = Backoff::new(Entropy::seeded(1));
        let mut base = 1.0f64;
        for _ in 0..30 {
            let drawn = backoff.next().as_secs_f64();
            assert!(
                drawn >= base * 0.8 - 1e-3 && drawn <= base * 1.2 + 1e-3,
                "{drawn} of {base}"
            );
            base = (base * 1.6).min(120.0);
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(1200));
    }
}
