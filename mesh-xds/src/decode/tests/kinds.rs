//! Clusters of every kind, endpoints with drops and metadata, and filters that are resources of their own.

use std::time::Duration;

use mesh_core::config::{DropOverload, Endpoint, LbPolicy, TlsMode};

use super::istiod::sidecar;
use super::*;
use crate::proto::cluster::cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, LbPolicy as LbEnum};
use crate::proto::core::TypedExtensionConfig;
use crate::proto::listener::Listener as ListenerProto;
use crate::proto::protobuf::{Any, Duration as DurationProto, Struct, UInt32Value, Value, value::Kind};
use crate::proto::{aggregate, cluster, core, endpoint, hcm, pack, percent, rbac, rbac_http};
use crate::resource::{ClusterSpec, Discovery, DnsKind, Endpoints, Extension, Filter, Http, Listener};

/// A cluster of one resolved name, looked up again every `refresh_secs`.
pub(crate) fn logical_dns(name: &str, hosts: &[&str], refresh_secs: i64) -> Raw {
    dns(name, DiscoveryType::LogicalDns, hosts, refresh_secs)
}

/// A cluster of every address of its names.
pub(crate) fn strict_dns(name: &str, hosts: &[&str], refresh_secs: i64) -> Raw {
    dns(name, DiscoveryType::StrictDns, hosts, refresh_secs)
}

#[allow(deprecated, reason = "control planes write it")]
fn dns(name: &str, kind: DiscoveryType, hosts: &[&str], seconds: i64) -> Raw {
    let mut cluster = inline(kind, hosts);
    cluster.name = name.into();
    cluster.dns_refresh_rate = Some(DurationProto { seconds, nanos: 0 });
    raw(&cluster)
}

/// A cluster that brings its endpoints along: `hosts` at port 80, without a locality.
pub(super) fn inline(kind: DiscoveryType, hosts: &[&str]) -> cluster::Cluster {
    let host = |host: &&str| {
        let address = core::Address {
            address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                address: (*host).into(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
                ..Default::default()
            })),
        };
        endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                address: Some(address),
                ..Default::default()
            })),
            ..Default::default()
        }
    };
    cluster::Cluster {
        name: "inline".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: "inline".into(),
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: hosts.iter().map(host).collect(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn aggregate(names: &[&str]) -> cluster::Cluster {
    let config = aggregate::ClusterConfig {
        clusters: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    cluster::Cluster {
        name: "aggregate".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.aggregate".into(),
            typed_config: Some(pack(&config)),
        })),
        lb_policy: LbEnum::ClusterProvided as i32,
        ..Default::default()
    }
}

#[test]
#[allow(deprecated, reason = "istiod writes the deprecated refresh rate")]
fn clusters_that_bring_their_hosts() {
    let fixed = accepted::<ClusterSpec>(inline(DiscoveryType::Static, &["10.0.0.1", "::1"]), |_| {});
    let Discovery::Static(Endpoints { endpoints, .. }) = fixed.discovery else {
        panic!("{fixed:?}")
    };
    assert_eq!(endpoints[0], Endpoint::new(([10, 0, 0, 1], 80).into()));
    assert_eq!(endpoints.len(), 2);
    let strict = accepted::<ClusterSpec>(inline(DiscoveryType::StrictDns, &["a.example", "b.example"]), |proto| {
        proto.dns_refresh_rate = Some(DurationProto { seconds: 60, nanos: 0 });
        let locality = &mut proto.load_assignment.as_mut().unwrap().endpoints[0];
        locality.lb_endpoints[1].load_balancing_weight = Some(UInt32Value { value: 3 });
    });
    let Discovery::Dns(dns) = strict.discovery else {
        panic!("{strict:?}")
    };
    assert_eq!((dns.kind, dns.refresh), (DnsKind::Strict, Duration::from_secs(60)));
    let hosts: Vec<_> = dns
        .hosts
        .iter()
        .map(|host| (&*host.host, host.port, host.weight.0))
        .collect();
    assert_eq!(hosts, [("a.example", 80, 1), ("b.example", 80, 3)]);
    // One refresh a second is as often as a resolver is asked.
    let logical = accepted::<ClusterSpec>(inline(DiscoveryType::LogicalDns, &["a.example"]), |proto| {
        proto.dns_refresh_rate = Some(DurationProto { seconds: 0, nanos: 1 });
    });
    let Discovery::Dns(dns) = logical.discovery else {
        panic!("{logical:?}")
    };
    assert_eq!(
        (dns.kind, dns.hosts.len(), dns.refresh),
        (DnsKind::Logical, 1, Duration::from_secs(1))
    );
    let many = accepted::<ClusterSpec>(aggregate(&["a", "b", "a"]), |_| {});
    assert_eq!(
        many.discovery,
        Discovery::Aggregate(["a", "b", "a"].map(Into::into).into())
    );
}

