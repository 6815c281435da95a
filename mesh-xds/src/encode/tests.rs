//! What Envoy is told, held against what it demands; and what each kind of gRPC client is told. That it is right by Envoy's own word is
//! shown by the peers' tests, which run one.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use mesh_core::Snapshot;
use mesh_core::config::{
    Delay, Domain, ExpectedPeers, Fault, FaultDelay, FilterKind, FilterOverride, Fraction, HeaderRules, LbPolicy,
    LeastRequest, MutualTls, Override, Route, Split, TlsMode, VirtualHost,
};
use mesh_core::route::{faults_of, virtual_host};
use proptest::prelude::*;

use super::*;
use crate::proto::{cluster as cds, core, hcm, listener as lds, tls as proto_tls};

fn node(user_agent: &str, bind: Option<&str>) -> Node {
    Node {
        user_agent: user_agent.into(),
        metadata: bind.map(|bind| (EGRESS_BIND.into(), bind.into())).into_iter().collect(),
        ..Node::default()
    }
}

const ENVOY: Dialect = Dialect::Envoy(EGRESS_ADDRESS);

#[test]
fn the_dialect_is_chosen_by_the_name_of_the_software() {
    let cases = [
        ("mesh-xds", None, Ok(Dialect::Mesh)),
        ("gRPC C-core linux Python", None, Ok(Dialect::Grpc)),
        ("gRPC Node Pure JS", Some("127.0.0.2"), Ok(Dialect::Grpc)),
        ("gRPC Rust tonic-xds", None, Ok(Dialect::Grpc)),
        ("gRPC Go", None, Ok(Dialect::Grpc)),
        ("gRPC Java", None, Ok(Dialect::Grpc)),
        ("", None, Ok(Dialect::Grpc)),
        ("envoy", None, Ok(ENVOY)),
        ("envoy", Some("127.0.0.2"), Ok(Dialect::Envoy([127, 0, 0, 2].into()))),
        (
            "envoy",
            Some("::1"),
            Ok(Dialect::Envoy([0u16, 0, 0, 0, 0, 0, 0, 1].into())),
        ),
        ("envoy", Some("localhost"), Err(NotAnAddress("localhost".into()))),
    ];
    for (agent, bind, expected) in cases {
        assert_eq!(Dialect::of(&node(agent, bind)), expected, "{agent} {bind:?}");
    }
    // Of our own, the node's.
    let sidecar = |generator: Option<&str>| Node {
        id: "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local".into(),
        metadata: generator
            .map(|generator| ("GENERATOR".into(), generator.into()))
            .into_iter()
            .collect(),
        ..node(OUR_USER_AGENT, None)
    };
    assert_eq!(Dialect::of(&sidecar(None)), Ok(Dialect::Sidecar));
    assert_eq!(Dialect::of(&sidecar(Some("grpc"))), Ok(Dialect::Mesh));
    // What the bootstrap decides goes before what the node looks like.
    let told = |feature: &str, node: Node| Node {
        features: vec![feature.into()],
        ..node
    };
    assert_eq!(
        Dialect::of(&told("mesh.profile.grpc", sidecar(None))),
        Ok(Dialect::Mesh)
    );
    assert_eq!(
        Dialect::of(&told("mesh.profile.envoy", node(OUR_USER_AGENT, None))),
        Ok(Dialect::Sidecar)
    );
}

#[test]
fn an_envoy_listener_is_a_socket_with_one_chain_and_no_api_listener() {
    let listener = lds::Listener::decode(&*socket_listener([127, 0, 0, 2].into(), 9080, &Calls::default())).unwrap();
    assert_eq!((&*listener.name, &listener.api_listener), ("egress_9080", &None));
    assert_eq!(listener.traffic_direction, core::TrafficDirection::Outbound as i32);
    let Some(core::address::Address::SocketAddress(socket)) = listener.address.unwrap().address else {
        panic!("a socket")
    };
    assert_eq!(socket.address, "127.0.0.2");
    assert_eq!(
        socket.port_specifier,
        Some(core::socket_address::PortSpecifier::PortValue(9080))
    );
    let [chain] = &listener.filter_chains[..] else {
        panic!("one chain")
    };
    let [filter] = &chain.filters[..] else {
        panic!("one filter")
    };
    let Some(lds::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        panic!("typed")
    };
    let manager = hcm::HttpConnectionManager::decode(&*any.value).unwrap();
    assert!(!manager.stat_prefix.is_empty(), "Envoy demands one");
    assert_eq!(manager.codec_type, hcm::http_connection_manager::CodecType::Auto as i32);
    assert_eq!(manager.http_filters.len(), 1);
    let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) = manager.route_specifier else {
        panic!("routes by name")
    };
    assert_eq!((&*rds.route_config_name, rds.config_source), ("9080", common::ads()));
}

