//! The load of a cluster to and from the messages that report it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{Locality, ReportedMetric};
use mesh_core::report::{ClusterLoad, Counts, Figure, LocalityLoad};

use super::to_duration;
use crate::proto::core;
use crate::proto::endpoint::{
    ClusterStats, EndpointLoadMetricStats, UnnamedEndpointLoadMetricStats, UpstreamLocalityStats,
    cluster_stats::DroppedRequests,
};

pub(super) fn to_stats(load: ClusterLoad, span: Duration) -> ClusterStats {
    ClusterStats {
        cluster_name: load.cluster.to_string(),
        cluster_service_name: String::from(&*load.service),
        total_dropped_requests: load.dropped(),
        upstream_locality_stats: load.localities.into_iter().map(to_locality).collect(),
        dropped_requests: load
            .drops
            .into_iter()
            .map(|(category, dropped_count)| DroppedRequests {
                category: category.into(),
                dropped_count,
            })
            .collect(),
        load_report_interval: Some(to_duration(span)),
    }
}

pub(super) fn from_stats(stats: ClusterStats) -> ClusterLoad {
    let mut load = ClusterLoad::new(stats.cluster_name.into(), stats.cluster_service_name.into());
    load.localities = stats.upstream_locality_stats.into_iter().map(from_locality).collect();
    for one in stats.dropped_requests {
        let count = load.drops.entry(one.category.into()).or_default();
        *count = count.saturating_add(one.dropped_count);
    }
    load.uncategorised_drops = stats.total_dropped_requests.saturating_sub(load.dropped());
    load
}

fn to_locality(load: LocalityLoad) -> UpstreamLocalityStats {
    let mut figures = load.figures;
    // Three have fields of their own (gRFC A85).
    let mut own = |metric: ReportedMetric| {
        let figure = figures.remove(&*metric.to_string())?;
        Some(UnnamedEndpointLoadMetricStats {
            num_requests_finished_with_metric: figure.calls,
            total_metric_value: figure.sum,
        })
    };
    UpstreamLocalityStats {
        locality: Some(core::Locality {
            region: load.locality.region.clone().into(),
            zone: load.locality.zone.clone().into(),
            sub_zone: load.locality.sub_zone.clone().into(),
        }),
        total_successful_requests: load.counts.succeeded,
        total_requests_in_progress: load.counts.in_progress,
        total_error_requests: load.counts.errored,
        total_issued_requests: load.counts.issued,
        cpu_utilization: own(ReportedMetric::CpuUtilization),
        mem_utilization: own(ReportedMetric::MemUtilization),
        application_utilization: own(ReportedMetric::ApplicationUtilization),
        load_metric_stats: figures
            .into_iter()
            .map(|(name, figure)| EndpointLoadMetricStats {
                metric_name: name.into(),
                num_requests_finished_with_metric: figure.calls,
                total_metric_value: figure.sum,
            })
            .collect(),
        ..UpstreamLocalityStats::default()
    }
}

fn from_locality(stats: UpstreamLocalityStats) -> LocalityLoad {
    let locality = stats.locality.unwrap_or_default();
    let own = [
        (ReportedMetric::CpuUtilization, stats.cpu_utilization),
        (ReportedMetric::MemUtilization, stats.mem_utilization),
        (ReportedMetric::ApplicationUtilization, stats.application_utilization),
    ];
    let own = own.into_iter().filter_map(|(metric, stats)| {
        let stats = stats?;
        let name = metric.to_string();
        Some((name, stats.num_requests_finished_with_metric, stats.total_metric_value))
    });
    let named = stats.load_metric_stats.into_iter().map(|stats| {
        let (calls, sum) = (stats.num_requests_finished_with_metric, stats.total_metric_value);
        (stats.metric_name, calls, sum)
    });
    let mut figures: BTreeMap<Box<str>, Figure> = BTreeMap::new();
    for (name, calls, sum) in named.chain(own).filter(|(_, _, sum)| sum.is_finite()) {
        figures.entry(name.into()).or_default().add(&Figure { calls, sum });
    }
    LocalityLoad {
        locality: Arc::new(Locality {
            region: locality.region.into(),
            zone: locality.zone.into(),
            sub_zone: locality.sub_zone.into(),
        }),
        counts: Counts {
            issued: stats.total_issued_requests,
            succeeded: stats.total_successful_requests,
            errored: stats.total_error_requests,
            in_progress: stats.total_requests_in_progress,
        },
        figures,
    }
}