#[test]
fn a_policy_that_is_not_had_is_replaced_and_noted() {
    let policy = |proto: &cluster::Cluster| {
        let decoded = decode::<ClusterSpec>(&raw(proto), &context()).unwrap();
        (decoded.value.map(|spec| spec.cluster.lb), decoded.notes)
    };
    let mut proto = inline(DiscoveryType::Static, &["10.0.0.1"]);
    let least = LbPolicy::LEAST_REQUEST;
    proto.lb_policy = LbEnum::LoadBalancingPolicyConfig as i32;
    let (lb, notes) = policy(&proto);
    assert_eq!((lb.unwrap(), notes.len()), (least.clone(), 1));
    let listed = |names: &[&str]| cluster::LoadBalancingPolicy {
        policies: names
            .iter()
            .map(|name| cluster::load_balancing_policy::Policy {
                typed_extension_config: Some(TypedExtensionConfig {
                    name: String::new(),
                    typed_config: Some(typed(&format!("envoy.extensions.load_balancing_policies.{name}"))),
                }),
            })
            .collect(),
    };
    // One that is had is preferred to one that stands before it and is not.
    proto.load_balancing_policy = Some(listed(&["subset.v3.Subset", "round_robin.v3.RoundRobin"]));
    let (lb, notes) = policy(&proto);
    assert_eq!((lb.unwrap(), notes.len()), (LbPolicy::RoundRobin, 0));
    proto.load_balancing_policy = Some(listed(&["unheard.v1.Of", "override_host.v3.OverrideHost"]));
    let (lb, notes) = policy(&proto);
    assert_eq!((lb.unwrap(), notes.len()), (least, 1));
    proto.load_balancing_policy = Some(listed(&["unheard.v1.Of"]));
    assert_eq!(policy(&proto).0.unwrap_err().field(), "load_balancing_policy.policies");
}

fn typed(name: &str) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: Vec::new(),
    }
}

#[test]
fn drops_in_parts_of_a_million() {
    use endpoint::cluster_load_assignment::{Policy, policy::DropOverload as Proto};
    use percent::fractional_percent::DenominatorType;
    let drop = |category: &str, numerator, denominator: DenominatorType| Proto {
        category: category.into(),
        drop_percentage: Some(percent::FractionalPercent {
            numerator,
            denominator: denominator as i32,
        }),
    };
    let mut proto = istiod::endpoints("c");
    proto.policy = Some(Policy {
        drop_overloads: vec![
            drop("lb", 50, DenominatorType::Hundred),
            drop("none", 0, DenominatorType::Hundred),
            drop("throttle", 7, DenominatorType::TenThousand),
            drop("all", 4_000_000_000, DenominatorType::Hundred),
        ],
        ..Default::default()
    });
    let read = accepted::<Endpoints>(proto, |_| {});
    let expected = |category: &str, per_million| DropOverload {
        category: category.into(),
        per_million,
    };
    assert_eq!(
        *read.drops,
        [
            expected("lb", 500_000),
            expected("throttle", 700),
            expected("all", 1_000_000)
        ]
    );
}

