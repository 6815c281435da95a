//! Whether a connection has requests that are being answered, for a server loop that is not ours: it does not tell, so the room that
//! counts requests does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Live {
    opened: Instant,
    /// Requests whose answers have not ended.
    answering: AtomicUsize,
    /// When one last began or ended, in milliseconds since it was opened.
    last: AtomicU64,
    /// Whether the room has counted any request of this server: before that, silence here says nothing of a connection.
    counts: Arc<AtomicBool>,
}

impl Live {
    fn touch(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }
}

#[cfg(feature = "tonic")]
impl Live {
    /// A connection that was just opened; `counts` is its server's.
    pub(crate) fn new(counts: Arc<AtomicBool>) -> Self {
        Self {
            opened: Instant::now(),
            answering: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            counts,
        }
    }

    /// Ends when it has had no request for so long.
    pub(crate) async fn idle(&self, limit: std::time::Duration) {
        loop {
            let is_quiet = self.answering.load(Ordering::Relaxed) == 0 && self.counts.load(Ordering::Relaxed);
            let last = std::time::Duration::from_millis(self.last.load(Ordering::Relaxed));
            let left = limit.saturating_sub(self.opened.elapsed().saturating_sub(last));
            if is_quiet && left.is_zero() {
                return;
            }
            // At least a millisecond, in which times are kept; while it is in use, another whole span.
            let wait = if left.is_zero() { limit } else { left };
            tokio::time::sleep(wait.max(std::time::Duration::from_millis(1))).await;
        }
    }
}

/// A request of it, until its answer has ended or is dropped.
#[derive(Debug)]
pub(super) struct Answering(Arc<Live>);

impl Answering {
    pub(super) fn begin(live: &Arc<Live>) -> Self {
        live.answering.fetch_add(1, Ordering::Relaxed);
        live.counts.store(true, Ordering::Relaxed);
        live.touch();
        Self(Arc::clone(live))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.touch();
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}
