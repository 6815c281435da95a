//! How long to wait before the next attempt at a stream (gRFC A57, gRPC's connection backoff).
//!
//! Three cases:
//!
//! - A stream on which something was heard has ended. gRPC comes again at once, and so a thousand clients of a control
//!   plane that restarted come again in the same millisecond. Here each draws from a whole second ("full jitter"). This is
//!   no failure and does not count as one.
//! - The control plane said when to come again (gRFC A6, `grpc-retry-pushback-ms`): then, within this backoff's bounds. It
//!   sees how many come and spreads them, which no client can. This is no failure either.
//! - An attempt failed: 1 s, growing by 1.6 to 120 s, each a fifth more or less (gRPC's connection backoff, where the longest
//!   pause is a fifth more than 120 s).
//!
//! All that lost a control plane at once are in step. Were each pause drawn by itself, a fifth more or less would leave them near one
//! another: after n pauses b the deviation is 0.2 / sqrt(3) of sqrt(sum of b^2), 2.5 s after the seven that 30 s take, so that of a
//! thousand 1000 / (2.5 sqrt(2 pi)) = 160 dial in the fullest second. So each draws *one* share of all its pauses, and another when
//! something was heard: then who dials after pauses of S seconds in all dials within 0.4 S seconds, spread evenly, which is as wide
//! as a fifth allows. That is 1000 / (0.4 S) a second at least, whatever is drawn: 95 after the six pauses of 26 s and 58 after the
//! seven of 43 s. So a tenth of all in a second is kept by outages of 30 s and more, and no backoff of these bounds keeps it in
//! shorter ones: what those cost a control plane is its to bound, as ours does: streams begin there at a pace of its own.

use std::time::Duration;

use mesh_core::Entropy;

pub(crate) const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(120);
/// In tenths.
const FACTOR_TENTHS: u32 = 16;
/// A fifth less to a fifth more, so that the clients of one control plane do not return as one.
const JITTER_DIVISOR: u64 = 5;
const MILLION: u64 = 1_000_000;

/// Grows with each attempt until it is reset. Only something heard from the control plane resets it: a server that takes
/// connections and drops them is not well.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    /// Something was heard since the last pause.
    heard: bool,
    /// By how many millionths every pause is longer than four fifths, until something is heard.
    share: Option<u64>,
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
            share: None,
            asked: None,
            entropy,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
        self.share = None;
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
        if let Some(pause) = self.asked.take() {
            // Never sooner than after a first failure, so that a control plane cannot make its clients its attackers.
            return pause.clamp(FIRST - FIRST / JITTER_DIVISOR as u32, MAX);
        }
        if heard {
            return Duration::from_micros(self.entropy.draw().below(FIRST.as_micros() as u64));
        }
        self.next = grown(base);
        let spread = MILLION / JITTER_DIVISOR;
        let drawn = || self.entropy.draw().below(2 * spread + 1);
        let millionths = MILLION - spread + *self.share.get_or_insert_with(drawn);
        // Two minutes in microseconds leave room for that.
        Duration::from_micros(base.as_micros() as u64 * millionths / MILLION)
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "the figure is the result")]
mod tests {
    use super::*;

    #[test]
    fn cp_9_it_grows_to_two_minutes_and_never_leaves_its_bounds() {
        let mut backoff = Backoff::new(Entropy::seeded(1));
        let mut base = 1.0f64;
        for _ in 0..30 {
            let drawn = backoff.next().as_secs_f64();
            let (least, most) = (base * 0.8 - 1e-3, base * 1.2 + 1e-3);
            assert!((least..=most).contains(&drawn), "{drawn} of {base}");
            base = (base * 1.6).min(120.0);
        }
        backoff.heard();
        assert!(backoff.next() < FIRST);
        let again = backoff.next();
        assert!(again >= Duration::from_millis(800) && again <= Duration::from_millis(1200));
    }

    #[test]
    fn cp_1_each_pause_is_anything_from_a_fifth_less_to_a_fifth_more() {
        // The longest, of a thousand clients: 96 s to 144 s, in twelfths.
        let mut twelfths = [0u32; 12];
        for seed in 0..1_000 {
            let mut backoff = Backoff::new(Entropy::seeded(seed));
            let longest = (0..20).map(|_| backoff.next()).last().unwrap();
            twelfths[(longest.as_secs() as usize - 96) / 4] += 1;
        }
        // 83 are expected in each, with a standard deviation of 8.7; the seeds are fixed.
        assert!(twelfths.iter().all(|count| (50..=120).contains(count)), "{twelfths:?}");
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

    /// A thousand lose their control plane at once. Whenever it is back after 30 s or more, no second after the first sees more than a
    /// tenth of them; each dials it once.
    #[test]
    fn cp_11_after_half_a_minute_or_more_no_second_sees_more_than_a_tenth_dial() {
        let dials: Vec<Vec<Duration>> = (0..1_000u64)
            .map(|seed| {
                let mut backoff = Backoff::new(Entropy::seeded(seed << 32));
                backoff.heard();
                let mut at = Duration::ZERO;
                let mut next = || {
                    at += backoff.next();
                    at
                };
                (0..20).map(|_| next()).collect()
            })
            .collect();
        let mut worst = (0, 0);
        for outage in 30..=900 {
            let back = Duration::from_secs(outage);
            let mut first: Vec<Duration> = dials
                .iter()
                .map(|at| *at.iter().find(|at| **at >= back).unwrap())
                .collect();
            first.sort_unstable();
            let before = |end: Duration| first.partition_point(|at| *at < end);
            let within = |place: usize| before(first[place] + FIRST) - before(first[place]);
            let later = before(back + FIRST)..first.len();
            let most = later.map(within).max().unwrap_or_default();
            worst = worst.max((most, outage));
        }
        println!(
            "CP-11: of 1000 in any one second at most {} dial, after {} s",
            worst.0, worst.1
        );
        assert!(worst.0 <= 100, "{worst:?}");
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
