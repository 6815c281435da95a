//! Each questionable resource and what is said to it; and that what is encoded is decoded to the same value.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{
    Backoff, Cluster, Domain, Endpoint, ExpectedPeers, HeaderMatch, HeaderTest, Health, LbPolicy, Locality, MutualTls,
    PathMatch, Pattern, RetryOn, RetryPolicy, Route, RouteMatch, RouteTree, Split, StringMatch, TlsMode, VirtualHost,
    Weight,
};
use proptest::prelude::*;
use prost::{Message, Name};

use super::*;
use crate::encode::{self, Dialect, PROVIDER};
use crate::proto::{cluster, core, endpoint, hcm, lb, listener, matcher, pack, protobuf, route, tls};
use crate::resource::{ClusterSpec, Endpoints, Listener};

fn context() -> Context {
    Context {
        provider: Some(PROVIDER.into()),
    }
}

fn raw<P: Message + Name>(proto: &P) -> Raw {
    Raw {
        type_url: P::type_url(),
        bytes: proto.encode_to_vec(),
    }
}

fn read<R: Resource>(proto: &R::Proto) -> Result<R, Rejected>
where
    R::Proto: Name,
{
    decode::<R>(&raw(proto), &context())?.value
}

/// Spoils a good resource and looks which field is named.
#[track_caller]
fn refused<R: Resource + std::fmt::Debug>(mut good: R::Proto, field: &str, spoil: impl FnOnce(&mut R::Proto))
where
    R::Proto: Name,
{
    assert!(read::<R>(&good).is_ok(), "the resource was bad from the start");
    spoil(&mut good);
    let rejected = read::<R>(&good).expect_err(field);
    assert_eq!(rejected.field(), field, "{rejected}");
}

#[track_caller]
fn accepted<R: Resource>(mut good: R::Proto, change: impl FnOnce(&mut R::Proto)) -> R
where
    R::Proto: Name,
{
    change(&mut good);
    read::<R>(&good).unwrap()
}

fn listener_proto() -> listener::Listener {
    listener::Listener::decode(&*encode::listener("target", "routes")).unwrap()
}

fn with_manager(proto: &mut listener::Listener, change: impl FnOnce(&mut hcm::HttpConnectionManager)) {
    let any = proto.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap();
    let mut manager = hcm::HttpConnectionManager::decode(&*any.value).unwrap();
    change(&mut manager);
    *any = pack(&manager);
}

fn filter(name: &str, config: &str, is_optional: bool) -> hcm::HttpFilter {
    let any = protobuf::Any {
        type_url: config.into(),
        value: Vec::new(),
    };
    hcm::HttpFilter {
        name: name.into(),
        is_optional,
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any)),
        ..Default::default()
    }
}

#[test]
fn listeners_that_are_refused() {
    let bad = |field: &str, change: fn(&mut hcm::HttpConnectionManager)| {
        refused::<Listener>(listener_proto(), field, |proto| with_manager(proto, change));
    };
    bad("api_listener.http_filters", |m| m.http_filters.clear());
    bad("api_listener.http_filters", |m| {
        m.http_filters.push(filter("later", "type.googleapis.com/x.Y", true));
    });
    bad("api_listener.http_filters[0].typed_config", |m| {
        m.http_filters
            .insert(0, filter("needed", "type.googleapis.com/x.Y", false));
    });
    bad("api_listener.http_filters[1].name", |m| {
        m.http_filters.push(m.http_filters[0].clone());
    });
    bad("api_listener.xff_num_trusted_hops", |m| m.xff_num_trusted_hops = 1);
    bad("api_listener.original_ip_detection_extensions", |m| {
        m.original_ip_detection_extensions.push(Default::default());
    });
    bad("api_listener.route_specifier", |m| m.route_specifier = None);
    bad("api_listener.scoped_routes", |m| {
        m.route_specifier = Some(hcm::http_connection_manager::RouteSpecifier::ScopedRoutes(
            Default::default(),
        ));
    });
    let rds = |change: fn(&mut hcm::Rds)| {
        move |proto: &mut listener::Listener| {
            with_manager(proto, |manager| {
                if let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
                    change(rds);
                }
            });
        }
    };
    let at = "api_listener.rds.config_source";
    refused::<Listener>(listener_proto(), at, rds(|rds| rds.config_source = None));
    refused::<Listener>(
        listener_proto(),
        at,
        rds(|rds| {
            rds.config_source = Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(
                    Default::default(),
                )),
                ..Default::default()
            });
        }),
    );
    let at = "api_listener.rds.route_config_name";
    refused::<Listener>(listener_proto(), at, rds(|rds| rds.route_config_name.clear()));
    refused::<Listener>(listener_proto(), "api_listener", |proto| proto.api_listener = None);
    refused::<Listener>(listener_proto(), "name", |proto| proto.name.clear());
}

