//! A cluster of type EDS.

use std::collections::HashMap;

use mesh_core::config::{Cluster, LbPolicy, TlsMode};
use prost::Name;

use super::common::{ads, duration, uint};
use super::{Dialect, tls};
use crate::proto::cluster::{
    CircuitBreakers, Cluster as Proto,
    circuit_breakers::Thresholds,
    cluster::{
        ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy as LbEnum, LeastRequestLbConfig,
    },
};
use crate::proto::core::{Http2ProtocolOptions, RoutingPriority};
use crate::proto::pack;
use crate::proto::upstream_http::{
    HttpProtocolOptions,
    http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
};

pub(super) fn cluster(cluster: &Cluster, dialect: Dialect) -> Proto {
    let (lb_policy, lb_config) = match dialect {
        Dialect::Mesh | Dialect::Envoy(_) => lb(cluster.lb),
        Dialect::Grpc => (LbEnum::RoundRobin, None),
    };
    let mut threshold = Thresholds {
        priority: RoutingPriority::Default as i32,
        max_requests: uint(cluster.max_requests),
        ..Thresholds::default()
    };
    if let Dialect::Envoy(_) = dialect {
        // Of what is not said Envoy has limits of its own (1024 connections and pending requests, 3 retries at once).
        threshold.max_connections = uint(u32::MAX);
        threshold.max_pending_requests = uint(cluster.max_requests);
        threshold.max_retries = uint(cluster.max_requests);
    }
    Proto {
        name: cluster.name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: ads(),
            service_name: cluster.name.to_string(),
        }),
        connect_timeout: Some(duration(cluster.connect_timeout)),
        lb_policy: lb_policy as i32,
        lb_config,
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![threshold],
            ..CircuitBreakers::default()
        }),
        typed_extension_protocol_options: http2(),
        transport_socket: match &cluster.tls {
            TlsMode::Plaintext => None,
            TlsMode::Mutual(mutual) => Some(tls::upstream(mutual, dialect)),
        },
        ..Proto::default()
    }
}

fn lb(policy: LbPolicy) -> (LbEnum, Option<LbConfig>) {
    match policy {
        LbPolicy::RoundRobin => (LbEnum::RoundRobin, None),
        LbPolicy::Random => (LbEnum::Random, None),
        LbPolicy::LeastRequest { choices } => {
            let config = LeastRequestLbConfig {
                choice_count: uint(choices),
                ..LeastRequestLbConfig::default()
            };
            (LbEnum::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config)))
        }
    }
}

/// Envoy speaks HTTP/1.1 to a cluster that does not say otherwise; gRPC ignores this.
fn http2() -> HashMap<String, crate::proto::protobuf::Any> {
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())),
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HttpProtocolOptions::full_name(), pack(&options))])
}
