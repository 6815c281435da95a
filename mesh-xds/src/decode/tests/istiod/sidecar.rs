//! What any other node is sent.

use prost::{Message as _, Name as _};

use super::*;
use crate::proto::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy, TransportSocketMatch};
use crate::proto::core::{
    ApiConfigSource, ExtensionConfigSource, TrafficDirection, TransportSocket, TypedExtensionConfig,
    config_source::ConfigSourceSpecifier as Source, transport_socket,
};
use crate::proto::fault::HttpFault;
use crate::proto::fault_common::{FaultDelay, fault_delay::FaultDelaySecifier};
use crate::proto::listener::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use crate::proto::protobuf::BoolValue;
use crate::proto::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use crate::proto::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters,
    UpstreamTlsContext, common_tls_context, tls_parameters::TlsProtocol,
};

/// The listener of the service's port, and the name of its routes.
pub(crate) const BY_PORT: &str = "0.0.0.0_50051";
pub(crate) const ROUTES: &str = "50051";
/// The protocols that a sidecar offers inside its mutual TLS.
const ISTIO_ALPN: [&str; 5] = [
    "istio",
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2",
];

/// All listeners, the inbound one under STRICT or PERMISSIVE.
pub(crate) fn listeners(strict: bool) -> Vec<Listener> {
    vec![virtual_outbound(), by_port(), by_address(), virtual_inbound(strict)]
}

/// Everything is redirected to it, and it hands on; what nobody knows passes.
pub(crate) fn virtual_outbound() -> Listener {
    catching("PassthroughCluster")
}

/// The same, with what nobody knows sent there.
pub(crate) fn catching(cluster: &str) -> Listener {
    let proxy = TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    let catches = Filter {
        name: "envoy.filters.network.tcp_proxy".into(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&proxy))),
    };
    Listener {
        name: "virtualOutbound".into(),
        address: address("0.0.0.0", 15001),
        use_original_dst: Some(BoolValue { value: true }),
        traffic_direction: TrafficDirection::Outbound as i32,
        filter_chains: vec![
            FilterChain {
                name: "virtualOutbound-blackhole".into(),
                filter_chain_match: Some(FilterChainMatch {
                    destination_port: uint(15001),
                    ..Default::default()
                }),
                filters: vec![tcp_proxy()],
                ..Default::default()
            },
            FilterChain {
                name: "virtualOutbound-catchall-tcp".into(),
                filters: vec![catches],
                ..Default::default()
            },
        ],
        ..Default::default()
    }
}

/// HTTP to the service's port, whatever the address.
pub(crate) fn by_port() -> Listener {
    Listener {
        name: BY_PORT.into(),
        address: address("0.0.0.0", PORT),
        traffic_direction: TrafficDirection::Outbound as i32,
        bind_to_port: Some(BoolValue { value: false }),
        filter_chains: vec![FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                transport_protocol: "raw_buffer".into(),
                application_protocols: vec!["http/1.1".into(), "h2c".into()],
                ..Default::default()
            }),
            filters: vec![hcm(rds(ROUTES))],
            ..Default::default()
        }],
        default_filter_chain: Some(FilterChain {
            name: "PassthroughFilterChain".into(),
            filters: vec![tcp_proxy()],
            ..Default::default()
        }),
        listener_filters: vec![listener_filter("http_inspector", "HttpInspector")],
        continue_on_listener_filters_timeout: true,
        ..Default::default()
    }
}

/// TLS that passes through to a service by its address.
pub(crate) fn by_address() -> Listener {
    Listener {
        name: "10.0.0.10_443".into(),
        address: address("10.0.0.10", 443),
        traffic_direction: TrafficDirection::Outbound as i32,
        filter_chains: vec![FilterChain {
            filters: vec![metadata_exchange(), tcp_proxy()],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// What comes in to the workload.
pub(crate) fn virtual_inbound(strict: bool) -> Listener {
    let chain = |name: &str, port: Option<u32>, mutual: bool, filters: Vec<Filter>| FilterChain {
        name: name.into(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: port.and_then(uint),
            transport_protocol: if mutual { "tls" } else { "raw_buffer" }.into(),
            application_protocols: match mutual && !strict {
                true => ISTIO_ALPN.map(String::from).into(),
                false => Vec::new(),
            },
            ..Default::default()
        }),
        filters,
        transport_socket: mutual.then(|| socket(pack(&downstream()))),
        ..Default::default()
    };
    let inline = || {
        let forward = route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster("inbound|50051||".into())),
            ..Default::default()
        };
        RouteSpecifier::RouteConfig(route::RouteConfiguration {
            name: "inbound|50051||".into(),
            virtual_hosts: vec![host("inbound|http|50051", &["*"], route::route::Action::Route(forward))],
            ..Default::default()
        })
    };
    let mut chains = vec![FilterChain {
        name: "virtualInbound-blackhole".into(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: uint(15006),
            ..Default::default()
        }),
        filters: vec![tcp_proxy()],
        ..Default::default()
    }];
    for mutual in [true, false] {
        if strict && !mutual {
            continue;
        }
        chains.push(chain("0.0.0.0_50051", Some(PORT), mutual, vec![hcm(inline())]));
        chains.push(chain(
            "virtualInbound",
            None,
            mutual,
            vec![metadata_exchange(), tcp_proxy()],
        ));
    }
    Listener {
        name: "virtualInbound".into(),
        address: address("0.0.0.0", 15006),
        traffic_direction: TrafficDirection::Inbound as i32,
        filter_chains: chains,
        listener_filters: vec![
            listener_filter("original_dst", "OriginalDst"),
            listener_filter("tls_inspector", "TlsInspector"),
            listener_filter("http_inspector", "HttpInspector"),
        ],
        ..Default::default()
    }
}