#[test]
fn listeners_that_are_taken() {
    let named = Listener::Named("routes".into());
    assert_eq!(accepted::<Listener>(listener_proto(), |_| {}), named);
    // An optional unknown filter is skipped; istiod's empty fault filter does nothing.
    let many = accepted::<Listener>(listener_proto(), |proto| {
        with_manager(proto, |manager| {
            let fault = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
            manager.http_filters.insert(0, filter("fault", fault, false));
            manager
                .http_filters
                .insert(0, filter("unknown", "type.googleapis.com/x.Y", true));
        });
    });
    assert_eq!(many, named);
    let inline = accepted::<Listener>(listener_proto(), |proto| {
        with_manager(proto, |manager| {
            let specifier = hcm::http_connection_manager::RouteSpecifier::RouteConfig(Default::default());
            manager.route_specifier = Some(specifier);
        });
    });
    let Listener::Inline(tree) = inline else {
        panic!("inline routes stay inline")
    };
    assert_eq!(&*tree.name, "target");
}

#[test]
fn an_envelope_is_opened_and_another_type_is_refused() {
    let envelope = crate::proto::discovery::Resource {
        name: "another name".into(),
        resource: Some(pack(&listener_proto())),
        ..Default::default()
    };
    let inner = unwrap(raw(&envelope)).unwrap();
    assert_eq!(&*decode::<Listener>(&inner, &context()).unwrap().name, "target");
    let rejected = decode::<RouteTree>(&inner, &context()).unwrap_err();
    assert_eq!((rejected.resource(), rejected.field()), ("", "type_url"));
    let broken = Raw {
        bytes: vec![0xff],
        ..inner
    };
    assert!(decode::<Listener>(&broken, &context()).is_err());
}

fn tree() -> RouteTree {
    let mut route = Route::to(Split::weighted([("v1".into(), 95), ("v2".into(), 5)]).unwrap());
    route.timeout = Some(Duration::from_millis(2500));
    RouteTree {
        name: "routes".into(),
        virtual_hosts: vec![VirtualHost {
            name: "host".into(),
            domains: vec![Domain::Any],
            routes: vec![Arc::new(route)],
        }],
    }
}

fn routes_proto() -> route::RouteConfiguration {
    route::RouteConfiguration::decode(&*encode::routes(&tree())).unwrap()
}

fn first_route(proto: &mut route::RouteConfiguration) -> &mut route::Route {
    &mut proto.virtual_hosts[0].routes[0]
}

fn action(proto: &mut route::RouteConfiguration) -> &mut route::RouteAction {
    match &mut first_route(proto).action {
        Some(route::route::Action::Route(action)) => action,
        _ => panic!("the route has a route action"),
    }
}

fn matches(proto: &mut route::RouteConfiguration) -> &mut route::RouteMatch {
    first_route(proto).r#match.as_mut().unwrap()
}

fn string_match(pattern: Option<matcher::string_matcher::MatchPattern>) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: "x".into(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(
            matcher::StringMatcher {
                match_pattern: pattern,
                ignore_case: false,
            },
        )),
        ..Default::default()
    }
}

fn regex(source: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: source.into(),
        engine_type: None,
    }
}

