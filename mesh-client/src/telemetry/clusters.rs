//! What the live clusters are doing, for Prometheus: what [`clusters`](crate::clusters) says, and what their retry budgets hold.

use std::time::Instant;

use mesh_core::report::{Expose, Exposition, FamilyKind};

use crate::cluster::{BreakerStatus, ClusterManager, ClusterStatus, status_of};

/// How a breaker of a status is read.
type Used = fn(&BreakerStatus) -> u32;

/// By Envoy's names of the limits.
const BREAKERS: [(&str, Used); 3] = [
    ("max_connections", |status| status.connections.used),
    ("max_pending_requests", |status| status.pending_requests.used),
    ("max_requests", |status| status.requests.used),
];

impl Expose for ClusterManager {
    fn expose(&self, _: Instant, out: &mut Exposition) {
        let clusters = status_of(self);
        if clusters.is_empty() {
            return;
        }
        out.family(
            "mesh_cluster_endpoints",
            FamilyKind::Gauge,
            "Endpoints that the configuration of a cluster has.",
        );
        for cluster in &clusters {
            out.labelled(&[("cluster", cluster.name.as_str())], cluster.endpoints);
        }
        out.family(
            "mesh_cluster_ejected_endpoints",
            FamilyKind::Gauge,
            "Endpoints that outlier detection has taken out.",
        );
        for cluster in &clusters {
            out.labelled(&[("cluster", cluster.name.as_str())], cluster.ejected.len());
        }
        out.family(
            "mesh_cluster_breaker_used",
            FamilyKind::Gauge,
            "How much of a circuit breaker is in use, by Envoy's name of its limit.",
        );
        for cluster in &clusters {
            breakers(cluster, out);
        }
        self.expose_budgets(out);
        self.expose_fates(out);
    }
}

fn breakers(cluster: &ClusterStatus, out: &mut Exposition) {
    for (priority, status) in [("default", &cluster.default), ("high", &cluster.high)] {
        for (limit, used) in BREAKERS {
            let labels = [
                ("cluster", cluster.name.as_str()),
                ("priority", priority),
                ("limit", limit),
            ];
            out.labelled(&labels, used(status));
        }
    }
}

impl ClusterManager {
    fn expose_fates(&self, out: &mut Exposition) {
        let mut clusters = self.live_clusters();
        clusters.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        out.family(
            "mesh_cluster_retries_total",
            FamilyKind::Counter,
            "What became of the retries of a cluster's calls.",
        );
        for cluster in &clusters {
            for (fate, count) in cluster.fates().retries() {
                out.labelled(&[("cluster", cluster.name().as_str()), ("fate", fate)], count);
            }
        }
        out.family(
            "mesh_cluster_breaker_refusals_total",
            FamilyKind::Counter,
            "Tries of a cluster's calls that a circuit breaker refused, by Envoy's name of its limit.",
        );
        for cluster in &clusters {
            for (limit, count) in cluster.fates().refusals() {
                out.labelled(&[("cluster", cluster.name().as_str()), ("limit", limit)], count);
            }
        }
    }

    fn expose_budgets(&self, out: &mut Exposition) {
        let mut clusters = self.live_clusters();
        clusters.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        out.family(
            "mesh_cluster_retry_budget_saved",
            FamilyKind::Gauge,
            "Retries that the budget of a cluster would pay for now.",
        );
        for cluster in &clusters {
            out.labelled(&[("cluster", cluster.name().as_str())], cluster.budget().saved());
        }
        out.family(
            "mesh_cluster_retries_in_flight",
            FamilyKind::Gauge,
            "Retries of a cluster's calls that are in flight or wait to be.",
        );
        for cluster in &clusters {
            out.labelled(&[("cluster", cluster.name().as_str())], cluster.budget().retrying());
        }
    }
}
