//! How many requests a server works on at once, where that is found out by how long they take (Envoy's adaptive concurrency filter,
//! `GradientControllerConfig`).

use std::time::Duration;

use super::Percent;

/// See the module; what it does is [`crate::adaptive::GradientController`]'s to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AdaptiveConcurrency {
    /// Which of the times of a window stands for it: so many percent took no longer.
    pub percentile: Percent,
    /// How often the limit is worked out anew.
    pub update_interval: Duration,
    /// The limit is never greater, and at least [`min_concurrency`](Self::min_concurrency).
    pub max_concurrency: u32,
    /// How often it is measured anew how long requests take that do not wait for one another.
    pub min_rtt_interval: Duration,
    /// Each such interval is longer by up to so much of it, by chance, so that servers of one kind do not measure at once.
    pub jitter: Percent,
    /// Of so many requests that is measured, at least one.
    pub min_rtt_requests: u32,
    /// So many are worked on at once meanwhile, at least one; the limit is never less.
    pub min_concurrency: u32,
    /// Requests that take longer by so much do not count as slower: what varies by itself is no sign of load.
    pub buffer: Percent,
}

const fn percent(of: u32) -> Percent {
    match Percent::new(of) {
        Some(percent) => percent,
        None => Percent::ALL,
    }
}

impl Default for AdaptiveConcurrency {
    /// What Envoy takes for granted, and its example's intervals: 100 ms, and 60 s for the shortest time.
    fn default() -> Self {
        Self {
            percentile: percent(50),
            update_interval: Duration::from_millis(100),
            max_concurrency: 1000,
            min_rtt_interval: Duration::from_secs(60),
            jitter: percent(15),
            min_rtt_requests: 50,
            min_concurrency: 3,
            buffer: percent(25),
        }
    }
}