#[test]
fn routes_that_are_refused() {
    use matcher::string_matcher::MatchPattern;
    use route::route_action::ClusterSpecifier;
    use route::route_match::PathSpecifier;
    let at = |rest: &str| format!("virtual_hosts[0].routes[0].{rest}");
    let bad = |field: &str, spoil: fn(&mut route::RouteConfiguration)| {
        refused::<RouteTree>(routes_proto(), &at(field), spoil);
    };
    refused::<RouteTree>(routes_proto(), "virtual_hosts[0].domains[0]", |proto| {
        proto.virtual_hosts[0].domains[0] = "a*b".into();
    });
    bad("match", |proto| first_route(proto).r#match = None);
    bad("action", |proto| first_route(proto).action = None);
    bad("match.path_specifier", |proto| matches(proto).path_specifier = None);
    bad("match.safe_regex", |proto| {
        matches(proto).path_specifier = Some(PathSpecifier::SafeRegex(regex("(")));
    });
    bad("match.runtime_fraction", |proto| {
        matches(proto).runtime_fraction = Some(Default::default());
    });
    bad("match.headers[0].string_match.match_pattern", |proto| {
        matches(proto).headers.push(string_match(None));
    });
    bad("match.headers[0].string_match.prefix", |proto| {
        let empty = MatchPattern::Prefix(String::new());
        matches(proto).headers.push(string_match(Some(empty)));
    });
    bad("match.headers[0].string_match.safe_regex", |proto| {
        let pattern = MatchPattern::SafeRegex(regex("(a{999}){999}"));
        matches(proto).headers.push(string_match(Some(pattern)));
    });
    bad("match.headers[0].name", |proto| {
        let mut header = string_match(Some(MatchPattern::Exact("a".into())));
        header.name = "not a name".into();
        matches(proto).headers.push(header);
    });
    bad("match.headers[0].range_match", |proto| {
        let mut header = string_match(None);
        let range = route::header_matcher::HeaderMatchSpecifier::RangeMatch(Default::default());
        header.header_match_specifier = Some(range);
        matches(proto).headers.push(header);
    });
    bad("route.cluster", |proto| {
        action(proto).cluster_specifier = Some(ClusterSpecifier::Cluster(String::new()));
    });
    bad("route.weighted_clusters.clusters", |proto| {
        let weighted = ClusterSpecifier::WeightedClusters(Default::default());
        action(proto).cluster_specifier = Some(weighted);
    });
    bad("route.weighted_clusters.clusters[1].name", |proto| {
        if let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action(proto).cluster_specifier {
            weighted.clusters[1].name.clear();
        }
    });
    bad("route.weighted_clusters.clusters", |proto| {
        if let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action(proto).cluster_specifier {
            weighted.clusters[0].weight = Some(protobuf::UInt32Value { value: u32::MAX });
        }
    });
    bad("route.max_stream_duration.max_stream_duration", |proto| {
        let negative = protobuf::Duration { seconds: -1, nanos: 0 };
        action(proto).max_stream_duration.as_mut().unwrap().max_stream_duration = Some(negative);
    });
    bad("route.retry_policy.retry_back_off", |proto| {
        let backoff = action(proto)
            .retry_policy
            .as_mut()
            .unwrap()
            .retry_back_off
            .as_mut()
            .unwrap();
        backoff.max_interval = Some(protobuf::Duration { seconds: 0, nanos: 1 });
    });
    bad("route.retry_policy.retry_back_off.base_interval", |proto| {
        let backoff = action(proto)
            .retry_policy
            .as_mut()
            .unwrap()
            .retry_back_off
            .as_mut()
            .unwrap();
        backoff.base_interval = None;
    });
}

#[test]
fn routes_that_grpc_drops_are_dropped_and_noted() {
    use route::route_action::ClusterSpecifier;
    let drops: [fn(&mut route::RouteConfiguration); 4] = [
        |proto| action(proto).cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".into())),
        |proto| action(proto).cluster_specifier = None,
        |proto| matches(proto).query_parameters.push(Default::default()),
        |proto| {
            let mut header = string_match(None);
            header.name = ":method".into();
            matches(proto).headers.push(header);
        },
    ];
    for change in drops {
        let mut proto = routes_proto();
        change(&mut proto);
        let decoded = decode::<RouteTree>(&raw(&proto), &context()).unwrap();
        assert!(decoded.value.unwrap().virtual_hosts[0].routes.is_empty());
        assert_eq!(decoded.notes.len(), 1);
    }
}

#[test]
fn a_redirect_keeps_its_place_and_names_no_cluster_to_ask_for() {
    let tree = accepted::<RouteTree>(routes_proto(), |proto| {
        first_route(proto).action = Some(route::route::Action::Redirect(Default::default()));
    });
    assert!(tree.clusters().all(|name| name.as_str().starts_with(UNSERVED)));
    assert_eq!(tree.virtual_hosts[0].routes.len(), 1);
}

#[test]
fn timeouts() {
    let seconds = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
    // max_stream_duration, the cap meant for gRPC in it, timeout; and what comes of it.
    let cases = [
        (Some((seconds(2), None)), seconds(9), Some(2)),
        (Some((seconds(2), seconds(3))), seconds(9), Some(3)),
        (Some((seconds(0), None)), seconds(9), None),
        (Some((None, None)), seconds(9), Some(9)),
        (None, seconds(9), Some(9)),
        (None, seconds(0), None),
        (None, None, None),
    ];
    for (max, timeout, expected) in cases {
        let tree = accepted::<RouteTree>(routes_proto(), |proto| {
            action(proto).timeout = timeout;
            action(proto).max_stream_duration = max.map(|(max, grpc)| route::route_action::MaxStreamDuration {
                max_stream_duration: max,
                grpc_timeout_header_max: grpc,
                ..Default::default()
            });
        });
        let read = tree.virtual_hosts[0].routes[0].timeout;
        assert_eq!(read, expected.map(Duration::from_secs), "{max:?} {timeout:?}");
    }
}

#[test]
fn retry_policies() {
    let retry = |change: fn(&mut route::RouteConfiguration)| {
        let tree = accepted::<RouteTree>(routes_proto(), change);
        tree.virtual_hosts[0].routes[0].retry.clone()
    };
    assert_eq!(retry(|proto| action(proto).retry_policy = None), RetryPolicy::never());
    let zero = retry(|proto| {
        action(proto).retry_policy.as_mut().unwrap().num_retries = Some(protobuf::UInt32Value { value: 0 });
    });
    assert_eq!(zero, RetryPolicy::never());
    // What a foreign control plane sends is what somebody wrote.
    assert!(retry(|proto| first_route(proto).metadata = None).explicit);
    // The route's policy replaces the virtual host's whole.
    let of_route = retry(|proto| {
        proto.virtual_hosts[0].retry_policy = Some(route::RetryPolicy {
            retry_on: "5xx".into(),
            num_retries: Some(protobuf::UInt32Value { value: 9 }),
            ..Default::default()
        });
    });
    assert_eq!(of_route, RetryPolicy::default());
    let of_host = retry(|proto| {
        proto.virtual_hosts[0].retry_policy = action(proto).retry_policy.take();
        let policy = proto.virtual_hosts[0].retry_policy.as_mut().unwrap();
        (policy.num_retries, policy.retry_on) = (None, "reset,not-known".into());
    });
    assert_eq!((of_host.retries, of_host.on), (1, RetryOn::RESET));
}

#[test]
fn matches_without_regard_to_case() {
    let tree = accepted::<RouteTree>(routes_proto(), |proto| {
        matches(proto).path_specifier = Some(route::route_match::PathSpecifier::Prefix("/a.B".into()));
        matches(proto).case_sensitive = Some(protobuf::BoolValue { value: false });
    });
    let PathMatch::Regex(pattern) = &tree.virtual_hosts[0].routes[0].matches.path else {
        panic!("case is folded by a pattern")
    };
    assert!(pattern.is_match(b"/A.b/c") && !pattern.is_match(b"/aXb"));
}

fn mutual() -> TlsMode {
    TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly(["spiffe://d/ns/n/sa/a"]),
        sni: None,
    })
}