fn mutual(ids: &[&str]) -> Cluster {
    let tls = TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly(ids.iter().copied()),
        sni: Some("outbound_.80_._.a".into()),
        ..MutualTls::default()
    });
    Cluster {
        lb: LbPolicy::LeastRequest(LeastRequest {
            choices: 3,
            ..LeastRequest::DEFAULT
        }),
        ..Cluster::new("c", tls, Vec::new())
    }
}

fn told(cluster: &Cluster, dialect: Dialect) -> (cds::Cluster, proto_tls::UpstreamTlsContext) {
    let proto = cds::Cluster::decode(&*super::cluster(cluster, dialect)).unwrap();
    let socket = proto.transport_socket.clone().unwrap();
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = socket.config_type else {
        panic!("typed")
    };
    (proto, proto_tls::UpstreamTlsContext::decode(&*any.value).unwrap())
}

#[test]
#[allow(deprecated, reason = "the list that others than Envoy may enforce")]
fn an_envoy_cluster_names_secrets_and_holds_none() {
    use proto_tls::common_tls_context::ValidationContextType;
    let id = "spiffe://d/ns/n/sa/a";
    let (proto, context) = told(&mutual(&[id]), ENVOY);
    assert_eq!(proto.lb_policy, cds::cluster::LbPolicy::LeastRequest as i32);
    assert!(
        proto
            .typed_extension_protocol_options
            .contains_key("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")
    );
    assert_eq!(context.sni, "outbound_.80_._.a");
    let common = context.common_tls_context.unwrap();
    let [certificate] = &common.tls_certificate_sds_secret_configs[..] else {
        panic!("one certificate")
    };
    assert_eq!((&*certificate.name, &certificate.sds_config), ("default", &None));
    assert_eq!(
        (common.tls_certificate_provider_instance, common.tls_certificates),
        (None, Vec::new())
    );
    assert_eq!(
        common.tls_params.unwrap().tls_maximum_protocol_version,
        proto_tls::tls_parameters::TlsProtocol::TlSv13 as i32
    );
    let Some(ValidationContextType::CombinedValidationContext(combined)) = common.validation_context_type else {
        panic!("combined: roots by name, identities here")
    };
    let roots = combined.validation_context_sds_secret_config.unwrap();
    assert_eq!((&*roots.name, roots.sds_config), ("ROOTCA", None));
    let validation = combined.default_validation_context.unwrap();
    assert_eq!(
        (validation.ca_certificate_provider_instance, validation.trusted_ca),
        (None, None)
    );
    let [san] = &validation.match_typed_subject_alt_names[..] else {
        panic!("one identity")
    };
    assert_eq!(san.san_type, proto_tls::subject_alt_name_matcher::SanType::Uri as i32);
    let exactly = matcher::string_match(&mesh_core::config::StringMatch::Exact(id.into()));
    assert_eq!(san.matcher.as_ref(), Some(&exactly));
    assert_eq!(validation.match_subject_alt_names, [exactly]);
}

