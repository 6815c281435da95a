//! How often the living are reconciled with the wanted when changes come without end.
//!
//! A change now and then takes effect at once. In a storm (a control plane that pushes for every pod of a rollout) each
//! reconciliation would be undone by the next, so they come at a distance then, and each takes over the newest configuration:
//! what came between is skipped, the last is not.

use std::time::Duration;

use tokio::time::Instant;

/// The distance in a storm: a hundred a second, and no change waits longer.
pub(super) const GAP: Duration = Duration::from_millis(10);
/// How many may come at once before that.
pub(super) const BURST: u32 = 16;

/// The memory of past reconciliations: a bucket that holds [`BURST`] and gains one every [`GAP`].
#[derive(Debug)]
pub(super) struct Pace {
    /// When the bucket is full again.
    full_at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one out; when there will be one, if there is none.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let after = self.full_at.max(now) + GAP;
        let deepest = now + GAP * BURST;
        if after > deepest {
            return Err(now + (after - deepest));
        }
        self.full_at = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_a_storm_at_a_distance() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        assert!((0..BURST).all(|_| pace.take(now).is_ok()));
        assert_eq!(pace.take(now), Err(now + GAP));
        now += GAP;
        assert_eq!((pace.take(now), pace.take(now)), (Ok(()), Err(now + GAP)));
        // After a quiet time the burst is whole, and no more than that.
        now += GAP * 1_000;
        assert!((0..BURST).all(|_| pace.take(now).is_ok()));
        assert!(pace.take(now).is_err());
    }
}
