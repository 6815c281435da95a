//! What a server accepts connections by, in two shapes: gRPC's (gRFC A36), where certificates come from the bootstrap's provider
//! and the application answers whatever a route names; and Istio's `virtualInbound`, with SDS names and filters that look at how a
//! connection begins.
//!
//! Everything that is asked of a connection is written, also what a shape cannot say: a chain left out here would leave its
//! connections to the next one, which may ask for less. gRPC passes over a chain whose match it cannot look at, and refuses one
//! of bytes; the publisher reads that before anything is sent.

use mesh_core::config::{
    ChainIdentity, ChainMatch, Clients, Domain, FilterChain, Inbound, InboundSecurity, IpPrefix, SourceType, Traffic,
    Transport,
};

use super::common::{address, uint};
use super::listener::filters;
use super::socket::connection_manager;
use super::tls::{self, naming};
use super::{ext_authz, jwt, limit, rbac, telemetry};
use crate::bootstrap::Profile;
use crate::convention::SDS_IDENTITY;
use crate::proto::core::{CidrRange, TrafficDirection, TransportSocket};
use crate::proto::hcm::{HttpConnectionManager, http_connection_manager::RouteSpecifier};
use crate::proto::listener::{
    Filter, FilterChain as ChainProto, FilterChainMatch, Listener, ListenerFilter, filter, filter_chain_match,
    listener_filter,
};
use crate::proto::protobuf::{Any, BoolValue};
use crate::proto::route::{
    NonForwardingAction, RouteAction, RouteConfiguration, route, route_action::ClusterSpecifier,
};
use crate::proto::tls::{CertificateValidationContext, CommonTlsContext, DownstreamTlsContext};
use crate::proto::{pack, tcp_proxy};

/// Where a sidecar passes on what it lets in, whatever the port (Istio).
const PASSTHROUGH: &str = "InboundPassthroughCluster";

pub(super) fn listener(inbound: &Inbound, shape: Profile) -> Listener {
    let chain = |one: &FilterChain| ChainProto {
        filter_chain_match: Some(matches(&one.matches)),
        ..chain(one, shape)
    };
    let (listener_filters, direction) = match shape {
        Profile::Grpc => (Vec::new(), TrafficDirection::Unspecified),
        Profile::Envoy => (looking(), TrafficDirection::Inbound),
    };
    Listener {
        name: inbound.name.clone().into(),
        address: Some(address(inbound.address)),
        filter_chains: inbound.chains.iter().map(chain).collect(),
        // Nobody looks at what that one matches.
        default_filter_chain: inbound.default.as_ref().map(|default| self::chain(default, shape)),
        listener_filters,
        traffic_direction: direction as i32,
        ..Listener::default()
    }
}

/// A chain, but for what it matches.
fn chain(chain: &FilterChain, shape: Profile) -> ChainProto {
    let guards = chain.authorization.connection().iter().map(rbac::connection);
    let last = match chain.traffic {
        Traffic::Http => http(chain, shape),
        Traffic::Tcp => bytes(&chain.name),
    };
    ChainProto {
        name: chain.name.clone().into(),
        filters: guards.chain([last]).collect(),
        transport_socket: security(chain, shape),
        ..ChainProto::default()
    }
}

fn http(chain: &FilterChain, shape: Profile) -> Filter {
    let (authorization, limits) = (&chain.authorization, &chain.limits);
    let action = match shape {
        // The application answers (gRFC A36): every other action fails the call.
        Profile::Grpc => route::Action::NonForwardingAction(NonForwardingAction {}),
        Profile::Envoy => route::Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(PASSTHROUGH.into())),
            ..RouteAction::default()
        }),
    };
    let tokens = authorization.tokens().into_iter().map(|rules| jwt::filter(rules));
    let guards = ext_authz::filters(authorization).into_iter();
    let limits_at = |after_guards| {
        let filters = limits
            .filters()
            .iter()
            .filter(move |filter| filter.after_guards == after_guards);
        let global = limits
            .global()
            .iter()
            .filter(move |filter| filter.after_guards == after_guards);
        let filters = filters.map(|filter| limit::filter(filter, shape));
        filters.chain(global.map(|filter| limit::global(filter, shape)))
    };
    let mut virtual_hosts = rbac::virtual_hosts(authorization.hosts(), &action);
    limit::add_to(&mut virtual_hosts, limits.hosts(), &action);
    connection_manager(&HttpConnectionManager {
        stat_prefix: stat_prefix(&chain.name),
        access_log: telemetry::access_logs(&chain.telemetry),
        http_filters: (limits_at(false).chain(tokens).chain(guards))
            .chain(limits_at(true))
            .chain(filters(&[]))
            .collect(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: "inbound".into(),
            virtual_hosts,
            ..RouteConfiguration::default()
        })),
        ..HttpConnectionManager::default()
    })
}