fn cluster_proto() -> cluster::Cluster {
    let cluster = Cluster::new("c", mutual(), Vec::new());
    cluster::Cluster::decode(&*encode::cluster(&cluster, Dialect::Mesh)).unwrap()
}

fn with_tls(proto: &mut cluster::Cluster, change: impl FnOnce(&mut tls::UpstreamTlsContext)) {
    let socket = proto.transport_socket.as_mut().unwrap();
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &mut socket.config_type else {
        panic!("the socket has a typed configuration")
    };
    let mut context = tls::UpstreamTlsContext::decode(&*any.value).unwrap();
    change(&mut context);
    *any = pack(&context);
}

fn validation(context: &mut tls::UpstreamTlsContext) -> &mut tls::CertificateValidationContext {
    match &mut context.common_tls_context.as_mut().unwrap().validation_context_type {
        Some(tls::common_tls_context::ValidationContextType::ValidationContext(validation)) => validation,
        _ => panic!("the context is a plain one"),
    }
}

#[test]
fn clusters_that_are_refused() {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy as LbEnum};
    let bad = |field: &str, spoil: fn(&mut cluster::Cluster)| refused::<ClusterSpec>(cluster_proto(), field, spoil);
    for kind in [
        DiscoveryType::Static,
        DiscoveryType::StrictDns,
        DiscoveryType::LogicalDns,
    ] {
        refused::<ClusterSpec>(cluster_proto(), "type", |proto| {
            proto.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
        });
    }
    bad("eds_cluster_config", |proto| proto.eds_cluster_config = None);
    bad("eds_cluster_config.eds_config", |proto| {
        proto.eds_cluster_config.as_mut().unwrap().eds_config = Some(core::ConfigSource::default());
    });
    bad("lb_policy", |proto| proto.lb_policy = LbEnum::Maglev as i32);
    bad("lb_policy", |proto| proto.lb_policy = 99);
    bad("least_request_lb_config.choice_count", |proto| {
        proto.lb_config = Some(LbConfig::LeastRequestLbConfig(cluster::cluster::LeastRequestLbConfig {
            choice_count: Some(protobuf::UInt32Value { value: 1 }),
            ..Default::default()
        }));
    });
    bad("load_balancing_policy.policies", |proto| {
        proto.load_balancing_policy = Some(Default::default());
    });
    bad("connect_timeout", |proto| {
        proto.connect_timeout = Some(protobuf::Duration { seconds: 0, nanos: 0 });
    });
    bad("transport_socket_matches", |proto| {
        proto.transport_socket_matches.push(Default::default());
    });
    bad("transport_socket.typed_config", |proto| {
        let any = protobuf::Any {
            type_url: "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer".into(),
            value: Vec::new(),
        };
        let config = core::transport_socket::ConfigType::TypedConfig(any);
        proto.transport_socket.as_mut().unwrap().config_type = Some(config);
    });
}