/// The routes of port 50051. A host that is not known is let out, or is not.
pub(crate) fn routes(allow_any: bool) -> route::RouteConfiguration {
    let names = [
        PAYMENT,
        "payment",
        "payment.default.svc",
        "payment.default",
        "10.96.0.10",
    ];
    let canary = route::RouteAction {
        timeout: seconds(2),
        request_mirror_policies: vec![route::route_action::RequestMirrorPolicy {
            cluster: subset("v2"),
            ..Default::default()
        }],
        ..canary()
    };
    let mut payment = host(
        &format!("{PAYMENT}:{PORT}"),
        &names,
        route::route::Action::Route(canary),
    );
    payment.routes[0].decorator = Some(route::Decorator {
        operation: format!("{PAYMENT}:{PORT}/*"),
        ..Default::default()
    });
    payment.routes[0].typed_per_filter_config = [(
        "envoy.filters.http.fault".to_owned(),
        typed("envoy.extensions.filters.http.fault.v3.HTTPFault"),
    )]
    .into();
    let pass = route::route::Action::Route(route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
            "PassthroughCluster".into(),
        )),
        timeout: seconds(0),
        ..Default::default()
    });
    let block = route::route::Action::DirectResponse(route::DirectResponseAction {
        status: 502,
        ..Default::default()
    });
    route::RouteConfiguration {
        name: ROUTES.into(),
        virtual_hosts: vec![
            payment,
            match allow_any {
                true => host("allow_any", &["*"], pass),
                false => host("block_all", &["*"], block),
            },
        ],
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// All clusters.
pub(crate) fn clusters() -> Vec<cluster::Cluster> {
    let special = |name: &str, kind: DiscoveryType, lb: LbPolicy| cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        connect_timeout: seconds(10),
        lb_policy: lb as i32,
        ..Default::default()
    };
    let passing = |name| special(name, DiscoveryType::OriginalDst, LbPolicy::ClusterProvided);
    vec![
        cluster(CLUSTER),
        cluster(&subset("v1")),
        cluster(&subset("v2")),
        special("BlackHoleCluster", DiscoveryType::Static, LbPolicy::RoundRobin),
        passing("PassthroughCluster"),
        passing("InboundPassthroughCluster"),
        passing("inbound|50051||"),
    ]
}

/// A cluster of the service, with auto-mTLS.
pub(crate) fn cluster(name: &str) -> cluster::Cluster {
    let threshold = cluster::circuit_breakers::Thresholds {
        max_connections: uint(u32::MAX),
        max_pending_requests: uint(u32::MAX),
        max_requests: uint(u32::MAX),
        max_retries: uint(u32::MAX),
        track_remaining: true,
        ..Default::default()
    };
    let tls = TransportSocketMatch {
        name: "tlsMode-istio".into(),
        r#match: Some(texts(&[("tlsMode", "istio")])),
        transport_socket: Some(socket(pack(&upstream(name)))),
    };
    let raw = TransportSocketMatch {
        name: "tlsMode-disabled".into(),
        r#match: Some(texts(&[])),
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.raw_buffer".into(),
            config_type: None,
        }),
    };
    cluster::Cluster {
        connect_timeout: seconds(10),
        lb_policy: LbPolicy::LeastRequest as i32,
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![threshold],
            ..Default::default()
        }),
        transport_socket_matches: vec![tls, raw],
        common_lb_config: Some(Default::default()),
        ..eds(name)
    }
}

/// The server name that Istio sends to a cluster.
pub(crate) fn server_name(cluster: &str) -> String {
    let [direction, port, subset, host] = cluster.split('|').collect::<Vec<_>>()[..] else {
        panic!("{cluster:?} is not the name of a cluster of a service")
    };
    format!("{direction}_.{port}_.{subset}_.{host}")
}

