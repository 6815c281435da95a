//! How the calls to one cluster ended, as load reports can carry it: what a picture of the mesh needs beyond the numbers that the
//! protocol has fields for.
//!
//! The protocol (LRS, gRFC A85) has named figures beside its counters, each a number of calls and a sum. A control plane that asks
//! for the figure `mesh.calls` ([`LoadReporting::with_calls`]) is told these, under names that begin so; whoever does not ask is told nothing, and one who asks and meets
//! another client finds nothing under the name. Both directions of the names are here and nowhere else:
//!
//! | figure | calls | sum |
//! |---|---|---|
//! | `mesh.calls.ms.5` | that took more than the bound before and at most 5 ms (Istio's bounds; `mesh.calls.ms.inf` above) | their milliseconds |
//! | `mesh.calls.failed.grpc.14.UF,URX` | that failed so: protocol, gRPC status or HTTP status, Envoy's response flags | the same |
//! | `mesh.calls.secured` | whose answer came over mutual TLS | the same |
//!
//! A call is counted here once, with all its tries and whether or not there was any; the protocol's own counters have each try.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::standard::{BOUNDS, End, Protocol, bucket_of};
use super::window::Figure;
#[cfg(doc)]
use crate::config::LoadReporting;

/// Before the names of figures in reports.
const PREFIX: &str = "named_metrics.mesh.calls.";
/// Beyond the last bound.
const BEYOND: &str = "inf";
/// The most ways to fail that are told apart in one cluster: a server chooses its status. What is beyond is `other`.
const MAX_FAILURES: usize = 32;
/// Durations, and one bucket for what took longer than all bounds.
const BUCKETS: usize = BOUNDS.len() + 1;

/// Where the calls to one cluster are counted.
#[derive(Debug, Default)]
pub struct Calls {
    asked: AtomicBool,
    buckets: [Bucket; BUCKETS],
    secured: AtomicU64,
    failed: Mutex<BTreeMap<Option<End>, u64>>,
}

/// Beside one another, since one call adds to both.
#[derive(Debug, Default)]
struct Bucket {
    calls: AtomicU64,
    microseconds: AtomicU64,
}

impl Calls {
    /// Whether they are told from now on.
    pub fn ask(&self, asked: bool) {
        self.asked.store(asked, Ordering::Relaxed);
    }

    /// A call ended, and its answer came over mutual TLS or did not.
    #[inline]
    pub fn count(&self, end: End, took: Duration, secured: bool) {
        let bucket = &self.buckets[bucket_of(took)];
        bucket.calls.fetch_add(1, Ordering::Relaxed);
        // Half a million years.
        bucket
            .microseconds
            .fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        if secured {
            self.secured.fetch_add(1, Ordering::Relaxed);
        }
        if is_failure(end) {
            self.fail(end);
        }
    }

    /// Takes a lock, since it is what fails.
    #[cold]
    fn fail(&self, end: End) {
        let mut failed = self.failed();
        let known = failed.contains_key(&Some(end)) || failed.len() < MAX_FAILURES;
        *failed.entry(known.then_some(end)).or_default() += 1;
    }

    /// What load reports tell; `None` while nobody asks.
    pub(super) fn told(&self) -> Option<BTreeMap<Box<str>, Figure>> {
        self.asked.load(Ordering::Relaxed).then(|| self.figures())
    }