#[test]
fn metadata_of_an_endpoint_stands_before_that_of_its_locality() {
    const MATCH: &str = "envoy.transport_socket_match";
    let fields = |values: &[(String, &str)]| Struct {
        fields: values
            .iter()
            .map(|(key, text)| {
                let kind = Some(Kind::StringValue((*text).into()));
                (key.clone(), Value { kind })
            })
            .collect(),
    };
    let of = |filter: &str, values: &[(String, &str)]| core::Metadata {
        filter_metadata: [(filter.to_owned(), fields(values))].into(),
        ..Default::default()
    };
    let mode = |text| of(MATCH, &[("tlsMode".to_owned(), text)]);
    let tls_mode = |own: Option<core::Metadata>, locality: Option<core::Metadata>| {
        let read = accepted::<Endpoints>(istiod::endpoints("c"), |proto| {
            proto.endpoints[0].metadata = locality;
            proto.endpoints[0].lb_endpoints[0].metadata = own;
        });
        let metadata = &read.endpoints[0].metadata;
        metadata.value(MATCH, "tlsMode").map(str::to_owned)
    };
    assert_eq!(tls_mode(None, Some(mode("istio"))).as_deref(), Some("istio"));
    assert_eq!(
        tls_mode(Some(mode("disabled")), Some(mode("istio"))).as_deref(),
        Some("disabled")
    );
    // A flood of other values costs those, and never the one by which TLS is chosen.
    let flood: Vec<(String, &str)> = (0..100).map(|n| (format!("k{n}"), "v")).collect();
    assert_eq!(
        tls_mode(Some(of("a", &flood)), Some(mode("istio"))).as_deref(),
        Some("istio")
    );
    refused::<Endpoints>(
        istiod::endpoints("c"),
        "endpoints[0].lb_endpoints[0].metadata",
        |proto| {
            proto.endpoints[0].lb_endpoints[0].metadata = Some(of(MATCH, &flood));
        },
    );
}

#[test]
fn endpoints_that_only_a_proxy_can_use_are_left_out_in_envoys_profile() {
    let mut proto = istiod::endpoints("c");
    let endpoints = &mut proto.endpoints[0].lb_endpoints;
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(first)) = &mut endpoints[0].host_identifier else {
        panic!("the endpoint has an address")
    };
    first.address = Some(core::Address {
        address: Some(core::address::Address::Pipe(core::Pipe {
            path: "/tmp/pipe".into(),
            mode: 0,
        })),
    });
    proto.endpoints[0].locality = None;
    proto.endpoints[0].priority = 3;
    let decoded = decode::<Endpoints>(&raw(&proto), &envoy()).unwrap();
    let endpoints = decoded.value.unwrap().endpoints;
    assert_eq!((endpoints.len(), endpoints[0].priority, decoded.notes.len()), (1, 3, 1));
    assert!(read::<Endpoints>(&proto).is_err());
}

#[test]
fn a_socket_in_the_clear_is_plaintext() {
    let raw_buffer = |config_type| core::TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".into(),
        config_type,
    };
    let packed = core::transport_socket::ConfigType::TypedConfig(typed(
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    ));
    for config in [None, Some(packed)] {
        let spec = accepted::<ClusterSpec>(inline(DiscoveryType::Static, &["10.0.0.1"]), |proto| {
            proto.transport_socket = Some(raw_buffer(config));
        });
        assert_eq!(spec.cluster.tls, TlsMode::Plaintext);
    }
}

/// The listener of a port, with one more filter before the others.
fn with_filter(extra: hcm::HttpFilter) -> ListenerProto {
    use crate::proto::listener::filter::ConfigType;
    let mut proto = sidecar::by_port();
    let Some(ConfigType::TypedConfig(any)) = &mut proto.filter_chains[0].filters[0].config_type else {
        panic!("the filter has a configuration")
    };
    let mut manager = hcm::HttpConnectionManager::decode(&*any.value).unwrap();
    manager.http_filters.insert(0, extra);
    *any = pack(&manager);
    proto
}

fn elsewhere(change: impl FnOnce(&mut core::ExtensionConfigSource)) -> hcm::HttpFilter {
    let mut source = core::ExtensionConfigSource {
        config_source: Some(core::ConfigSource {
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
            ..Default::default()
        }),
        type_urls: vec!["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm".into()],
        ..Default::default()
    };
    change(&mut source);
    hcm::HttpFilter {
        name: "default.plugin".into(),
        config_type: Some(hcm::http_filter::ConfigType::ConfigDiscovery(source)),
        ..Default::default()
    }
}