#[test]
#[allow(deprecated, reason = "the list that C-core and grpc-js enforce")]
fn a_cluster_that_expects_nobody_lets_no_foreign_client_talk_to_anybody() {
    use proto_tls::common_tls_context::ValidationContextType;
    for dialect in [Dialect::Grpc, ENVOY] {
        let (_, context) = told(&mutual(&[]), dialect);
        let validation = match context.common_tls_context.unwrap().validation_context_type.unwrap() {
            ValidationContextType::ValidationContext(validation) => validation,
            ValidationContextType::CombinedValidationContext(combined) => combined.default_validation_context.unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(validation.match_typed_subject_alt_names.len(), 1, "{dialect:?}");
        assert_eq!(validation.match_subject_alt_names.len(), 1, "{dialect:?}");
    }
}

#[test]
fn grpc_is_told_of_round_robin_and_of_both_lists_of_identities() {
    let (proto, _) = told(&mutual(&["spiffe://d/ns/n/sa/a"]), Dialect::Grpc);
    assert_eq!(
        (proto.lb_policy, proto.lb_config),
        (cds::cluster::LbPolicy::RoundRobin as i32, None)
    );
}

/// A tree with one virtual host of these domains.
fn tree(name: &str, domains: &[&str]) -> Arc<RouteTree> {
    let domains = domains.iter().map(|domain| Domain::parse(domain).unwrap()).collect();
    let host = VirtualHost::new(name, domains, vec![Arc::new(Route::to(Split::all_to(name)))]);
    Arc::new(RouteTree::new(name, vec![host]))
}

fn merged(targets: &[(&str, &Arc<RouteTree>)]) -> BTreeMap<u16, RouteTree> {
    let mut builder = Snapshot::builder();
    for (target, tree) in targets {
        builder = builder.target(*target, Ok(Arc::clone(tree)));
        for cluster in tree.clusters() {
            builder = builder.cluster(Cluster::new(cluster.as_str(), TlsMode::Plaintext, Vec::new()));
        }
    }
    by_port(&builder.build().unwrap())
}

/// Which tree an authority comes to at a port.
fn at(ports: &BTreeMap<u16, RouteTree>, port: u16, authority: &str) -> Option<String> {
    let host = virtual_host(&ports[&port], authority)?;
    Some(host.routes[0].split()?.clusters()[0].cluster.to_string())
}

#[test]
fn targets_of_a_port_are_one_configuration_and_a_target_without_a_port_is_left_out() {
    let (pay, check) = (tree("pay", &["*"]), tree("check", &["*"]));
    let ports = merged(&[
        ("pay:80", &pay),
        ("check:80", &check),
        ("check:81", &check),
        ("bare", &pay),
        ("zero:0", &pay),
        ("high:70000", &pay),
        ("plus:+80", &pay),
        ("::1", &pay),
        ("[::1]:82", &pay),
    ]);
    assert_eq!(ports.keys().copied().collect::<Vec<_>>(), [80, 81, 82]);
    assert_eq!(&*ports[&80].name, "80");
    for (authority, expected) in [
        ("pay", Some("pay")),
        ("pay:80", Some("pay")),
        ("PAY", Some("pay")),
        ("check", Some("check")),
        ("check:80", Some("check")),
        // A catch-all of one service is not one of its port.
        ("bare", None),
        ("other", None),
    ] {
        assert_eq!(at(&ports, 80, authority).as_deref(), expected, "{authority}");
    }
}

#[test]
fn a_domain_that_two_services_claim_goes_to_the_target_of_that_name_and_else_to_the_longer_form() {
    let long = tree("long", &["pay.shop.svc.x", "pay.shop.svc", "pay.shop", "pay", "only"]);
    let short = tree("short", &["pay.shop", "only"]);
    let ports = merged(&[("pay.shop.svc.x:80", &long), ("pay.shop:80", &short), ("pay:80", &long)]);
    for (authority, expected) in [
        ("pay.shop.svc.x:80", "long"),
        ("pay.shop.svc", "long"),
        ("pay.shop", "short"),
        ("pay.shop:80", "short"),
        ("pay", "long"),
        // Nobody's target: the second form of one, the fifth of the other.
        ("only", "short"),
        ("only:80", "short"),
    ] {
        assert_eq!(at(&ports, 80, authority).as_deref(), Some(expected), "{authority}");
    }
}

#[test]
fn wildcards_are_kept_and_taken_with_the_port_too() {
    let wild = tree("wild", &["*.example.com", "img-*"]);
    let ports = merged(&[("a.example.com:443", &wild)]);
    for authority in [
        "b.example.com",
        "b.example.com:443",
        "img-1",
        "img-1:443",
        "a.example.com",
    ] {
        let envoys = ports[&443].virtual_hosts[0].domains.iter().any(|domain| match domain {
            Domain::Exact(text) => authority == &**text,
            Domain::Suffix(text) => authority.ends_with(&**text),
            Domain::Prefix(text) => authority.starts_with(&**text),
            Domain::Any => true,
        });
        assert!(envoys, "{authority}: {:?}", ports[&443].virtual_hosts[0].domains);
    }
}

/// What stands in one service's configuration, or in its listener, is not said of the other services of its port.
#[test]
fn faults_and_header_rules_stay_with_their_service() {
    let fault = |seconds| {
        let delay = FaultDelay {
            fraction: Fraction::ALL,
            delay: Delay::Fixed(std::time::Duration::from_secs(seconds)),
        };
        let delay = (seconds > 0).then_some(delay);
        FilterKind::from(Fault {
            delay,
            ..Fault::default()
        })
    };
    let with = |name: &str, seconds, disabled, said: Option<Override>| {
        let mut tree = (*tree(name, &["*"])).clone();
        tree.filters = vec![CallFilter {
            name: "f".into(),
            what: fault(seconds),
            disabled,
        }];
        tree.filter_overrides.extend(said.map(|what| FilterOverride {
            filter: "f".into(),
            what,
        }));
        let mut rules = HeaderRules::default();
        rules.request.remove = vec![http::HeaderName::try_from(format!("x-{name}")).unwrap()];
        tree.headers = rules.shared();
        Arc::new(tree)
    };
    let trees = [
        with("slow", 1, false, None),
        with("quiet", 2, true, None),
        with("woken", 3, true, Some(Override::Enabled)),
        with("other", 4, false, Some(Override::With(fault(5)))),
        with("empty", 0, false, None),
        tree("plain", &["*"]),
    ];
    let named: Vec<_> = trees.iter().map(|tree| (format!("{}:80", tree.name), tree)).collect();
    let named: Vec<_> = named.iter().map(|(target, tree)| (&**target, *tree)).collect();
    let merged = &merged(&named)[&80];
    assert_eq!(merged.filters.len(), 1);
    for (target, tree) in named {
        let of = |tree: &RouteTree| {
            let host = virtual_host(tree, target).unwrap();
            let route = &host.routes[0];
            let rules = host.headers.clone().or_else(|| tree.headers.clone());
            (
                faults_of(tree, host, route, &route.split().unwrap().clusters()[0]),
                rules,
            )
        };
        assert_eq!(of(merged), of(tree), "{target}");
    }
}

fn domains() -> impl Strategy<Value = Vec<Domain>> {
    let domain = prop_oneof![
        "[ab]{1,2}(\\.[ab])?(:80)?",
        r"\*\.[ab]",
        r"[ab]\*",
        Just("*".to_owned())
    ];
    prop::collection::vec(domain.prop_map(|text| Domain::parse(&text).unwrap()), 0..4)
}

proptest! {
    /// Envoy's rules for a route configuration, and that a target's name leads where it leads a gRPC client.
    #[test]
    fn merged_configurations_are_what_envoy_takes(
        trees in prop::collection::vec(prop::collection::vec(domains(), 0..3), 1..4),
        targets in prop::collection::btree_map("[ab]{1,2}(\\.[ab])?", 0usize..3, 1..5),
    ) {
        let trees: Vec<Arc<RouteTree>> = trees.into_iter().enumerate().map(|(tree, hosts)| {
            let hosts = hosts.into_iter().enumerate().map(|(host, domains)| {
                let route = Route::to(Split::all_to(format!("{tree}-{host}").as_str()));
                VirtualHost::new("same", domains, vec![Arc::new(route)])
            });
            Arc::new(RouteTree::new(format!("t{tree}"), hosts.collect()))
        }).collect();
        let targets: Vec<(String, &Arc<RouteTree>)> = targets
            .iter()
            .map(|(name, tree)| (format!("{name}:80"), &trees[tree % trees.len()]))
            .collect();
        let named: Vec<_> = targets.iter().map(|(name, tree)| (&**name, *tree)).collect();
        let ports = merged(&named);
        let all = &ports[&80];
        let (mut names, mut domains) = (BTreeSet::new(), BTreeSet::new());
        for host in &all.virtual_hosts {
            prop_assert!(names.insert(&host.name), "a name twice");
            prop_assert!(!host.domains.is_empty());
            for domain in &host.domains {
                prop_assert!(domains.insert(domain.to_string()), "{domain} twice");
                prop_assert_ne!(domain, &Domain::Any);
            }
        }
        for (target, tree) in &targets {
            for authority in [&**target, target.trim_end_matches(":80")] {
                let theirs = virtual_host(tree, authority).map(|host| &host.routes);
                if theirs.is_some() {
                    prop_assert_eq!(virtual_host(all, authority).map(|host| &host.routes), theirs, "{}", authority);
                }
            }
        }
        prop_assert_eq!(merged(&named), ports);
    }
}