    /// All figures that are not zero, by the names that reports use.
    fn figures(&self) -> BTreeMap<Box<str>, Figure> {
        let one = |calls: u64| Figure {
            calls,
            sum: calls as f64,
        };
        let mut figures = BTreeMap::new();
        for (at, bucket) in self.buckets.iter().enumerate() {
            let figure = Figure {
                calls: bucket.calls.load(Ordering::Relaxed),
                sum: bucket.microseconds.load(Ordering::Relaxed) as f64 / 1e3,
            };
            let bound = BOUNDS.get(at).copied().unwrap_or(BEYOND);
            figures.insert(format!("{PREFIX}ms.{bound}").into(), figure);
        }
        figures.insert(
            format!("{PREFIX}secured").into(),
            one(self.secured.load(Ordering::Relaxed)),
        );
        for (end, calls) in &*self.failed() {
            let name = match end {
                Some(end) => Failure::of(*end).name(),
                None => Failure::default().name(),
            };
            figures.entry(name).or_default().add(&one(*calls));
        }
        figures.retain(|_, figure| figure.calls > 0);
        figures
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<Option<End>, u64>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As load reports count it (gRFC A27, Envoy): a gRPC status other than OK, another call that got a 5xx or no answer.
fn is_failure(end: End) -> bool {
    match end.protocol {
        Protocol::Grpc => end.grpc != Some(0),
        Protocol::Http => end.code == 0 || end.code >= 500,
    }
}

/// How calls failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failure {
    /// `grpc`, `http`, or `other` where too many are told apart already.
    pub protocol: Box<str>,
    /// The gRPC status, or that of HTTP; 0: there was no answer.
    pub code: u16,
    /// Envoy's response flags, `-` where there is none.
    pub flags: Box<str>,
}

impl Default for Failure {
    /// One of those that are not told apart.
    fn default() -> Self {
        Self {
            protocol: "other".into(),
            code: 0,
            flags: "-".into(),
        }
    }
}

impl Failure {
    fn of(end: End) -> Self {
        let code = match end.protocol {
            Protocol::Grpc => end.grpc.map_or(0, u16::from),
            Protocol::Http => end.code,
        };
        Self {
            protocol: end.protocol.as_str().into(),
            code,
            flags: end.flags.to_string().into(),
        }
    }

    fn name(&self) -> Box<str> {
        let Self { protocol, code, flags } = self;
        format!("{PREFIX}failed.{protocol}.{code}.{flags}").into()
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        Some(Self {
            protocol: parts.next()?.into(),
            code: parts.next()?.parse().ok()?,
            flags: parts.next()?.into(),
        })
    }
}

/// What was told of the calls to a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallReport {
    /// By how long they took: in the order of Istio's bounds, and last what took longer. Their sums are milliseconds.
    pub durations: [Figure; BUCKETS],
    /// Those whose answer came over mutual TLS.
    pub secured: u64,
    /// Those that failed, by how.
    pub failed: BTreeMap<Failure, u64>,
}

impl CallReport {
    /// Adds what a client told in these figures; `false` where there is nothing of it among them. What it cannot mean is left out.
    pub fn add(&mut self, figures: &BTreeMap<Box<str>, Figure>) -> bool {
        let mut told = false;
        let of_calls = figures.range::<str, _>((Bound::Included(PREFIX), Bound::Unbounded));
        for (name, figure) in of_calls {
            let Some(name) = name.strip_prefix(PREFIX) else { break };
            told = true;
            let more = |count: &mut u64| *count = count.saturating_add(figure.calls);
            if name == "secured" {
                more(&mut self.secured);
            } else if let Some(failure) = name.strip_prefix("failed.").and_then(Failure::read) {
                more(self.failed.entry(failure).or_default());
            } else if let Some(bound) = name.strip_prefix("ms.") {
                let at = BOUNDS.iter().position(|known| *known == bound);
                let at = at.or_else(|| (bound == BEYOND).then_some(BOUNDS.len()));
                if let Some(at) = at {
                    self.durations[at].add(figure);
                }
            }
        }
        told
    }

    /// Adds another report.
    pub fn add_all(&mut self, other: &Self) {
        for (sum, more) in self.durations.iter_mut().zip(&other.durations) {
            sum.add(more);
        }
        self.secured = self.secured.saturating_add(other.secured);
        for (failure, calls) in &other.failed {
            let count = self.failed.entry(failure.clone()).or_default();
            *count = count.saturating_add(*calls);
        }
    }

    /// How many calls ended.
    pub fn calls(&self) -> u64 {
        self.durations
            .iter()
            .fold(0, |sum, figure| sum.saturating_add(figure.calls))
    }

    /// How many of them failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().fold(0, |sum, calls| sum.saturating_add(*calls))
    }

    /// How long they took on average, in milliseconds; `None` where there was none.
    pub fn mean_ms(&self) -> Option<f64> {
        let calls = self.calls();
        let sum: f64 = self.durations.iter().map(|figure| figure.sum).sum();
        (calls > 0).then(|| sum / calls as f64)
    }

    /// Within how many milliseconds this share of the calls ended, as Prometheus' `histogram_quantile` tells it: evenly spread within
    /// a bucket, and the last bound beyond it. `None` where there was no call.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let calls = self.calls();
        if calls == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * calls as f64;
        let (mut below, mut from) = (0.0, 0.0);
        for (figure, bound) in self.durations.iter().zip(bounds_ms()) {
            let inside = figure.calls as f64;
            if below + inside >= rank && figure.calls > 0 {
                return Some(from + (bound - from) * ((rank - below) / inside).clamp(0.0, 1.0));
            }
            (below, from) = (below + inside, bound);
        }
        Some(from)
    }
}