#[test]
fn a_filter_that_is_a_resource_of_its_own_is_a_reference() {
    let references = |filter: hcm::HttpFilter| {
        let value = decode::<Listener>(&raw(&with_filter(filter)), &envoy())
            .unwrap()
            .value?;
        let Listener::Outbound {
            http: Http { extensions, .. },
            ..
        } = value
        else {
            panic!("{value:?}")
        };
        Ok::<_, Rejected>(extensions[0].clone())
    };
    let plain = references(elsewhere(|_| {})).unwrap();
    assert_eq!(
        (&*plain.name, plain.types.len(), plain.default.as_ref()),
        ("default.plugin", 1, None)
    );
    assert!(!plain.optional && !plain.default_without_warming);
    let defaulted = references(elsewhere(|source| {
        source.default_config = Some(typed("envoy.extensions.filters.http.cors.v3.Cors"));
        source.apply_default_config_without_warming = true;
    }));
    let defaulted = defaulted.unwrap();
    assert_eq!(
        (defaulted.default, defaulted.default_without_warming),
        (Some(Filter::NoOp), true)
    );
    let at = "filter_chains[0].filters[0].typed_config.http_filters[0].config_discovery";
    for (field, change) in [
        (
            "type_urls",
            (|source| source.type_urls.clear()) as fn(&mut core::ExtensionConfigSource),
        ),
        ("config_source", |source| source.config_source = None),
        ("apply_default_config_without_warming", |source| {
            source.apply_default_config_without_warming = true
        }),
    ] {
        let rejected = references(elsewhere(change)).unwrap_err();
        assert_eq!(rejected.field(), format!("{at}.{field}"));
    }
}

#[test]
fn what_a_filter_means() {
    let wrapped = |inner: &str, value: &[u8]| {
        pack_struct(&crate::proto::TypedStruct {
            type_url: format!("type.googleapis.com/{inner}"),
            value: value.into(),
        })
    };
    let meaning = |config: Any| {
        let proto = TypedExtensionConfig {
            name: "filter".into(),
            typed_config: Some(config),
        };
        let read = decode::<Extension>(&raw(&proto), &envoy()).unwrap();
        read.value.unwrap()
    };
    let router = meaning(typed("envoy.extensions.filters.http.router.v3.Router"));
    assert_eq!(router.filter, Filter::Router);
    assert_eq!(meaning(typed("stats.PluginConfig")).filter, Filter::NoOp);
    let stats = meaning(wrapped("stats.PluginConfig", b"\x0a\x00"));
    assert_eq!(
        (&*stats.type_url, stats.filter),
        ("type.googleapis.com/stats.PluginConfig", Filter::NoOp)
    );
    let cors = "envoy.extensions.filters.http.cors.v3.Cors";
    assert_eq!(meaning(wrapped(cors, b"")).filter, Filter::NoOp);
    for guard in [
        wrapped(cors, b"\x0a\x00"),
        pack(&rbac_http::Rbac {
            rules: Some(rbac::Rbac::default()),
            ..rbac_http::Rbac::default()
        }),
        pack(&rbac_http::Rbac {
            matcher: Some(Default::default()),
            ..rbac_http::Rbac::default()
        }),
        // A field of a later version may be what it enforces.
        Any {
            value: b"\xf8\x07\x01".to_vec(),
            ..typed("envoy.extensions.filters.http.rbac.v3.RBAC")
        },
        wrapped("envoy.extensions.filters.http.rbac.v3.RBAC", b"\x0a\x00"),
        typed("envoy.extensions.filters.http.wasm.v3.Wasm"),
    ] {
        assert!(matches!(meaning(guard).filter, Filter::Unsupported(_)));
    }
    // Envoy of `rules`: "If absent, no enforcing RBAC policy will be applied"; and a dry run changes nothing. It is what Istio puts in the
    // place of a plugin that may be left out: to refuse it would fail each call for a filter that keeps nobody out.
    for nobody_is_kept_out in [
        typed("envoy.extensions.filters.http.rbac.v3.RBAC"),
        wrapped("envoy.extensions.filters.http.rbac.v3.RBAC", b""),
        pack(&rbac_http::Rbac {
            shadow_rules: Some(rbac::Rbac::default()),
            shadow_rules_stat_prefix: "dry".into(),
            ..rbac_http::Rbac::default()
        }),
    ] {
        assert_eq!(meaning(nobody_is_kept_out).filter, Filter::NoOp);
    }
    let empty = TypedExtensionConfig {
        name: "filter".into(),
        typed_config: None,
    };
    assert_eq!(read::<Extension>(&empty).unwrap_err().field(), "typed_config");
}

fn pack_struct(value: &crate::proto::TypedStruct) -> Any {
    Any {
        type_url: "type.googleapis.com/udpa.type.v1.TypedStruct".into(),
        value: value.encode_to_vec(),
    }
}
