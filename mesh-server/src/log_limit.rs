//! How much of what strangers cause is written down.
//!
//! A line for every request that is refused is a log that its callers write: at their rate, on our disk, and over what else is there. So
//! there are so many lines in a second, of a server's layer, and what there would be more is counted (`log_suppressed`) beside the counter that
//! has all of it anyway. What a policy asks to be audited is not limited: somebody wants each of those.

use std::sync::atomic::{AtomicU64, Ordering};

use mesh_core::report::Tally;
use tokio::time::Instant;

/// The most lines about refused requests in a second. Enough to see who it is; ten thousand a minute are no burden for a log.
const LINES_PER_SECOND: u64 = 100;

/// See the module. Clones of what holds it share it, behind an `Arc`.
#[derive(Debug)]
pub(crate) struct LogLimit {
    opened: Instant,
    /// The second since then in the upper half, and how many lines it had in the lower.
    window: AtomicU64,
    tally: Tally,
}

impl LogLimit {
    pub(crate) fn new(tally: Tally) -> Self {
        Self {
            opened: Instant::now(),
            window: AtomicU64::new(0),
            tally,
        }
    }

    /// Whether one more line is written; counted as `log_suppressed` for `kind` where not.
    pub(crate) fn admits(&self, kind: &'static str) -> bool {
        let second = self.opened.elapsed().as_secs() << 32;
        let next = |window: u64| match window & !u64::from(u32::MAX) == second {
            true if window & u64::from(u32::MAX) >= LINES_PER_SECOND => None,
            true => Some(window + 1),
            false => Some(second | 1),
        };
        let admitted = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok();
        if !admitted {
            self.tally.count("log_suppressed", kind);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_lines_in_a_second_and_the_rest_is_counted() {
        let tally = Tally::default();
        let limit = LogLimit::new(tally.clone());
        let lines = |tries: u64| (0..tries).filter(|_| limit.admits("denied")).count() as u64;
        assert_eq!(lines(10 * LINES_PER_SECOND), LINES_PER_SECOND);
        assert_eq!(tally.get("log_suppressed", "denied"), 9 * LINES_PER_SECOND);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(lines(10 * LINES_PER_SECOND), LINES_PER_SECOND);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(lines(5), 5);
    }
}
