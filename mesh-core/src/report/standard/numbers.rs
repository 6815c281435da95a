//! The numbers of one series: three histograms, of which the number of calls is one's count.
//!
//! Only integers are added, nanoseconds and bytes; they become Istio's milliseconds when somebody reads. The number of calls is
//! not kept besides: it is what the durations' buckets add up to, so that the families agree in every scrape.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of all of Istio's histograms, milliseconds and bytes alike, as Envoy has them. Beyond the last is `+Inf`.
/// Exactly these: series of sidecars and of processes are added up by bound.
pub const BOUNDS: [&str; 19] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000",
    "300000", "600000", "1800000", "3600000",
];

/// The same in halves of the unit.
const HALVES: [u64; BOUNDS.len()] = [
    1, 2, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 600_000, 1_200_000,
    3_600_000, 7_200_000,
];

/// In nanoseconds.
const DURATIONS: [u64; BOUNDS.len()] = scaled(500_000, 1);
/// In whole bytes, of which at most half a one is none.
const SIZES: [u64; BOUNDS.len()] = scaled(1, 2);

const fn scaled(times: u64, parts: u64) -> [u64; BOUNDS.len()] {
    let mut bounds = HALVES;
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = bounds[at] * times / parts;
        at += 1;
    }
    bounds
}

/// The place among [`BOUNDS`] of the first that a duration is within; their number where it is within none.
#[inline]
pub(in crate::report) fn bucket_of(duration: Duration) -> usize {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    DURATIONS.partition_point(|bound| *bound < nanoseconds)
}

/// What is measured of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// From its beginning to the last byte of its answer.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
}

/// How often each bucket was hit, and what was added up.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

/// What a histogram stood at, bucket by bucket (not yet cumulative).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    pub(super) sum: u64,
}

#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

impl Numbers {
    #[inline]
    pub(super) fn add(&self, amounts: Amounts) {
        // 584 years.
        let nanoseconds = u64::try_from(amounts.duration.as_nanos()).unwrap_or(u64::MAX);
        self.duration.add(&DURATIONS, nanoseconds);
        self.request_bytes.add(&SIZES, amounts.request_bytes);
        self.response_bytes.add(&SIZES, amounts.response_bytes);
    }

    pub(super) fn calls(&self) -> u64 {
        self.duration.read().count()
    }
}

impl Histogram {
    #[inline]
    fn add(&self, bounds: &[u64; BOUNDS.len()], value: u64) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Reading {
        Reading {
            buckets: std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed)),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl Reading {
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that is a bound is within it, and the next is not; the texts say what the numbers are.
    #[test]
    fn bounds_are_istios_in_both_units() {
        for (at, text) in BOUNDS.into_iter().enumerate() {
            let bound: f64 = text.parse().unwrap();
            assert_eq!(DURATIONS[at] as f64, bound * 1e6, "{text}");
            assert_eq!(SIZES[at] as f64, bound.floor(), "{text}");
            for (bounds, unit) in [(&DURATIONS, 1), (&SIZES, 1)] {
                let histogram = Histogram::default();
                histogram.add(bounds, bounds[at]);
                histogram.add(bounds, bounds[at] + unit);
                let read = histogram.read();
                assert_eq!((read.buckets[at], read.buckets[at + 1]), (1, 1), "{text}");
                assert_eq!((read.count(), read.sum), (2, 2 * bounds[at] + 1));
            }
        }
    }
}
