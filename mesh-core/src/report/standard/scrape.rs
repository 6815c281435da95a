//! What a scrape is told of the pairs: Istio's families, by Istio's names.

use std::fmt;
use std::time::Instant;

use super::edge::Edge;
use super::numbers::{Numbers, Reading};
use super::{BOUNDS, Edges, End, Protocol};
use crate::report::exposition::{Exposition, FamilyKind, Labels};

/// The code of the series in which a pair counts what it has no series for.
const OTHER: &str = "other";

/// What is told of one pair.
struct Row {
    ends: Vec<(Labels, [Reading; 3])>,
    /// Of a pair that spoke gRPC.
    messages: Option<(Labels, [u64; 2])>,
}

/// How a histogram's sum is written.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    /// Counted in nanoseconds.
    Milliseconds,
}

/// A sum, in its unit: exact, and without a point where none is needed.
struct Sum(u64, Unit);

/// Name, help, and unit of the histograms, in their order in a [`Row`].
const HISTOGRAMS: [(&str, &str, Unit); 3] = [
    (
        "istio_request_duration_milliseconds",
        "How long calls took, from their beginning to the last byte of the answer.",
        Unit::Milliseconds,
    ),
    ("istio_request_bytes", "Bytes of the bodies of requests.", Unit::Bytes),
    ("istio_response_bytes", "Bytes of the bodies of answers.", Unit::Bytes),
];

/// Name and help of the counters of messages, in their order in a [`Row`].
const MESSAGES: [(&str, &str); 2] = [
    ("istio_request_messages_total", "Messages of gRPC that callers sent."),
    (
        "istio_response_messages_total",
        "Messages of gRPC that the called sent.",
    ),
];

impl Edges {
    /// Writes Istio's families, and lets go of the pairs that nobody has called for long. `now` is the moment of the scrape.
    pub fn expose(&self, now: Instant, out: &mut Exposition) {
        let rows: Vec<Row> = self.scraped(now).iter().map(|edge| Row::of(edge)).collect();
        out.family("istio_requests_total", FamilyKind::Counter, "Calls that ended.");
        for (labels, readings) in rows.iter().flat_map(|row| &row.ends) {
            out.sample(labels, readings[0].count());
        }
        for (at, (name, help, unit)) in HISTOGRAMS.into_iter().enumerate() {
            out.family(name, FamilyKind::Histogram, help);
            for (labels, readings) in rows.iter().flat_map(|row| &row.ends) {
                histogram(out, labels, &readings[at], unit);
            }
        }
        for (at, (name, help)) in MESSAGES.into_iter().enumerate() {
            out.family(name, FamilyKind::Counter, help);
            for (labels, counts) in rows.iter().filter_map(|row| row.messages.as_ref()) {
                out.sample(labels, counts[at]);
            }
        }
        out.family("istio_build", FamilyKind::Gauge, "1, and what was built.");
        out.labelled(&[("component", "proxy"), ("tag", env!("CARGO_PKG_VERSION"))], 1);
        self.expose_bounds(out);
    }

    /// How near the bounds are.
    fn expose_bounds(&self, out: &mut Exposition) {
        out.family(
            "mesh_metrics_edges",
            FamilyKind::Gauge,
            "Pairs of workloads that are counted apart.",
        );
        out.labelled(&[], self.len());
        out.family(
            "mesh_metrics_series",
            FamilyKind::Gauge,
            "Series of all pairs: a pair has one for each way in which its calls ended.",
        );
        out.labelled(&[], self.series());
        let [edges, calls] = self.overflown();
        out.family(
            "mesh_metrics_overflow_total",
            FamilyKind::Counter,
            "Pairs that found no place of their own (bound=\"edges\"), and calls that found none for how they ended (bound=\"series\").",
        );
        out.labelled(&[("bound", "edges")], edges);
        out.labelled(&[("bound", "series")], calls);
    }
}

impl Row {
    fn of(edge: &Edge) -> Self {
        let common = edge.labels().write();
        let readings = |numbers: &Numbers| {
            [&numbers.duration, &numbers.request_bytes, &numbers.response_bytes].map(|histogram| histogram.read())
        };
        let series = edge.series();
        let ends = series.iter().map(|(end, numbers)| {
            let mut labels = common.clone();
            write_end(&mut labels, *end);
            edge.labels().write_security(&mut labels);
            (labels, readings(numbers))
        });
        let ends = ends.collect();
        let is_grpc = |end: &Option<End>| end.is_some_and(|end| end.protocol == Protocol::Grpc);
        let counts = edge.message_counts();
        let spoke_grpc = counts != [0, 0] || series.iter().any(|(end, _)| is_grpc(end));
        let messages = spoke_grpc.then(|| {
            let mut labels = common;
            labels.add("request_protocol", Protocol::Grpc.as_str());
            (labels, counts)
        });
        Self { ends, messages }
    }
}

/// The labels that tell how a call ended.
fn write_end(labels: &mut Labels, end: Option<End>) {
    let known = end.unwrap_or_default();
    let (code, grpc) = (known.code.to_string(), known.grpc.map(|status| status.to_string()));
    labels.add("request_protocol", known.protocol.as_str());
    labels.add("response_code", end.map_or(OTHER, |_| &code));
    labels.add("grpc_response_status", grpc.as_deref().unwrap_or_default());
    labels.add("response_flags", &known.flags.to_string());
}

fn histogram(out: &mut Exposition, labels: &Labels, reading: &Reading, unit: Unit) {
    let mut below = 0;
    for (at, hits) in reading.buckets.into_iter().enumerate() {
        below += hits;
        out.bucket(labels, BOUNDS.get(at).unwrap_or(&"+Inf"), below);
    }
    out.part("_sum", labels, Sum(reading.sum, unit));
    out.part("_count", labels, below);
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NANOSECONDS: u64 = 1_000_000;
        let Self(sum, Unit::Milliseconds) = *self else {
            return write!(f, "{}", self.0);
        };
        match sum % NANOSECONDS {
            0 => write!(f, "{}", sum / NANOSECONDS),
            part => {
                let part = format!("{part:06}");
                write!(f, "{}.{}", sum / NANOSECONDS, part.trim_end_matches('0'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact() {
        let milliseconds = |sum| Sum(sum, Unit::Milliseconds).to_string();
        assert_eq!(milliseconds(0), "0");
        assert_eq!(milliseconds(250_000), "0.25");
        assert_eq!(milliseconds(1_000_001), "1.000001");
        assert_eq!(milliseconds(u64::MAX), "18446744073709.551615");
        assert_eq!(Sum(u64::MAX, Unit::Bytes).to_string(), u64::MAX.to_string());
    }
}