#[test]
#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
fn tls_contexts_that_are_refused() {
    let bad = |field: &str, spoil: fn(&mut tls::UpstreamTlsContext)| {
        let field = format!("transport_socket.typed_config.{field}");
        refused::<ClusterSpec>(cluster_proto(), &field, |proto| with_tls(proto, spoil));
    };
    bad("common_tls_context", |context| context.common_tls_context = None);
    bad("sni", |context| context.sni = "x".repeat(256));
    bad("common_tls_context.tls_params", |context| {
        context.common_tls_context.as_mut().unwrap().tls_params = Some(Default::default());
    });
    bad("common_tls_context.tls_certificates", |context| {
        let common = context.common_tls_context.as_mut().unwrap();
        common.tls_certificates.push(Default::default());
    });
    bad("common_tls_context.tls_certificate_sds_secret_configs", |context| {
        let common = context.common_tls_context.as_mut().unwrap();
        common.tls_certificate_sds_secret_configs.push(Default::default());
    });
    bad(
        "common_tls_context.tls_certificate_provider_instance.instance_name",
        |context| {
            let common = context.common_tls_context.as_mut().unwrap();
            common.tls_certificate_provider_instance.as_mut().unwrap().instance_name = "other".into();
        },
    );
    bad("common_tls_context.validation_context", |context| {
        context.common_tls_context.as_mut().unwrap().validation_context_type = None;
    });
    bad(
        "common_tls_context.validation_context.ca_certificate_provider_instance",
        |context| validation(context).ca_certificate_provider_instance = None,
    );
    bad(
        "common_tls_context.validation_context.verify_certificate_hash",
        |context| validation(context).verify_certificate_hash.push("00".into()),
    );
    bad("common_tls_context.validation_context.crl", |context| {
        validation(context).crl = Some(Default::default());
    });
    // No peer could pass both lists.
    bad(
        "common_tls_context.validation_context.match_typed_subject_alt_names",
        |context| {
            let other = matcher::string_matcher::MatchPattern::Exact("spiffe://d/ns/n/sa/b".into());
            validation(context).match_subject_alt_names[0].match_pattern = Some(other);
        },
    );
}

#[test]
#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
fn expected_peers_come_from_either_list() {
    let expected = |change: fn(&mut tls::UpstreamTlsContext)| {
        let spec = accepted::<ClusterSpec>(cluster_proto(), |proto| with_tls(proto, change));
        match spec.cluster.tls {
            TlsMode::Mutual(mutual) => mutual.expected,
            TlsMode::Plaintext => panic!("a TLS context became plaintext"),
        }
    };
    let both = ExpectedPeers::exactly(["spiffe://d/ns/n/sa/a"]);
    assert_eq!(expected(|_| {}), both);
    assert_eq!(expected(|c| validation(c).match_subject_alt_names.clear()), both);
    assert_eq!(expected(|c| validation(c).match_typed_subject_alt_names.clear()), both);
    // Neither: every peer is refused, by the rule of `ExpectedPeers`.
    let none = expected(|context| {
        validation(context).match_subject_alt_names.clear();
        validation(context).match_typed_subject_alt_names.clear();
    });
    assert!(!none.admits("spiffe://d/ns/n/sa/a"));
    // A DNS name asks for something that no SPIFFE peer has; it must not open the door to all.
    let dns = expected(|context| {
        validation(context).match_subject_alt_names.clear();
        validation(context).match_typed_subject_alt_names[0].san_type = 2;
    });
    assert!(dns.tests().is_empty());
}

#[test]
#[allow(deprecated, reason = "older control planes write the deprecated fields only")]
fn deprecated_provider_fields_are_taken_when_the_new_ones_are_absent() {
    use tls::common_tls_context::{CertificateProviderInstance, CombinedCertificateValidationContext};
    let old = || {
        Some(CertificateProviderInstance {
            instance_name: PROVIDER.into(),
            certificate_name: "ROOTCA".into(),
        })
    };
    let spec = accepted::<ClusterSpec>(cluster_proto(), |proto| {
        with_tls(proto, |context| {
            let mut inner = validation(context).clone();
            inner.ca_certificate_provider_instance = None;
            let common = context.common_tls_context.as_mut().unwrap();
            common.tls_certificate_provider_instance = None;
            common.tls_certificate_certificate_provider_instance = old();
            let combined = CombinedCertificateValidationContext {
                default_validation_context: Some(inner),
                validation_context_certificate_provider_instance: old(),
                ..Default::default()
            };
            common.validation_context_type =
                Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined));
        });
    });
    assert_eq!(spec.cluster.tls, mutual());
}

#[test]
fn without_a_certificate_provider_a_tls_cluster_is_refused() {
    let decoded = decode::<ClusterSpec>(&raw(&cluster_proto()), &Context::default()).unwrap();
    assert!(decoded.value.unwrap_err().field().ends_with("instance_name"));
}

