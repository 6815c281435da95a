//! Messages as bytes, for fuzzers, which begin with bytes: those that cross the wire inside others, and resources that our own
//! serving end does not write but Istio's does.

use std::collections::BTreeMap;

use prost::Message as _;

use super::csds;
use super::load::LoadResponse;
use crate::csds::{ClientView, ResourceView};
use crate::node::Node;
use crate::proto::core::{Address, SocketAddress, TrafficDirection, address, socket_address::PortSpecifier};
use crate::proto::hcm::{HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter};
use crate::proto::router::Router;
use crate::proto::{
    aggregate, cluster, core, discovery, endpoint, listener, load_stats, matcher, pack, protobuf, status,
};

/// A node as it travels.
///
/// A map of prost's has its fields in any order. So each comes in a part of its own, in the order of their names, and readers
/// join them (Protocol Buffers, "Last One Wins": embedded messages are merged).
pub(crate) fn node(node: &Node) -> Vec<u8> {
    let mut whole = core::Node::from(node);
    let metadata = whole.metadata.take().unwrap_or_default();
    let mut bytes = whole.encode_to_vec();
    for field in metadata.fields.into_iter().collect::<BTreeMap<_, _>>() {
        let part = core::Node {
            metadata: Some(protobuf::Struct { fields: [field].into() }),
            ..core::Node::default()
        };
        bytes.extend(part.encode_to_vec());
    }
    bytes
}

/// A node that travelled.
pub(crate) fn read_node(bytes: &[u8]) -> Option<Node> {
    core::Node::decode(bytes).ok().map(Node::from)
}

/// Two load reports, each with its length before it.
pub(crate) fn load_reports() -> Vec<u8> {
    let report = |node: bool| load_stats::LoadStatsRequest {
        node: node.then(core::Node::default),
        cluster_stats: vec![endpoint::ClusterStats {
            cluster_name: "c".into(),
            cluster_service_name: "s".into(),
            upstream_locality_stats: vec![endpoint::UpstreamLocalityStats {
                locality: Some(core::Locality::default()),
                total_successful_requests: 4,
                total_issued_requests: 5,
                load_metric_stats: vec![endpoint::EndpointLoadMetricStats {
                    metric_name: "named_metrics.q".into(),
                    num_requests_finished_with_metric: 2,
                    total_metric_value: 1.5,
                }],
                ..endpoint::UpstreamLocalityStats::default()
            }],
            total_dropped_requests: 3,
            dropped_requests: vec![endpoint::cluster_stats::DroppedRequests {
                category: "lb".into(),
                dropped_count: 2,
            }],
            load_report_interval: Some(protobuf::Duration { seconds: 1, nanos: 5 }),
        }],
    };
    let reports = [true, false].map(|node| report(node).encode_to_vec());
    let length = |report: &Vec<u8>| u16::try_from(report.len()).unwrap_or_default().to_le_bytes();
    reports
        .iter()
        .flat_map(|report| [&length(report)[..], report].concat())
        .collect()
}

/// A question about some clients: by a part of their id, and by a text in their metadata.
pub(crate) fn status_request() -> Vec<u8> {
    let text = |pattern| matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..matcher::StringMatcher::default()
    };
    let segment = |key: &str| matcher::struct_matcher::PathSegment {
        segment: Some(matcher::struct_matcher::path_segment::Segment::Key(key.into())),
    };
    let namespace = matcher::StructMatcher {
        path: vec![segment("NAMESPACE")],
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(text(
                matcher::string_matcher::MatchPattern::Prefix("n".into()),
            ))),
        }),
    };
    let by_id = matcher::NodeMatcher {
        node_id: Some(text(matcher::string_matcher::MatchPattern::Contains("~p.n~".into()))),
        ..matcher::NodeMatcher::default()
    };
    let by_metadata = matcher::NodeMatcher {
        node_metadatas: vec![namespace],
        ..matcher::NodeMatcher::default()
    };
    let request = status::ClientStatusRequest {
        node_matchers: vec![by_id, by_metadata],
        ..status::ClientStatusRequest::default()
    };
    request.encode_to_vec()
}

/// What is asked of a client about its load, as it travels.
pub(crate) fn load_response(response: LoadResponse) -> Vec<u8> {
    load_stats::LoadStatsResponse::from(response).encode_to_vec()
}

/// What travelled.
pub(crate) fn read_load_response(bytes: &[u8]) -> Option<LoadResponse> {
    load_stats::LoadStatsResponse::decode(bytes).ok().map(Into::into)
}

/// An answer about clients, as it travels.
pub(crate) fn status_response(clients: Vec<ClientView>) -> Vec<u8> {
    csds::answer(clients, false).encode_to_vec()
}

/// One that travelled.
pub(crate) fn read_status_response(bytes: &[u8]) -> Option<Vec<ClientView>> {
    let answer = status::ClientStatusResponse::decode(bytes).ok()?;
    Some(answer.config.into_iter().map(Into::into).collect())
}

