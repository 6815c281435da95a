//! What calls add up to: of one client and cluster, and of many.

use mesh_core::report::{CallReport, ClusterLoad};
use mesh_xds::server::ReportedLoad;

use super::api;

/// Numbers of the newest windows, and since the clients' streams began.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    rate: f64,
    span_ms: u64,
    calls: api::Count,
    failed: api::Count,
    tries: api::Count,
    dropped: api::Count,
    in_progress: u64,
    /// `None` where no client tells.
    secured: Option<api::Count>,
    /// Of the newest windows.
    report: CallReport,
}

/// What one window, or all of them, say.
#[derive(Default)]
struct Part {
    report: CallReport,
    is_told: bool,
    calls: u64,
    failed: u64,
    tries: u64,
    in_progress: u64,
    dropped: u64,
}

impl Part {
    fn of(load: &ClusterLoad) -> Self {
        let mut part = Self::default();
        for locality in &load.localities {
            part.is_told |= part.report.add(&locality.figures);
        }
        let counts = load.counts();
        part.tries = counts.issued;
        part.in_progress = counts.in_progress;
        part.dropped = load.dropped();
        (part.calls, part.failed) = match part.is_told {
            true => (part.report.calls(), part.report.failures()),
            // Others count tries alone.
            false => (counts.succeeded.saturating_add(counts.errored), counts.errored),
        };
        part
    }
}

impl Numbers {
    /// Of one cluster, as one client reported it.
    pub(super) fn of(load: &ReportedLoad) -> Self {
        let mut total = Part::of(&load.total);
        let mut window = Part::of(&load.window);
        if total.is_told && !window.is_told {
            // A window in which only tries ended has no call in it.
            (window.calls, window.failed) = (0, 0);
        }
        let seconds = load.span.as_secs_f64();
        let report = std::mem::take(&mut window.report);
        let both = |window: u64, total: u64| api::Count { window, total };
        let all = std::mem::take(&mut total.report);
        Self {
            rate: if seconds > 0.0 {
                window.calls as f64 / seconds
            } else {
                0.0
            },
            span_ms: u64::try_from(load.span.as_millis()).unwrap_or(u64::MAX),
            calls: both(window.calls, total.calls),
            failed: both(window.failed, total.failed),
            tries: both(window.tries, total.tries),
            dropped: both(window.dropped, total.dropped),
            in_progress: window.in_progress,
            secured: total.is_told.then(|| both(report.secured, all.secured)),
            report,
        }
    }

    /// Adds those of another client or cluster.
    pub(super) fn add(&mut self, other: &Self) {
        self.rate += other.rate;
        self.span_ms = self.span_ms.max(other.span_ms);
        self.calls.add(other.calls);
        self.failed.add(other.failed);
        self.tries.add(other.tries);
        self.dropped.add(other.dropped);
        self.in_progress = self.in_progress.saturating_add(other.in_progress);
        self.secured = match (self.secured, other.secured) {
            (Some(mut sum), Some(more)) => {
                sum.add(more);
                Some(sum)
            }
            (one, other) => one.or(other),
        };
        self.report.add_all(&other.report);
    }

    pub(super) fn show(&self) -> api::Numbers {
        let quantile = |share| self.report.quantile_ms(share).map(rounded);
        api::Numbers {
            span_ms: self.span_ms,
            rate: rounded(self.rate),
            error_rate: (self.calls.window > 0).then(|| self.failed.window as f64 / self.calls.window as f64),
            calls: self.calls,
            failed: self.failed,
            tries: self.tries,
            dropped: self.dropped,
            in_progress: self.in_progress,
            secured: self.secured,
            latency_ms: match (self.report.mean_ms(), quantile(0.5), quantile(0.9), quantile(0.99)) {
                (Some(mean), Some(p50), Some(p90), Some(p99)) => Some(api::Latency {
                    mean: rounded(mean),
                    p50,
                    p90,
                    p99,
                }),
                _ => None,
            },
            buckets: self.report.durations.map(|figure| figure.calls),
        }
    }
}

/// A thousandth is enough to look at.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
