//! Load reports (LRS) as plain values, and both halves of the stub that carries them.
//!
//! A report is a list of [`ClusterLoad`]s, the same value at both ends: what the data plane's counters give is what a control
//! plane keeps. A conversion from the wire drops what no counter gives: figures that are not finite numbers.

mod client;
#[cfg(feature = "server")]
mod server;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use mesh_core::report::ClusterLoad;

use crate::node::Node;
use crate::proto::load_stats::{LoadStatsRequest, LoadStatsResponse};
use crate::proto::protobuf;

pub(crate) use client::{Ended, IncomingLoad};
#[cfg(feature = "server")]
pub(crate) use server::{LoadServer, Reports, Responses, TakeLoad, service};

#[cfg(feature = "server")]
const SERVICE: &str = "envoy.service.load_stats.v3.LoadReportingService";
const METHOD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// What a client reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LoadRequest {
    /// Who reports. Only in the first request of a stream.
    pub(crate) node: Option<Arc<Node>>,
    /// How long that took, by the client's clock; zero when it did not say.
    pub(crate) span: Duration,
    pub(crate) clusters: Vec<ClusterLoad>,
}

/// What a server asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoadResponse {
    /// The clusters to report on.
    pub(crate) clusters: Vec<Arc<str>>,
    /// Every cluster that the client knows is to be reported on; `clusters` is not looked at then.
    pub(crate) all: bool,
    /// How often. `None` when it is missing or no duration.
    pub(crate) interval: Option<Duration>,
}

impl From<LoadRequest> for LoadStatsRequest {
    fn from(request: LoadRequest) -> Self {
        let cluster = |load| stats::to_stats(load, request.span);
        Self {
            node: request.node.map(|node| (&*node).into()),
            cluster_stats: request.clusters.into_iter().map(cluster).collect(),
        }
    }
}

impl From<LoadStatsRequest> for LoadRequest {
    fn from(request: LoadStatsRequest) -> Self {
        // One span for all: a client takes the window of all its clusters at once.
        let spans = request.cluster_stats.iter();
        let span = spans
            .filter_map(|stats| from_duration(stats.load_report_interval.as_ref()?))
            .max();
        Self {
            node: request.node.map(|node| Arc::new(node.into())),
            span: span.unwrap_or_default(),
            clusters: request.cluster_stats.into_iter().map(stats::from_stats).collect(),
        }
    }
}

impl From<LoadResponse> for LoadStatsResponse {
    fn from(response: LoadResponse) -> Self {
        Self {
            clusters: response.clusters.iter().map(|name| String::from(&**name)).collect(),
            send_all_clusters: response.all,
            load_reporting_interval: response.interval.map(to_duration),
            report_endpoint_granularity: false,
        }
    }
}

impl From<LoadStatsResponse> for LoadResponse {
    fn from(response: LoadStatsResponse) -> Self {
        Self {
            clusters: response.clusters.into_iter().map(Arc::from).collect(),
            all: response.send_all_clusters,
            interval: response.load_reporting_interval.as_ref().and_then(from_duration),
        }
    }
}

fn to_duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}

fn from_duration(duration: &protobuf::Duration) -> Option<Duration> {
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(duration.seconds).ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use mesh_core::config::Locality;
    use mesh_core::report::{Counts, Figure, LocalityLoad};

    use super::*;
    use crate::proto::endpoint::EndpointLoadMetricStats;

    fn load() -> ClusterLoad {
        let figure = |calls, sum| Figure { calls, sum };
        ClusterLoad {
            localities: vec![LocalityLoad {
                locality: Arc::new(Locality {
                    region: "r".into(),
                    zone: "z".into(),
                    sub_zone: "s".into(),
                }),
                counts: Counts {
                    issued: 9,
                    succeeded: 4,
                    errored: 2,
                    in_progress: 3,
                },
                figures: [
                    ("cpu_utilization".into(), figure(3, 1.5)),
                    ("mem_utilization".into(), figure(2, 0.5)),
                    ("application_utilization".into(), figure(1, 1.0)),
                    ("named_metrics.q".into(), figure(4, -2.25)),
                ]
                .into(),
            }],
            drops: [("lb".into(), 5), ("throttle".into(), 6)].into(),
            uncategorised_drops: 7,
            ..ClusterLoad::new("c".into(), "eds".into())
        }
    }

    #[test]
    fn reports_cross_the_wire_unchanged() {
        let request = LoadRequest {
            node: Some(Arc::new(Node::default())),
            span: Duration::from_millis(1_250),
            clusters: vec![load()],
        };
        let there = LoadStatsRequest::from(request.clone());
        let stats = &there.cluster_stats[0];
        assert_eq!((stats.total_dropped_requests, stats.dropped_requests.len()), (18, 2));
        let locality = &stats.upstream_locality_stats[0];
        assert_eq!(locality.cpu_utilization.unwrap().total_metric_value, 1.5);
        assert_eq!(
            locality.load_metric_stats.len(),
            1,
            "the three have fields of their own"
        );
        assert_eq!(LoadRequest::from(there), request);
        let response = LoadResponse {
            clusters: vec!["c".into()],
            all: true,
            interval: Some(Duration::from_millis(100)),
        };
        assert_eq!(LoadResponse::from(LoadStatsResponse::from(response.clone())), response);
    }

    #[test]
    fn what_no_counter_gives_is_not_taken_over() {
        let mut stats = stats::to_stats(load(), Duration::ZERO);
        stats.total_dropped_requests = 3;
        stats.upstream_locality_stats[0]
            .load_metric_stats
            .push(EndpointLoadMetricStats {
                metric_name: "named_metrics.bad".into(),
                num_requests_finished_with_metric: 1,
                total_metric_value: f64::NAN,
            });
        let taken = stats::from_stats(stats);
        assert_eq!(taken.uncategorised_drops, 0, "less in all than by category");
        assert_eq!(taken.localities[0].figures.len(), 4);
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            let response = LoadStatsResponse {
                load_reporting_interval: Some(protobuf::Duration { seconds, nanos }),
                ..LoadStatsResponse::default()
            };
            assert_eq!(LoadResponse::from(response).interval, None);
        }
    }
}
