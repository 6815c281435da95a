//! A cluster that stands for others (Envoy `envoy.clusters.aggregate`, gRFC A37): their names, in order.
//!
//! Nothing else is said of it, since nothing else is its own: its leaves are resources like all others, and what holds for the
//! whole is theirs to say (gRFC A75).

use mesh_core::config::Cluster;

use super::Dialect;
use crate::proto::aggregate::ClusterConfig;
use crate::proto::cluster::{
    Cluster as Proto,
    cluster::{ClusterDiscoveryType, CustomClusterType, LbPolicy},
};
use crate::proto::pack;

/// The name by which Envoy and gRPC know the type.
const AGGREGATE: &str = "envoy.clusters.aggregate";

pub(super) fn cluster(cluster: &Cluster, dialect: Dialect) -> Proto {
    let config = ClusterConfig {
        clusters: cluster.leaves.iter().map(|leaf| leaf.name.to_string()).collect(),
    };
    let kind = CustomClusterType {
        name: AGGREGATE.into(),
        typed_config: Some(pack(&config)),
    };
    let policy = match dialect {
        // The only one that it takes for such a cluster, and one that gRPC's clients refuse.
        Dialect::Envoy(_) => LbPolicy::ClusterProvided,
        Dialect::Mesh | Dialect::Grpc | Dialect::Sidecar => LbPolicy::RoundRobin,
    };
    Proto {
        name: cluster.name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(kind)),
        lb_policy: policy as i32,
        ..Proto::default()
    }
}