#[test]
fn clusters_that_are_taken() {
    let plain = accepted::<ClusterSpec>(cluster_proto(), |proto| {
        proto.transport_socket = None;
        proto.circuit_breakers = None;
        proto.connect_timeout = None;
        proto.eds_cluster_config.as_mut().unwrap().service_name = "elsewhere".into();
    });
    assert_eq!(plain.cluster, Cluster::new("c", TlsMode::Plaintext, Vec::new()));
    assert_eq!(&*plain.endpoints, "elsewhere");
    // The list wins over the enum; the first known of it counts, also inside a locality policy.
    let policy = |any| cluster::load_balancing_policy::Policy {
        typed_extension_config: Some(core::TypedExtensionConfig {
            name: String::new(),
            typed_config: Some(any),
        }),
    };
    let least = lb::least_request::v3::LeastRequest {
        choice_count: Some(protobuf::UInt32Value { value: 99 }),
        ..Default::default()
    };
    let wrr = lb::wrr_locality::v3::WrrLocality {
        endpoint_picking_policy: Some(cluster::LoadBalancingPolicy {
            policies: vec![policy(pack(&least))],
        }),
    };
    let listed = accepted::<ClusterSpec>(cluster_proto(), |proto| {
        let unknown = protobuf::Any {
            type_url: "type.googleapis.com/x.Y".into(),
            value: Vec::new(),
        };
        proto.load_balancing_policy = Some(cluster::LoadBalancingPolicy {
            policies: vec![policy(unknown), policy(pack(&wrr))],
        });
    });
    assert_eq!(listed.cluster.lb, LbPolicy::LeastRequest { choices: 10 });
}

#[test]
fn policies_that_nest_without_end_are_refused() {
    let mut list = cluster::LoadBalancingPolicy::default();
    for _ in 0..20 {
        let wrr = lb::wrr_locality::v3::WrrLocality {
            endpoint_picking_policy: Some(list),
        };
        list = cluster::LoadBalancingPolicy {
            policies: vec![cluster::load_balancing_policy::Policy {
                typed_extension_config: Some(core::TypedExtensionConfig {
                    name: String::new(),
                    typed_config: Some(pack(&wrr)),
                }),
            }],
        };
    }
    let mut proto = cluster_proto();
    proto.load_balancing_policy = Some(list);
    let reason = read::<ClusterSpec>(&proto).unwrap_err();
    assert!(reason.reason().contains("nested too deeply"), "{reason}");
}

fn endpoints_proto(endpoints: &[Endpoint]) -> endpoint::ClusterLoadAssignment {
    endpoint::ClusterLoadAssignment::decode(&*encode::endpoints(&"c".into(), endpoints)).unwrap()
}

fn at(port: u16) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, 1], port)))
}

fn in_zone(zone: &str, port: u16, weight: u32) -> Endpoint {
    Endpoint {
        weight: Weight(weight),
        locality: Arc::new(Locality {
            zone: zone.into(),
            ..Locality::default()
        }),
        ..at(port)
    }
}