fn bytes(name: &str) -> Filter {
    let proxy = tcp_proxy::TcpProxy {
        stat_prefix: stat_prefix(name),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(PASSTHROUGH.into())),
        ..tcp_proxy::TcpProxy::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".into(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&proxy))),
    }
}

/// Envoy demands one.
fn stat_prefix(name: &str) -> String {
    match name {
        "" => "inbound".into(),
        name => name.into(),
    }
}

/// The filters without which a sidecar does not know a server name, a protocol, or where a connection was going.
fn looking() -> Vec<ListenerFilter> {
    let filter = |name: &str, kind: &str| ListenerFilter {
        name: format!("envoy.filters.listener.{name}"),
        config_type: Some(listener_filter::ConfigType::TypedConfig(Any {
            type_url: format!("type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{kind}"),
            value: Vec::new(),
        })),
        ..ListenerFilter::default()
    };
    vec![
        filter("original_dst", "OriginalDst"),
        filter("tls_inspector", "TlsInspector"),
    ]
}

fn matches(of: &ChainMatch) -> FilterChainMatch {
    let ranges = |ranges: &[IpPrefix]| ranges.iter().map(range).collect();
    let source_type = match of.source_type {
        SourceType::Any => filter_chain_match::ConnectionSourceType::Any,
        SourceType::SameIpOrLoopback => filter_chain_match::ConnectionSourceType::SameIpOrLoopback,
        SourceType::External => filter_chain_match::ConnectionSourceType::External,
    };
    FilterChainMatch {
        destination_port: of.port.map(u32::from).and_then(uint),
        prefix_ranges: ranges(&of.destinations),
        server_names: of.server_names.iter().map(Domain::to_string).collect(),
        transport_protocol: match of.transport {
            None => String::new(),
            Some(Transport::RawBuffer) => "raw_buffer".into(),
            Some(Transport::Tls) => "tls".into(),
        },
        application_protocols: of.protocols.iter().map(|protocol| protocol.clone().into()).collect(),
        direct_source_prefix_ranges: ranges(&of.direct_sources),
        source_type: source_type as i32,
        source_prefix_ranges: ranges(&of.sources),
        source_ports: of.source_ports.iter().map(|port| (*port).into()).collect(),
        ..FilterChainMatch::default()
    }
}

fn range(range: &IpPrefix) -> CidrRange {
    CidrRange {
        address_prefix: range.address().to_string(),
        prefix_len: uint(range.bits().into()),
    }
}

fn security(chain: &FilterChain, shape: Profile) -> Option<TransportSocket> {
    let checks = match &chain.security {
        InboundSecurity::Plaintext => return None,
        InboundSecurity::OneSided => None,
        InboundSecurity::Mutual(Clients::Trusted) => Some(CertificateValidationContext::default()),
        InboundSecurity::Mutual(Clients::Named(expected)) => Some(naming(expected)),
    };
    let required = checks.is_some();
    let ChainIdentity { certificate, roots } = &chain.identity;
    let mut common = CommonTlsContext::default();
    // Istio's secrets are the workload's own; of other providers both shapes speak alike.
    match (shape, certificate) {
        (Profile::Envoy, None) => common.tls_certificate_sds_secret_configs = vec![tls::secret(SDS_IDENTITY)],
        (_, certificate) => common.tls_certificate_provider_instance = tls::instance_of(certificate.as_deref()),
    }
    common.validation_context_type = match (shape, roots) {
        (Profile::Envoy, None) => checks.map(tls::by_secret),
        _ => checks.map(|checks| tls::by_provider(checks, roots.as_deref())),
    };
    if shape == Profile::Envoy {
        common.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
    }
    Some(tls::socket(&DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(BoolValue { value: required }),
        ..DownstreamTlsContext::default()
    }))
}