/// An answer about a client and one resource of it.
pub(crate) fn some_status() -> Vec<u8> {
    let resource = ResourceView {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        name: "c".into(),
        version: "1".into(),
        updated: Some(std::time::SystemTime::UNIX_EPOCH),
        ..ResourceView::default()
    };
    let client = ClientView {
        scope: "#mesh".into(),
        resources: vec![resource],
        ..ClientView::default()
    };
    status_response(vec![client])
}

/// A resource in the envelope of its name.
pub(crate) fn envelope(name: &str, type_url: &str, bytes: Vec<u8>) -> Vec<u8> {
    let resource = protobuf::Any {
        type_url: type_url.into(),
        value: bytes,
    };
    let envelope = discovery::Resource {
        name: name.into(),
        resource: Some(resource),
        ..discovery::Resource::default()
    };
    envelope.encode_to_vec()
}

/// What a sidecar catches a port with: the routes of this name, after a filter that is a resource called `filter`.
pub(crate) fn outbound_listener(name: &str, port: u16, routes: &str, filter: Option<&str>) -> Vec<u8> {
    let manager = manager(routes, filter);
    socket_listener(name, port, TrafficDirection::Outbound, &manager).encode_to_vec()
}

/// What a server accepts connections by.
pub(crate) fn inbound_listener(name: &str, port: u16) -> Vec<u8> {
    let mut listener = socket_listener(name, port, TrafficDirection::Inbound, &manager("r", None));
    let takes = listener::FilterChainMatch {
        prefix_ranges: vec![core::CidrRange {
            address_prefix: "10.0.0.0".into(),
            prefix_len: Some(protobuf::UInt32Value { value: 8 }),
        }],
        transport_protocol: "raw_buffer".into(),
        ..listener::FilterChainMatch::default()
    };
    listener.filter_chains[0].filter_chain_match = Some(takes);
    listener.encode_to_vec()
}

fn socket_listener(
    name: &str,
    port: u16,
    direction: TrafficDirection,
    manager: &HttpConnectionManager,
) -> listener::Listener {
    let filter = listener::Filter {
        name: "http".into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(pack(manager))),
    };
    listener::Listener {
        name: name.into(),
        address: socket("0.0.0.0", port),
        traffic_direction: direction as i32,
        filter_chains: vec![listener::FilterChain {
            filters: vec![filter],
            ..listener::FilterChain::default()
        }],
        ..listener::Listener::default()
    }
}

fn manager(routes: &str, filter: Option<&str>) -> HttpConnectionManager {
    let elsewhere = |name: &str| HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(core::ExtensionConfigSource {
            config_source: from_this_stream(),
            type_urls: vec![FAULT.into()],
            ..core::ExtensionConfigSource::default()
        })),
        ..HttpFilter::default()
    };
    let router = HttpFilter {
        name: "router".into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
        ..HttpFilter::default()
    };
    HttpConnectionManager {
        http_filters: filter.map(elsewhere).into_iter().chain([router]).collect(),
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(Rds {
            config_source: from_this_stream(),
            route_config_name: routes.into(),
        })),
        ..HttpConnectionManager::default()
    }
}

/// The type of a filter that means nothing when it is empty.
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

/// An empty fault filter as a resource.
pub(crate) fn extension(name: &str) -> Vec<u8> {
    let extension = core::TypedExtensionConfig {
        name: name.into(),
        typed_config: Some(protobuf::Any {
            type_url: FAULT.into(),
            value: Vec::new(),
        }),
    };
    extension.encode_to_vec()
}

/// A cluster whose host is a name.
pub(crate) fn dns_cluster(name: &str, host: &str) -> Vec<u8> {
    let member = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: socket(host, 80),
            ..endpoint::Endpoint::default()
        })),
        ..endpoint::LbEndpoint::default()
    };
    let assignment = endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            locality: Some(core::Locality::default()),
            lb_endpoints: vec![member],
            load_balancing_weight: Some(protobuf::UInt32Value { value: 1 }),
            ..endpoint::LocalityLbEndpoints::default()
        }],
        ..endpoint::ClusterLoadAssignment::default()
    };
    let kind = cluster::cluster::DiscoveryType::StrictDns as i32;
    let cluster = cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(kind)),
        load_assignment: Some(assignment),
        ..cluster::Cluster::default()
    };
    cluster.encode_to_vec()
}

/// A cluster that stands for others, the first of which that can be called is.
pub(crate) fn aggregate_cluster(name: &str, clusters: &[&str]) -> Vec<u8> {
    let config = aggregate::ClusterConfig {
        clusters: clusters.iter().map(|name| String::from(*name)).collect(),
    };
    let custom = cluster::cluster::CustomClusterType {
        name: "envoy.clusters.aggregate".into(),
        typed_config: Some(pack(&config)),
    };
    let cluster = cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::ClusterType(custom)),
        ..cluster::Cluster::default()
    };
    cluster.encode_to_vec()
}

fn socket(host: &str, port: u16) -> Option<Address> {
    let socket = SocketAddress {
        address: host.into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Some(Address {
        address: Some(address::Address::SocketAddress(socket)),
    })
}

fn from_this_stream() -> Option<core::ConfigSource> {
    let ads = core::AggregatedConfigSource::default();
    Some(core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(ads)),
        ..core::ConfigSource::default()
    })
}
