//! A cluster of type EDS.

use mesh_core::config::{
    Cluster, Failover, Health, HealthSet, LoadReporting, Service, TRANSPORT_SOCKET_MATCH, TlsMatch, TlsMode,
};

use super::common::{ads, duration, texts, this_stream, uint};
use super::{Dialect, around, breakers, lb, outlier, protocol, tls};
use crate::convention::UNSERVED;
use crate::proto::cluster::{
    Cluster as Proto,
    cluster::{
        ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy as LbEnum,
        TransportSocketMatch,
        common_lb_config::{
            ConsistentHashingLbConfig, LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
        },
    },
};
use crate::proto::core::{HealthStatus, HealthStatusSet, Metadata, TransportSocket};
use crate::proto::percent::Percent;
use crate::proto::protobuf::{ListValue, Struct, Value, value::Kind};

pub(super) fn cluster(cluster: &Cluster, dialect: Dialect) -> Proto {
    let lb = match cluster.by_authority {
        // The only one that Envoy takes for such a cluster.
        true => lb::Lb {
            policy: LbEnum::ClusterProvided,
            ..lb::Lb::default()
        },
        false => lb::lb(&cluster.lb, dialect),
    };
    let lb = match dialect {
        Dialect::Mesh | Dialect::Sidecar | Dialect::Envoy(_) => lb.starting(cluster.common_lb.slow_start),
        // gRPC's other clients have no such thing.
        Dialect::Grpc => lb,
    };
    let lb = match around::list(cluster, dialect) {
        Some(list) => lb::Lb {
            list: Some(list),
            ..lb::Lb::default()
        },
        None => lb,
    };
    let unserved = is_unserved(cluster, dialect);
    // Envoy knows no `lrs_server` of a cluster: its bootstrap says where it reports (`load_stats_config`), and it is asked there.
    let reporting = match dialect {
        // No call of it ends anywhere.
        _ if unserved => None,
        Dialect::Mesh | Dialect::Grpc | Dialect::Sidecar => cluster.load_reporting.as_ref(),
        Dialect::Envoy(_) => None,
    };
    let kind = match cluster.by_authority {
        true => DiscoveryType::OriginalDst,
        false => DiscoveryType::Eds,
    };
    let eds = || EdsClusterConfig {
        eds_config: ads(),
        service_name: match unserved {
            true => UNSERVED.to_owned(),
            false => cluster.name.to_string(),
        },
    };
    Proto {
        name: cluster.name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        eds_cluster_config: (!cluster.by_authority).then(eds),
        connect_timeout: Some(duration(cluster.connect_timeout)),
        lb_policy: lb.policy as i32,
        lb_config: lb.config,
        load_balancing_policy: lb.list,
        common_lb_config: common_lb(cluster, dialect),
        circuit_breakers: Some(breakers::breakers(&cluster.breakers, dialect)),
        outlier_detection: cluster.outlier.as_ref().map(|one| outlier::outlier(one, dialect)),
        metadata: cluster.service.as_deref().map(services),
        typed_extension_protocol_options: protocol::options(&cluster.connections),
        upstream_connection_options: cluster.connections.tcp_keep_alive.map(protocol::tcp),
        lrs_server: reporting.map(|_| this_stream()),
        lrs_report_endpoint_metrics: reporting.map(metrics).unwrap_or_default(),
        transport_socket: match unserved {
            // Nobody is called by it.
            true => None,
            false => socket(own_mode(cluster, dialect), dialect),
        },
        transport_socket_matches: match dialect {
            Dialect::Mesh | Dialect::Sidecar | Dialect::Envoy(_) => {
                let matches = cluster.tls_matches.iter();
                matches.map(|one| tls_match(one, dialect)).collect()
            }
            Dialect::Grpc => Vec::new(),
        },
        ..Proto::default()
    }
}

/// Whether a client of this kind is told that it has no endpoints: it has no certificate provider for what the cluster asks for, and would
/// refuse it for ever.
pub(super) fn is_unserved(cluster: &Cluster, dialect: Dialect) -> bool {
    let mode = own_mode(cluster, dialect);
    dialect == Dialect::Grpc && matches!(mode, TlsMode::Origination(outside) if outside.asks_for_the_callers_own())
}

/// Which service it is for, in Istio's words, which its sidecars read for metrics as well.
fn services(service: &Service) -> Metadata {
    let said = [
        ("host", service.host()),
        ("name", service.name()),
        ("namespace", service.namespace()),
    ];
    let first = Value {
        kind: Some(Kind::StructValue(texts(said))),
    };
    let all = Value {
        kind: Some(Kind::ListValue(ListValue { values: vec![first] })),
    };
    let istio = Struct {
        fields: [("services".to_owned(), all)].into_iter().collect(),
    };
    Metadata {
        filter_metadata: [("istio".to_owned(), istio)].into_iter().collect(),
        ..Metadata::default()
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

/// The threshold says that Envoy's rules are meant; gRPC's are what holds without it. Envoy knows no others, and gRPC's other
/// clients none but theirs.
fn common_lb(cluster: &Cluster, dialect: Dialect) -> Option<CommonLbConfig> {
    let common = &cluster.common_lb;
    let override_host_status = (common.held != HealthSet::CALLABLE).then(|| HealthStatusSet {
        statuses: common
            .held
            .iter()
            .flat_map(statuses)
            .map(|status| *status as i32)
            .collect(),
    });
    let balance = match dialect {
        Dialect::Mesh | Dialect::Sidecar | Dialect::Envoy(_) => cluster.lb.balance(),
        // gRPC's other clients have no such thing.
        Dialect::Grpc => None,
    };
    let consistent_hashing_lb_config = balance.map(|factor| ConsistentHashingLbConfig {
        hash_balance_factor: uint(factor.percent()),
        ..ConsistentHashingLbConfig::default()
    });
    if common.failover == Failover::FirstReady || matches!(dialect, Dialect::Grpc) {
        let says = override_host_status.is_some() || consistent_hashing_lb_config.is_some();
        return says.then(|| CommonLbConfig {
            override_host_status,
            consistent_hashing_lb_config,
            ..CommonLbConfig::default()
        });
    }
    let by_locality = common.by_locality && !around::says_locality(common);
    let specifier = match (by_locality, common.fail_on_panic) {
        (true, _) => Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
            LocalityWeightedLbConfig::default(),
        )),
        (false, true) => Some(LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
            fail_traffic_on_panic: true,
            ..ZoneAwareLbConfig::default()
        })),
        (false, false) => None,
    };
    Some(CommonLbConfig {
        healthy_panic_threshold: Some(Percent {
            value: common.panic_threshold.get().into(),
        }),
        locality_config_specifier: specifier,
        override_host_status,
        consistent_hashing_lb_config,
        ..CommonLbConfig::default()
    })
}

/// One word here may be two there.
fn statuses(health: Health) -> &'static [HealthStatus] {
    match health {
        Health::Healthy => &[HealthStatus::Unknown, HealthStatus::Healthy],
        Health::Degraded => &[HealthStatus::Degraded],
        Health::Draining => &[HealthStatus::Draining],
        Health::Unhealthy => &[HealthStatus::Unhealthy, HealthStatus::Timeout],
    }
}

fn metrics(reporting: &LoadReporting) -> Vec<String> {
    reporting.metrics.iter().map(ToString::to_string).collect()
}