#[test]
fn endpoints_that_are_refused() {
    use endpoint::lb_endpoint::HostIdentifier;
    let bad = |field: &str, spoil: fn(&mut endpoint::ClusterLoadAssignment)| {
        refused::<Endpoints>(endpoints_proto(&[at(1), at(2)]), field, spoil);
    };
    fn socket(proto: &mut endpoint::ClusterLoadAssignment) -> &mut core::SocketAddress {
        let endpoint = &mut proto.endpoints[0].lb_endpoints[1];
        let Some(HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else {
            panic!("the endpoint has an address")
        };
        match endpoint.address.as_mut().unwrap().address.as_mut().unwrap() {
            core::address::Address::SocketAddress(socket) => socket,
            _ => panic!("the address is a socket's"),
        }
    }
    bad("endpoints[0].locality", |proto| proto.endpoints[0].locality = None);
    bad("endpoints[1].locality", |proto| {
        proto.endpoints.push(proto.endpoints[0].clone())
    });
    bad("endpoints", |proto| proto.endpoints[0].priority = 1);
    bad("endpoints[0].lb_endpoints[1].load_balancing_weight", |proto| {
        proto.endpoints[0].lb_endpoints[1].load_balancing_weight = Some(protobuf::UInt32Value { value: 0 });
    });
    bad("endpoints[0].lb_endpoints", |proto| {
        for endpoint in &mut proto.endpoints[0].lb_endpoints {
            endpoint.load_balancing_weight = Some(protobuf::UInt32Value { value: u32::MAX });
        }
    });
    bad("endpoints[0].lb_endpoints[1].endpoint.address", |proto| {
        proto.endpoints[0].lb_endpoints[1] = proto.endpoints[0].lb_endpoints[0].clone();
    });
    bad(
        "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address",
        |proto| {
            socket(proto).address = "a.example".into();
        },
    );
    bad(
        "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value",
        |proto| {
            socket(proto).port_specifier = Some(core::socket_address::PortSpecifier::PortValue(70_000));
        },
    );
    bad(
        "endpoints[0].lb_endpoints[1].endpoint.address.socket_address",
        |proto| {
            let Some(HostIdentifier::Endpoint(endpoint)) = &mut proto.endpoints[0].lb_endpoints[1].host_identifier
            else {
                panic!("the endpoint has an address")
            };
            endpoint.address = None;
        },
    );
    bad("endpoints", |proto| {
        let mut other = proto.endpoints[0].clone();
        other.locality = Some(core::Locality {
            zone: "other".into(),
            ..Default::default()
        });
        other.lb_endpoints.clear();
        other.load_balancing_weight = Some(protobuf::UInt32Value { value: u32::MAX });
        proto.endpoints.push(other);
    });
}

#[test]
fn localities_share_by_weight() {
    let shares = |change: fn(&mut endpoint::ClusterLoadAssignment)| -> Vec<u32> {
        let proto = endpoints_proto(&[in_zone("a", 1, 1), in_zone("a", 2, 3), in_zone("b", 3, 5)]);
        let read = accepted::<Endpoints>(proto, change);
        read.iter().map(|endpoint| endpoint.weight.0).collect()
    };
    assert_eq!(shares(|_| {}), [1, 3, 5]);
    // Zone a gets three quarters, of which its second endpoint gets three quarters.
    let quarters = shares(|proto| {
        proto.endpoints[0].load_balancing_weight = Some(protobuf::UInt32Value { value: 3 });
        proto.endpoints[1].load_balancing_weight = Some(protobuf::UInt32Value { value: 1 });
    });
    assert_eq!(quarters, [750, 2250, 1000]);
    // A locality that weighs nothing, or is the only one not weighed, gets nothing.
    assert_eq!(shares(|proto| proto.endpoints[1].load_balancing_weight = None), [1, 3]);
    // Where none is weighed they are pooled.
    let pooled = shares(|proto| {
        for locality in &mut proto.endpoints {
            locality.load_balancing_weight = None;
        }
    });
    assert_eq!(pooled, [1, 3, 5]);
}

#[test]
fn health_by_grpcs_rules() {
    let statuses = [
        (core::HealthStatus::Unknown, Health::Healthy),
        (core::HealthStatus::Healthy, Health::Healthy),
        (core::HealthStatus::Draining, Health::Draining),
        (core::HealthStatus::Unhealthy, Health::Unhealthy),
        (core::HealthStatus::Timeout, Health::Unhealthy),
        (core::HealthStatus::Degraded, Health::Unhealthy),
    ];
    for (status, expected) in statuses {
        let read = accepted::<Endpoints>(endpoints_proto(&[at(1)]), |proto| {
            proto.endpoints[0].lb_endpoints[0].health_status = status as i32;
        });
        assert_eq!(read[0].health, expected, "{status:?}");
    }
    assert!(accepted::<Endpoints>(endpoints_proto(&[]), |_| {}).is_empty());
}

fn text() -> impl Strategy<Value = Box<str>> {
    "[a-z/.{}*\u{e9}-]{1,12}".prop_map(Box::from)
}

fn string_tests() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        text().prop_map(StringMatch::Contains),
        "[a-z]{1,4}[+*?]".prop_map(|source| StringMatch::Regex(Pattern::new(&source).unwrap())),
    ]
}

fn route_matches() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        "[a-z/]{0,9}".prop_map(|prefix| PathMatch::Prefix(prefix.into())),
        "/[a-z]{1,4}[+*?]".prop_map(|source| PathMatch::Regex(Pattern::new(&source).unwrap())),
    ];
    let test = prop_oneof![Just(HeaderTest::Present), string_tests().prop_map(HeaderTest::Value)];
    let header = ("x-[a-z]{1,8}", test, any::<bool>()).prop_map(|(name, test, invert)| HeaderMatch {
        name: name.parse().unwrap(),
        test,
        invert,
    });
    (path, prop::collection::vec(header, 0..3)).prop_map(|(path, headers)| RouteMatch { path, headers })
}

fn retries() -> impl Strategy<Value = RetryPolicy> {
    let on = prop::sample::subsequence(
        vec!["connect-failure", "reset", "5xx", "unavailable", "gateway-error"],
        0..5,
    );
    let timeout = prop::option::of(1u64..10_000).prop_map(|millis| millis.map(Duration::from_millis));
    let some = (1u32..9, on, timeout, 1u64..500, 1u64..9, any::<bool>()).prop_map(
        |(retries, on, per_try_timeout, base, factor, explicit)| RetryPolicy {
            retries,
            on: RetryOn::parse(&on.join(",")),
            per_try_timeout,
            backoff: Backoff::new(Duration::from_millis(base), Some(Duration::from_millis(base * factor))).unwrap(),
            explicit,
        },
    );
    prop_oneof![Just(RetryPolicy::never()), some]
}

