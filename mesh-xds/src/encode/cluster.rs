//! A cluster of type EDS.

use mesh_core::config::{Cluster, LbPolicy, LoadReporting, TRANSPORT_SOCKET_MATCH, TlsMatch, TlsMode};

use super::common::{ads, duration, texts, this_stream, uint};
use super::{Dialect, protocol, tls};
use crate::proto::cluster::{
    CircuitBreakers, Cluster as Proto,
    circuit_breakers::{Thresholds, thresholds::RetryBudget},
    cluster::{
        ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy as LbEnum, LeastRequestLbConfig,
        TransportSocketMatch,
    },
};
use crate::proto::core::{RoutingPriority, TransportSocket};
use crate::proto::percent::Percent;

pub(super) fn cluster(cluster: &Cluster, dialect: Dialect) -> Proto {
    let (lb_policy, lb_config) = match dialect {
        // The only one that Envoy takes for such a cluster.
        _ if cluster.by_authority => (LbEnum::ClusterProvided, None),
        Dialect::Mesh | Dialect::Envoy(_) => lb(cluster.lb),
        Dialect::Grpc => (LbEnum::RoundRobin, None),
    };
    // Envoy knows no `lrs_server` of a cluster: its bootstrap says where it reports (`load_stats_config`), and it is asked there.
    let reporting = match dialect {
        Dialect::Mesh | Dialect::Grpc => cluster.load_reporting.as_ref(),
        Dialect::Envoy(_) => None,
    };
    let mut threshold = Thresholds {
        priority: RoutingPriority::Default as i32,
        max_requests: uint(cluster.max_requests),
        max_retries: cluster.retry_limits.max.and_then(uint),
        retry_budget: cluster.retry_limits.budget.map(retry_budget),
        ..Thresholds::default()
    };
    if let Dialect::Envoy(_) = dialect {
        // Of what is not said Envoy has limits of its own (1024 connections and pending requests, 3 retries at once).
        threshold.max_connections = uint(u32::MAX);
        threshold.max_pending_requests = uint(cluster.max_requests);
        threshold.max_retries = uint(cluster.retry_limits.max.unwrap_or(cluster.max_requests));
    }
    let kind = match cluster.by_authority {
        true => DiscoveryType::OriginalDst,
        false => DiscoveryType::Eds,
    };
    let eds = || EdsClusterConfig {
        eds_config: ads(),
        service_name: cluster.name.to_string(),
    };
    Proto {
        name: cluster.name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        eds_cluster_config: (!cluster.by_authority).then(eds),
        connect_timeout: Some(duration(cluster.connect_timeout)),
        lb_policy: lb_policy as i32,
        lb_config,
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![threshold],
            ..CircuitBreakers::default()
        }),
        typed_extension_protocol_options: protocol::options(&cluster.connections),
        upstream_connection_options: cluster.connections.tcp_keep_alive.map(protocol::tcp),
        lrs_server: reporting.map(|_| this_stream()),
        lrs_report_endpoint_metrics: reporting.map(metrics).unwrap_or_default(),
        transport_socket: socket(own_mode(cluster, dialect), dialect),
        transport_socket_matches: match dialect {
            Dialect::Mesh | Dialect::Envoy(_) => {
                let matches = cluster.tls_matches.iter();
                matches.map(|one| tls_match(one, dialect)).collect()
            }
            Dialect::Grpc => Vec::new(),
        },
        ..Proto::default()
    }
}

fn retry_budget(budget: mesh_core::config::RetryBudget) -> RetryBudget {
    RetryBudget {
        budget_percent: Some(Percent {
            value: f64::from(budget.share) / 100.0,
        }),
        min_retry_concurrency: uint(budget.min_retry_concurrency),
        ..RetryBudget::default()
    }
}

/// gRPC's other clients refuse or ignore matches. Where they would be told plaintext and some endpoints are meant to be called
/// with TLS, they are told TLS: calls to the others fail then, where the other way round would send in the clear what must
/// not be.
fn own_mode(cluster: &Cluster, dialect: Dialect) -> &TlsMode {
    let modes = cluster.tls_matches.iter().map(|one| &one.mode);
    match (dialect, &cluster.tls) {
        (Dialect::Grpc, TlsMode::Plaintext) => {
            let mut secure = modes.filter(|mode| **mode != TlsMode::Plaintext);
            secure.next().unwrap_or(&cluster.tls)
        }
        _ => &cluster.tls,
    }
}

fn socket(mode: &TlsMode, dialect: Dialect) -> Option<TransportSocket> {
    match mode {
        TlsMode::Plaintext => None,
        TlsMode::Mutual(mutual) => Some(tls::upstream(mutual, dialect)),
        TlsMode::Origination(outside) => Some(tls::outside(outside, dialect)),
    }
}

fn tls_match(one: &TlsMatch, dialect: Dialect) -> TransportSocketMatch {
    let values = one.when.iter();
    let values = values.filter_map(|(filter, key, value)| (filter == TRANSPORT_SOCKET_MATCH).then_some((key, value)));
    TransportSocketMatch {
        name: one.name.clone().into(),
        r#match: Some(texts(values)),
        transport_socket: Some(socket(&one.mode, dialect).unwrap_or_else(tls::raw_buffer)),
    }
}

fn metrics(reporting: &LoadReporting) -> Vec<String> {
    reporting.metrics.iter().map(ToString::to_string).collect()
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