fn upstream(cluster: &str) -> UpstreamTlsContext {
    UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec!["istio-peer-exchange".into(), "istio".into(), "h2".into()],
            ..common_tls(vec![exactly(IDENTITY)])
        }),
        sni: server_name(cluster),
        ..Default::default()
    }
}

fn downstream() -> DownstreamTlsContext {
    use crate::proto::matcher::{StringMatcher, string_matcher::MatchPattern};
    let of_the_mesh = StringMatcher {
        match_pattern: Some(MatchPattern::Prefix("spiffe://cluster.local/".into())),
        ignore_case: false,
    };
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec!["h2".into(), "http/1.1".into()],
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
                cipher_suites: vec!["ECDHE-ECDSA-AES256-GCM-SHA384".into()],
                ..parameters()
            }),
            ..common_tls(vec![of_the_mesh])
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    }
}

fn parameters() -> TlsParameters {
    TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..Default::default()
    }
}

/// Istio's two secrets, from the agent beside the proxy.
#[allow(deprecated, reason = "istiod writes the deprecated list")]
fn common_tls(names: Vec<matcher::StringMatcher>) -> CommonTlsContext {
    use common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let secret = |name: &str| SdsSecretConfig {
        name: name.into(),
        sds_config: Some(ConfigSource {
            resource_api_version: ApiVersion::V3 as i32,
            config_source_specifier: Some(Source::ApiConfigSource(ApiConfigSource::default())),
            ..Default::default()
        }),
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_subject_alt_names: names,
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    CommonTlsContext {
        tls_params: Some(parameters()),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..Default::default()
    }
}

fn socket(config: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// A guard that asks nothing, where it is empty.
pub(crate) const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// The listener of the port with more filters, which are resources of these names: one before all others, and one behind
/// them, just before the router.
pub(crate) fn by_port_between(first: &str, last: &str) -> Listener {
    by_port_between_or(first, last, None)
}

/// The same, where they are `default` as long as those resources are not there. They may be of a few types.
pub(crate) fn by_port_between_or(first: &str, last: &str, default: Option<&Any>) -> Listener {
    let mut listener = by_port();
    let Some(filter::ConfigType::TypedConfig(any)) = &mut listener.filter_chains[0].filters[0].config_type else {
        panic!("the filter has a configuration")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    let elsewhere = |name: &str| HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(ExtensionConfigSource {
            config_source: ads(),
            type_urls: vec![
                HttpFault::type_url(),
                RBAC.into(),
                "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm".into(),
            ],
            default_config: default.cloned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let router = manager.http_filters.len() - 1;
    manager.http_filters.insert(router, elsewhere(last));
    manager.http_filters.insert(0, elsewhere(first));
    *any = pack(&manager);
    listener
}

/// That resource: it holds every call up for a second.
pub(crate) fn delay(extension: &str) -> TypedExtensionConfig {
    let second = Duration { seconds: 1, nanos: 0 };
    let fault = HttpFault {
        delay: Some(FaultDelay {
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(second)),
            ..Default::default()
        }),
        ..Default::default()
    };
    TypedExtensionConfig {
        name: extension.into(),
        typed_config: Some(pack(&fault)),
    }
}

/// A connection manager with the filters that istiod gives every sidecar.
fn hcm(routes: RouteSpecifier) -> Filter {
    let filters = vec![
        filter("istio.metadata_exchange", typed("io.istio.http.peer_metadata.Config")),
        filter(
            "istio.alpn",
            typed("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"),
        ),
        fault(),
        filter(
            "envoy.filters.http.cors",
            typed("envoy.extensions.filters.http.cors.v3.Cors"),
        ),
        filter(
            "envoy.filters.http.grpc_stats",
            typed("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"),
        ),
        filter("istio.stats", typed("stats.PluginConfig")),
    ];
    Filter {
        name: "envoy.filters.network.http_connection_manager".into(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&manager(filters, routes)))),
    }
}

fn tcp_proxy() -> Filter {
    network(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    )
}

fn metadata_exchange() -> Filter {
    network(
        "istio.metadata_exchange",
        "envoy.tcp.metadataexchange.config.MetadataExchange",
    )
}

fn network(name: &str, config: &str) -> Filter {
    Filter {
        name: name.into(),
        config_type: Some(filter::ConfigType::TypedConfig(typed(config))),
    }
}

fn listener_filter(name: &str, config: &str) -> ListenerFilter {
    let config = typed(&format!("envoy.extensions.filters.listener.{name}.v3.{config}"));
    ListenerFilter {
        name: format!("envoy.filters.listener.{name}"),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn host(name: &str, domains: &[&str], action: route::route::Action) -> route::VirtualHost {
    route::VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes: vec![route::Route {
            name: if name.ends_with("any") || name.ends_with("all") {
                name
            } else {
                "default"
            }
            .into(),
            r#match: everything(),
            action: Some(action),
            ..Default::default()
        }],
        include_request_attempt_count: true,
        ..Default::default()
    }
}