fn trees() -> impl Strategy<Value = RouteTree> {
    let share = ("[a-z|]{1,9}", 1u32..1000).prop_map(|(name, weight)| (name.into(), weight));
    let split = prop::collection::vec(share, 1..4).prop_map(|shares| Split::weighted(shares).unwrap());
    let timeout = prop::option::of(1u64..u64::from(u32::MAX)).prop_map(|nanos| nanos.map(Duration::from_nanos));
    let route = ("[a-z]{0,5}", route_matches(), split, timeout, retries()).prop_map(
        |(name, matches, split, timeout, retry)| {
            Arc::new(Route {
                name: name.into(),
                matches,
                split,
                timeout,
                retry,
            })
        },
    );
    let domain = prop_oneof!["[a-z.]{1,9}", r"\*[a-z.]{1,9}", r"[a-z.]{1,9}\*", Just("*".to_owned())];
    let domain = domain.prop_map(|text| Domain::parse(&text).unwrap());
    let host = (
        "[a-z]{1,5}",
        prop::collection::vec(domain, 1..3),
        prop::collection::vec(route, 0..4),
    );
    let host = host.prop_map(|(name, domains, routes)| VirtualHost {
        name: name.into(),
        domains,
        routes,
    });
    ("[a-z]{1,9}", prop::collection::vec(host, 0..3)).prop_map(|(name, virtual_hosts)| RouteTree {
        name: name.into(),
        virtual_hosts,
    })
}

fn clusters() -> impl Strategy<Value = Cluster> {
    let lb = prop_oneof![
        Just(LbPolicy::RoundRobin),
        Just(LbPolicy::Random),
        (2u32..=10).prop_map(|choices| LbPolicy::LeastRequest { choices }),
    ];
    let expected = prop::collection::hash_set(string_tests(), 0..3);
    let sni = prop::option::of("[a-z_.]{1,20}").prop_map(|sni| sni.map(Box::from));
    let mutual = (expected, sni).prop_map(|(expected, sni)| {
        TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::new(expected.into_iter().collect()),
            sni,
        })
    });
    let tls = prop_oneof![Just(TlsMode::Plaintext), mutual];
    ("[a-z|.]{1,20}", lb, tls, 1u64..100_000, any::<u32>()).prop_map(|(name, lb, tls, millis, max_requests)| Cluster {
        lb,
        connect_timeout: Duration::from_millis(millis),
        max_requests,
        ..Cluster::new(name.as_str(), tls, Vec::new())
    })
}

/// Up to three priorities without gaps; in each, localities in order, and endpoints with addresses of their own.
fn endpoint_lists() -> impl Strategy<Value = Vec<Endpoint>> {
    let health = prop::sample::select(vec![Health::Healthy, Health::Draining, Health::Unhealthy]);
    let member = (1u32..1000, health);
    let zones = prop::collection::btree_map("[a-c]{0,2}", prop::collection::vec(member, 1..4), 1..4);
    prop::collection::vec(zones, 0..3).prop_map(|priorities| {
        let mut all = Vec::new();
        for (priority, zones) in (0..).zip(priorities) {
            for (zone, members) in zones {
                for (weight, health) in members {
                    let port = 1 + all.len() as u16;
                    all.push(Endpoint {
                        health,
                        priority,
                        ..in_zone(&zone, port, weight)
                    });
                }
            }
        }
        all
    })
}

fn bytes_of<R: Resource>(bytes: Vec<u8>) -> R {
    let raw = Raw {
        type_url: R::KIND.type_url().into(),
        bytes,
    };
    decode::<R>(&raw, &context()).unwrap().value.unwrap()
}

proptest! {
    #[test]
    fn routes_survive_the_wire(tree in trees()) {
        prop_assert_eq!(bytes_of::<RouteTree>(encode::routes(&tree)), tree);
    }

    #[test]
    fn clusters_survive_the_wire(cluster in clusters()) {
        let read = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Mesh));
        prop_assert_eq!(&*read.endpoints, cluster.name.as_str());
        prop_assert_eq!(&read.cluster, &cluster);
        // For others only the balancing differs.
        let told = bytes_of::<ClusterSpec>(encode::cluster(&cluster, Dialect::Grpc));
        prop_assert_eq!(told.cluster, Cluster { lb: LbPolicy::RoundRobin, ..cluster });
    }

    #[test]
    fn endpoints_survive_the_wire(list in endpoint_lists()) {
        let read = bytes_of::<Endpoints>(encode::endpoints(&"c".into(), &list));
        prop_assert_eq!(&*read, &*list);
    }

    #[test]
    fn bytes_from_anywhere_are_refused_or_taken_but_never_fatal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let raw = |url: &str| Raw { type_url: url.into(), bytes: bytes.clone() };
        drop(decode::<Listener>(&raw(Listener::KIND.type_url()), &context()));
        drop(decode::<RouteTree>(&raw(RouteTree::KIND.type_url()), &context()));
        drop(decode::<ClusterSpec>(&raw(ClusterSpec::KIND.type_url()), &context()));
        drop(decode::<Endpoints>(&raw(Endpoints::KIND.type_url()), &context()));
    }
}
