//! The two shapes in which istiod tells the same mesh: to a node that says `GENERATOR: grpc`, and to any other, which it takes
//! for a sidecar.
//!
//! Unproven against a real istiod: written from what its source is known to send (`pilot/pkg/networking/grpcgen` and
//! `core`), since none runs where these tests do. One service, `payment`, at port 50051 with two subsets, of whose endpoints
//! one is meshed and one is not; and a workload of it.

pub(crate) mod proxyless;
pub(crate) mod sidecar;

mod tests;

use crate::proto::core::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
    config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use crate::proto::hcm::{HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter};
use crate::proto::protobuf::{Any, Duration, Struct, UInt32Value, Value, value::Kind};
use crate::proto::{cluster, endpoint, matcher, pack, route, router};

/// The service's full name.
pub(crate) const PAYMENT: &str = "payment.default.svc.cluster.local";
/// Its port.
pub(crate) const PORT: u32 = 50051;
/// The cluster of all its endpoints; of a subset, with the subset's name between the bars.
pub(crate) const CLUSTER: &str = "outbound|50051||payment.default.svc.cluster.local";
/// The workloads behind it.
pub(crate) const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/payment";

pub(crate) fn subset(name: &str) -> String {
    format!("outbound|{PORT}|{name}|{PAYMENT}")
}

fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    })
}

fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn address(ip: &str, port: u32) -> Option<Address> {
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.into(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    })
}

fn texts(values: &[(&str, &str)]) -> Struct {
    let text = |(key, value): &(&str, &str)| {
        let kind = Some(Kind::StringValue((*value).into()));
        ((*key).to_owned(), Value { kind })
    };
    Struct {
        fields: values.iter().map(text).collect(),
    }
}

/// A configuration of which only the type matters.
fn typed(name: &str) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: Vec::new(),
    }
}

fn filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn fault() -> HttpFilter {
    filter(
        "envoy.filters.http.fault",
        typed("envoy.extensions.filters.http.fault.v3.HTTPFault"),
    )
}

fn manager(filters: Vec<HttpFilter>, routes: RouteSpecifier) -> HttpConnectionManager {
    let router = filter("envoy.filters.http.router", pack(&router::Router::default()));
    HttpConnectionManager {
        http_filters: filters.into_iter().chain([router]).collect(),
        route_specifier: Some(routes),
        ..Default::default()
    }
}

fn rds(name: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds {
        config_source: ads(),
        route_config_name: name.into(),
    })
}

/// 95 of a hundred calls to v1, with Istio's default retries.
fn canary() -> route::RouteAction {
    let share = |name: &str, weight| route::weighted_cluster::ClusterWeight {
        name: subset(name),
        weight: uint(weight),
        ..Default::default()
    };
    route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::WeightedClusters(
            route::WeightedCluster {
                clusters: vec![share("v1", 95), share("v2", 5)],
                ..Default::default()
            },
        )),
        retry_policy: Some(route::RetryPolicy {
            retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes".into(),
            num_retries: uint(2),
            retry_host_predicate: vec![route::retry_policy::RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".into(),
                config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(
                    typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
                )),
            }],
            host_selection_retry_max_attempts: 5,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn everything() -> Option<route::RouteMatch> {
    Some(route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
        ..Default::default()
    })
}

fn exactly(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(text.into())),
        ignore_case: false,
    }
}

fn eds(name: &str) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
    cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: ads(),
            service_name: name.into(),
        }),
        ..Default::default()
    }
}

/// The endpoints of a cluster of the service, the first of them meshed; the same in both shapes.
pub(crate) fn endpoints(cluster: &str) -> endpoint::ClusterLoadAssignment {
    let one = |ip: &str, meshed: bool| {
        let workload = (
            "istio".to_owned(),
            texts(&[("workload", "payment;default;payment;v1;Kubernetes")]),
        );
        let mode = (
            "envoy.transport_socket_match".to_owned(),
            texts(&[("tlsMode", "istio")]),
        );
        let metadata = crate::proto::core::Metadata {
            filter_metadata: meshed.then_some(mode).into_iter().chain([workload]).collect(),
            ..Default::default()
        };
        endpoint::LbEndpoint {
            metadata: Some(metadata),
            load_balancing_weight: uint(1),
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                address: address(ip, PORT),
                ..Default::default()
            })),
            ..Default::default()
        }
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            locality: Some(crate::proto::core::Locality {
                region: "region1".into(),
                zone: "zone1".into(),
                sub_zone: String::new(),
            }),
            lb_endpoints: vec![one("10.1.0.1", true), one("10.1.0.2", false)],
            load_balancing_weight: uint(2),
            ..Default::default()
        }],
        ..Default::default()
    }
}