/// Istio's bounds, in milliseconds.
pub fn bounds_ms() -> impl Iterator<Item = f64> {
    BOUNDS.into_iter().map(|bound| bound.parse().unwrap_or(f64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::standard::Flags;

    fn told(calls: &Calls) -> CallReport {
        let mut report = CallReport::default();
        assert!(report.add(&calls.figures()) || report == CallReport::default());
        report
    }

    #[test]
    fn what_is_counted_is_read_again_from_its_names() {
        let calls = Calls::default();
        let ms = Duration::from_millis;
        calls.count(End::grpc(0), ms(5), true);
        calls.count(End::grpc(0), Duration::from_micros(5_001), true);
        calls.count(End::http(404), ms(400), true);
        let lost = End {
            flags: Flags::named(["URX", "UF"]),
            ..End::grpc(14)
        };
        calls.count(lost, ms(20), false);
        calls.count(lost, ms(7_200_000), false);
        calls.count(End::http(503), ms(20), false);
        calls.count(End::http(0), ms(20), false);
        let report = told(&calls);
        assert_eq!((report.calls(), report.failures(), report.secured), (7, 4, 3));
        let at = |bound: &str| report.durations[BOUNDS.iter().position(|one| *one == bound).unwrap()];
        assert_eq!(at("5"), Figure { calls: 1, sum: 5.0 });
        assert_eq!(at("10"), Figure { calls: 1, sum: 5.001 });
        assert_eq!((at("25").calls, report.durations[BUCKETS - 1].calls), (3, 1));
        let failed: Vec<_> = report
            .failed
            .iter()
            .map(|(failure, calls)| (&*failure.protocol, failure.code, &*failure.flags, *calls))
            .collect();
        assert_eq!(
            failed,
            [("grpc", 14, "UF,URX", 2), ("http", 0, "-", 1), ("http", 503, "-", 1)]
        );
    }

    #[test]
    fn ways_to_fail_beyond_the_bound_count_as_others() {
        let calls = Calls::default();
        for code in 0..MAX_FAILURES as u16 + 5 {
            calls.count(End::http(500 + code), Duration::ZERO, false);
            calls.count(End::http(500 + code), Duration::ZERO, false);
        }
        let report = told(&calls);
        assert_eq!(report.failed.len(), MAX_FAILURES + 1);
        assert_eq!(report.failed[&Failure::default()], 10);
        assert_eq!(report.failures(), report.calls());
    }

    #[test]
    fn what_a_client_cannot_mean_is_left_out() {
        let one = Figure { calls: 1, sum: 1.0 };
        let names = [
            "cpu_utilization",
            "named_metrics.mesh.calls",
            "named_metrics.mesh.calls.ms.4",
            "named_metrics.mesh.calls.failed.grpc",
            "named_metrics.mesh.calls.failed.grpc.x.-",
            "named_metrics.mesh.calls.new",
            "named_metrics.queue",
        ];
        let mut report = CallReport::default();
        assert!(report.add(&names.map(|name| (name.into(), one)).into()));
        assert_eq!(report, CallReport::default());
        assert!(!report.add(&[("named_metrics.queue".into(), one)].into()));
    }

    /// As Prometheus has it: `histogram_quantile` of the same buckets.
    #[test]
    fn quantiles_are_prometheus_ones() {
        let calls = Calls::default();
        for _ in 0..90 {
            calls.count(End::http(200), Duration::from_millis(3), false);
        }
        for _ in 0..10 {
            calls.count(End::http(200), Duration::from_millis(300), false);
        }
        let report = told(&calls);
        let close = |share, expected: f64| {
            let found = report.quantile_ms(share).unwrap();
            assert!((found - expected).abs() < 1e-9, "{share}: {found}");
        };
        close(0.5, 1.0 + 4.0 * 50.0 / 90.0);
        close(0.9, 5.0);
        close(0.99, 250.0 + 250.0 * 9.0 / 10.0);
        close(1.0, 500.0);
        assert!((report.mean_ms().unwrap() - 32.7).abs() < 1e-9);
        assert_eq!(CallReport::default().quantile_ms(0.5), None);
        let long = Calls::default();
        long.count(End::http(200), Duration::from_secs(100_000), false);
        assert_eq!(told(&long).quantile_ms(0.5), Some(3_600_000.0));
    }
}
