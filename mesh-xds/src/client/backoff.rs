//! How long to wait before the next attempt at a stream (gRFC A57, gRPC's connection backoff).
//!
//! Three cases:
//!
//! - A stream on which something was heard has ended. gRPC comes again at once, and so a thousand clients of a control
//!   plane that restarted come again in the same millisecond. Here each draws from a whole second ("full jitter"). This is
//!   no failure and does not count as one.
//! - The control plane said when to come again (gRFC A6, `grpc-retry-pushback-ms`): then, within this backoff's bounds. It
//!   sees how many come and spreads them, which no client can. This is no failure either.
//! - An attempt failed: 1 s, growing by 1.6 to 120 s, each a fifth more or less (gRPC's connection backoff); those of 4 s and
//!   more two fifths. All that lost a control plane at once are in step, and a fifth of so few pauses leaves them so: of a
//!   thousand, 160 came in one second after an outage of 30 s, and with this 80. No pause is longer than 120 s.

use std::time::Duration;

use mesh_core::Entropy;

pub(crate) const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(120);
/// In tenths.
const FACTOR_TENTHS: u32 = 16;
/// A fifth less to a fifth more, so that the clients of one control plane do not return as one.
const JITTER_DIVISOR: u64 = 5;
/// From here on twice that.
const LONG: Duration = Duration::from_secs(4);

/// Grows with each attempt until it is reset. Only something heard from the control plane resets it: a server that takes
/// connections and drops them is not well.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    /// Something was heard since the last pause.
    heard: bool,
    /// When the control plane wants to be asked again.
    asked: Option<Duration>,
    entropy: Entropy,
}

/// The pause after this one, each time in vain.
pub(crate) fn grown(pause: Duration) -> Duration {
    (pause * FACTOR_TENTHS / 10).min(MAX)
}

impl Backoff {
    pub(crate) fn new(entropy: Entropy) -> Self {
        Self {
            next: FIRST,
            heard: false,
            asked: None,
            entropy,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Something was heard on a stream.
    pub(crate) fn heard(&mut self) {
        self.reset();
        self.heard = true;
    }

    /// Takes the control plane's word for the next pause alone.
    pub(crate) fn asked_for(&mut self, pause: Option<Duration>) {
        self.asked = pause;
    }

    /// Whether it did.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    pub(crate) fn next(&mut self) -> Duration {
        let heard = std::mem::take(&mut self.heard);
        let base = self.next;
        let fifths = 1 + u64::from(base >= LONG);
        let spread = fifths * base.as_micros() as u64 / JITTER_DIVISOR;
        let shortest = Duration::from_micros(base.as_micros() as u64 - spread);
        if let Some(pause) = self.asked.take() {
            // Never sooner than after a first failure, so that a control plane cannot make its clients its attackers.
            return pause.clamp(FIRST - FIRST / JITTER_DIVISOR as u32, MAX);
        }
        if heard {
            return Duration::from_micros(self.entropy.draw().below(FIRST.as_micros() as u64));
        }
        self.next = grown(base);
        // Not past the longest, and not all of what would be upon it.
        let widest = (MAX.saturating_sub(shortest).as_micros() as u64).min(2 * spread);
        shortest + Duration::from_micros(self.entropy.draw().below(widest + 1))
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
            let jitter = if base < 4.0 { 0.2 } else { 0.4 };
            assert!(
                drawn >= base * (1.0 - jitter) - 1e-3 && drawn <= (base * (1.0 + jitter)).min(120.0) + 1e-3,
                "{drawn} of {base}"
            );
            base = (base * 1.6).min(120.0);
        }
        backoff.heard();
        assert!(backoff.next() < FIRST);
        let again = backoff.next();
        assert!(again >= Duration::from_millis(800) && again <= Duration::from_millis(1200));
    }

    #[test]
    fn cp_11_clients_that_were_heard_spread_over_a_whole_second() {
        let mut tenths = [0u32; 10];
        for seed in 0..1_000 {
            let mut backoff = Backoff::new(Entropy::seeded(seed));
            backoff.heard();
            tenths[(backoff.next().as_millis() / 100) as usize] += 1;
        }
        // 100 are expected in each, with a standard deviation of 9.5; the seeds are fixed.
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
    }

    #[test]
    fn cp_11_an_appointment_is_kept_once_within_bounds_and_is_no_failure() {
        let mut backoff = Backoff::new(Entropy::seeded(1));
        let secs = Duration::from_secs;
        for (asked, pause) in [
            (secs(7), secs(7)),
            (secs(3_600), MAX),
            (secs(0), Duration::from_millis(800)),
        ] {
            backoff.asked_for(Some(asked));
            assert_eq!(backoff.next(), pause);
        }
        let next = backoff.next();
        assert!(
            next >= Duration::from_millis(800) && next <= Duration::from_millis(1200),
            "{next:?}"
        );
    }
}
