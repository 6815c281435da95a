//! How clusters are found and called: kinds, protocols, limits.

use super::*;

#[test]
fn cp_6_clusters() {
    use crate::proto::cluster::cluster::{LbConfig, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig};
    let mutators: [Mutator<Proto>; 13] = [
        ("type", |p| p.cluster_discovery_type = None),
        ("type", |p| {
            p.cluster_discovery_type = Some(ClusterDiscoveryType::Type(77))
        }),
        ("cluster_type.typed_config", |p| {
            p.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(Default::default()))
        }),
        ("eds_cluster_config", |p| p.eds_cluster_config = None),
        ("eds_cluster_config.eds_config", |p| {
            p.eds_cluster_config.as_mut().unwrap().eds_config = None
        }),
        ("eds_cluster_config.eds_config", |p| {
            p.eds_cluster_config.as_mut().unwrap().eds_config = Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::PathConfigSource(
                    Default::default(),
                )),
                ..Default::default()
            });
        }),
        ("lb_policy", |p| p.lb_policy = 99),
        ("least_request_lb_config.choice_count", |p| {
            p.lb_policy = 1;
            p.lb_config = Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                choice_count: Some(UInt32Value { value: 1 }),
                ..Default::default()
            }));
        }),
        ("ring_hash_lb_config.minimum_ring_size", |p| {
            p.lb_policy = 2;
            p.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                minimum_ring_size: Some(UInt64Value { value: 8_388_609 }),
                ..Default::default()
            }));
        }),
        ("maglev_lb_config.table_size", |p| {
            p.lb_policy = 5;
            p.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
                table_size: Some(UInt64Value { value: 65_536 }),
            }));
        }),
        ("load_balancing_policy.policies", |p| {
            p.load_balancing_policy = Some(Default::default())
        }),
        ("connect_timeout", |p| {
            p.connect_timeout = Some(DurationProto { seconds: 0, nanos: -1 })
        }),
        ("connect_timeout", |p| {
            p.connect_timeout = Some(DurationProto { seconds: 0, nanos: 0 })
        }),
    ];
    let base = istiod::proxyless::cluster(istiod::CLUSTER);
    let small = inline(DiscoveryType::Static, &[]);
    table::<ClusterSpec>(context(), &base, &small, &mutators);
    // Clusters that go by a name of the federation's kind have a rule of their own.
    let mut federated = base;
    federated.name = "xdstp://a/envoy.config.cluster.v3.Cluster/c".into();
    federated.eds_cluster_config.as_mut().unwrap().service_name.clear();
    assert_eq!(
        read::<ClusterSpec>(&federated).unwrap_err().field(),
        "eds_cluster_config.service_name"
    );
}

#[test]
#[allow(deprecated, reason = "the older fields say the same")]
fn cp_6_protocols_of_clusters() {
    use crate::proto::core::{
        Http2ProtocolOptions, Http3ProtocolOptions, HttpProtocolOptions as Common, KeepaliveSettings,
    };
    use crate::proto::hcm::{HttpFilter, http_filter};
    use crate::proto::upstream_http::{
        HttpProtocolOptions,
        http_protocol_options::{
            AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
            explicit_http_config::ProtocolConfig,
        },
    };
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    fn options(proto: &mut Proto, change: impl FnOnce(&mut HttpProtocolOptions)) {
        let mut options = HttpProtocolOptions {
            upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Default::default())),
            })),
            ..Default::default()
        };
        change(&mut options);
        let any = pack(&options);
        proto.typed_extension_protocol_options.insert(NAME.into(), any);
    }
    fn http2(proto: &mut Proto, change: impl FnOnce(&mut Http2ProtocolOptions)) {
        let mut http2 = Http2ProtocolOptions::default();
        change(&mut http2);
        options(proto, |options| {
            explicit(options, ProtocolConfig::Http2ProtocolOptions(http2))
        });
    }
    fn explicit(options: &mut HttpProtocolOptions, protocol: ProtocolConfig) {
        options.upstream_protocol_options = Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        }));
    }
    fn keep_alive(proto: &mut Proto, settings: KeepaliveSettings) {
        http2(proto, |http2| http2.connection_keepalive = Some(settings));
    }
    let at = |rest: &str| -> &'static str {
        let dot = if rest.is_empty() { "" } else { "." };
        Box::leak(format!("typed_extension_protocol_options[{NAME}]{dot}{rest}").into_boxed_str())
    };
    let of_http2 = |rest: &str| at(&format!("explicit_http_config.http2_protocol_options.{rest}"));
    let negative = DurationProto { seconds: -1, nanos: 0 };
    let mutators: [Mutator<Proto>; 17] = [
        (at(""), |p| {
            p.typed_extension_protocol_options.insert(
                NAME.into(),
                Any {
                    type_url: "x/y".into(),
                    value: vec![],
                },
            );
        }),
        (at("upstream_protocol_options"), |p| {
            options(p, |o| o.upstream_protocol_options = None)
        }),
        (at("explicit_http_config.protocol_config"), |p| {
            options(p, |o| {
                o.upstream_protocol_options = Some(UpstreamProtocolOptions::ExplicitHttpConfig(Default::default()));
            });
        }),
        (at("explicit_http_config.http3_protocol_options"), |p| {
            options(p, |o| {
                explicit(o, ProtocolConfig::Http3ProtocolOptions(Http3ProtocolOptions::default()))
            });
        }),
        (of_http2("max_concurrent_streams"), |p| {
            http2(p, |o| o.max_concurrent_streams = Some(UInt32Value { value: 0 }));
        }),
        (of_http2("max_concurrent_streams"), |p| {
            http2(p, |o| o.max_concurrent_streams = Some(UInt32Value { value: 1 << 31 }));
        }),
        (of_http2("initial_stream_window_size"), |p| {
            http2(p, |o| {
                o.initial_stream_window_size = Some(UInt32Value { value: 65_534 })
            });
        }),
        (of_http2("initial_stream_window_size"), |p| {
            http2(p, |o| {
                o.initial_stream_window_size = Some(UInt32Value { value: u32::MAX })
            });
        }),
        (of_http2("initial_connection_window_size"), |p| {
            http2(p, |o| o.initial_connection_window_size = Some(UInt32Value { value: 1 }));
        }),
        (of_http2("connection_keepalive.timeout"), |p| {
            keep_alive(p, KeepaliveSettings::default())
        }),
        (of_http2("connection_keepalive.interval"), |p| {
            keep_alive(
                p,
                KeepaliveSettings {
                    interval: Some(DurationProto { seconds: -1, nanos: 0 }),
                    ..Default::default()
                },
            );
        }),
        (at("common_http_protocol_options.idle_timeout"), |p| {
            options(p, |o| {
                o.common_http_protocol_options = Some(Common {
                    idle_timeout: Some(DurationProto { seconds: 0, nanos: -1 }),
                    ..Default::default()
                });
            });
        }),
        (at("common_http_protocol_options.max_connection_duration"), |p| {
            options(p, |o| {
                o.common_http_protocol_options = Some(Common {
                    max_connection_duration: Some(DurationProto { seconds: -1, nanos: 0 }),
                    ..Default::default()
                });
            });
        }),
        // A filter on the way out may be the one that guards.
        (at("http_filters[0]"), |p| {
            options(p, |o| {
                o.http_filters = vec![HttpFilter {
                    config_type: Some(http_filter::ConfigType::TypedConfig(Any {
                        type_url: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC".into(),
                        value: vec![],
                    })),
                    ..Default::default()
                }];
            });
        }),
        (
            at("use_downstream_protocol_config.http2_protocol_options.max_concurrent_streams"),
            |p| {
                let http2 = Http2ProtocolOptions {
                    max_concurrent_streams: Some(UInt32Value { value: 0 }),
                    ..Default::default()
                };
                options(p, |o| {
                    o.upstream_protocol_options = Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
                        UseDownstreamHttpConfig {
                            http2_protocol_options: Some(http2),
                            ..Default::default()
                        },
                    ));
                });
            },
        ),
        (
            at("auto_config.http2_protocol_options.initial_stream_window_size"),
            |p| {
                let http2 = Http2ProtocolOptions {
                    initial_stream_window_size: Some(UInt32Value { value: 0 }),
                    ..Default::default()
                };
                options(p, |o| {
                    o.upstream_protocol_options = Some(UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
                        http2_protocol_options: Some(http2),
                        ..Default::default()
                    }));
                });
            },
        ),
        ("http2_protocol_options.max_concurrent_streams", |p| {
            p.http2_protocol_options = Some(Http2ProtocolOptions {
                max_concurrent_streams: Some(UInt32Value { value: 0 }),
                ..Default::default()
            });
        }),
    ];
    let base = istiod::proxyless::cluster(istiod::CLUSTER);
    let small = inline(DiscoveryType::Static, &[]);
    table::<ClusterSpec>(context(), &base, &small, &mutators);
    let mut older = base;
    older.common_http_protocol_options = Some(Common {
        idle_timeout: Some(negative),
        ..Default::default()
    });
    assert_eq!(
        read::<ClusterSpec>(&older).unwrap_err().field(),
        "common_http_protocol_options.idle_timeout"
    );
}

/// What a cluster that says nothing is spoken to in, and what is said in fields of every age.
#[test]
#[allow(deprecated, reason = "the older fields say the same")]
fn what_is_spoken_to_a_cluster() {
    use mesh_core::config::Protocol;
    let plain = || inline(DiscoveryType::Static, &["10.0.0.1"]);
    let with = |change: fn(&mut Proto)| {
        let mut proto = plain();
        change(&mut proto);
        proto
    };
    let cases = [
        (plain(), Protocol::Http2, Protocol::Http1),
        (
            with(|p| p.http2_protocol_options = Some(Default::default())),
            Protocol::Http2,
            Protocol::Http2,
        ),
        (with(|p| p.protocol_selection = 1), Protocol::Request, Protocol::Request),
    ];
    for (index, (proto, of_grpc, of_envoy)) in cases.into_iter().enumerate() {
        for (context, expected) in [(context(), of_grpc), (envoy(), of_envoy)] {
            let read = decode::<ClusterSpec>(&raw(&proto), &context).unwrap().value.unwrap();
            assert_eq!(read.cluster.connections.protocol, expected, "case {index}");
        }
    }
}

#[test]
#[allow(deprecated, reason = "istiod writes the deprecated refresh rate")]
fn cp_6_kinds_of_clusters() {
    use crate::proto::core::address::Address;
    use crate::proto::endpoint::lb_endpoint::HostIdentifier;
    fn socket(proto: &mut Proto) -> &mut core::SocketAddress {
        let assignment = proto.load_assignment.as_mut().unwrap();
        let Some(HostIdentifier::Endpoint(endpoint)) = &mut assignment.endpoints[0].lb_endpoints[0].host_identifier
        else {
            panic!("the endpoint has an address")
        };
        match endpoint.address.as_mut().unwrap().address.as_mut().unwrap() {
            Address::SocketAddress(socket) => socket,
            _ => panic!("the address is a socket's"),
        }
    }
    let small = inline(DiscoveryType::Static, &[]);
    let logical: [Mutator<Proto>; 9] = [
        ("load_assignment", |p| p.load_assignment = None),
        ("load_assignment.endpoints", |p| {
            p.load_assignment.as_mut().unwrap().endpoints.clear()
        }),
        ("load_assignment.endpoints", |p| {
            let assignment = p.load_assignment.as_mut().unwrap();
            assignment.endpoints.push(assignment.endpoints[0].clone());
        }),
        ("load_assignment.endpoints[0].lb_endpoints", |p| {
            p.load_assignment.as_mut().unwrap().endpoints[0].lb_endpoints.clear();
        }),
        ("load_assignment.endpoints", |p| {
            p.load_assignment.as_mut().unwrap().endpoints[0].load_balancing_weight = Some(UInt32Value { value: 0 });
        }),
        (
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address",
            |p| {
                socket(p).address.clear();
            },
        ),
        (
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.resolver_name",
            |p| {
                socket(p).resolver_name = "custom".into();
            },
        ),
        (
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value",
            |p| {
                socket(p).port_specifier = None;
            },
        ),
        ("dns_refresh_rate", |p| {
            p.dns_refresh_rate = Some(DurationProto { seconds: 0, nanos: 0 })
        }),
    ];
    table::<ClusterSpec>(
        context(),
        &inline(DiscoveryType::LogicalDns, &["a.example"]),
        &small,
        &logical,
    );
    let fixed: [Mutator<Proto>; 2] = [
        (
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address",
            |p| {
                socket(p).address = "a.example".into();
            },
        ),
        ("load_assignment.endpoints", |p| {
            p.load_assignment.as_mut().unwrap().endpoints[0].priority = 2
        }),
    ];
    table::<ClusterSpec>(context(), &inline(DiscoveryType::Static, &["10.0.0.1"]), &small, &fixed);
    fn lead_to(proto: &mut Proto, names: &[&str]) {
        proto.cluster_discovery_type = aggregate(names).cluster_discovery_type;
    }
    let many: [Mutator<Proto>; 3] = [
        ("cluster_type.typed_config.clusters", |p| lead_to(p, &["a"; 257])),
        ("cluster_type.typed_config.clusters", |p| lead_to(p, &[])),
        ("cluster_type.typed_config.clusters[1]", |p| lead_to(p, &["a", ""])),
    ];
    table::<ClusterSpec>(context(), &aggregate(&["a", "b"]), &small, &many);
}

#[test]
fn cp_6_limits_of_clusters() {
    use crate::proto::cluster::{CircuitBreakers, OutlierDetection, circuit_breakers::Thresholds};
    fn outlier(proto: &mut Proto) -> &mut OutlierDetection {
        proto.outlier_detection.get_or_insert_default()
    }
    fn too_much(value: &mut Option<UInt32Value>) {
        *value = Some(UInt32Value { value: 101 });
    }
    fn negative(value: &mut Option<DurationProto>) {
        *value = Some(DurationProto { seconds: -1, nanos: 0 });
    }
    let of = |rest: &str| under("outlier_detection", rest);
    let mutators: [Mutator<Proto>; 16] = [
        (of("interval"), |p| negative(&mut outlier(p).interval)),
        (of("base_ejection_time"), |p| {
            negative(&mut outlier(p).base_ejection_time)
        }),
        (of("max_ejection_time"), |p| negative(&mut outlier(p).max_ejection_time)),
        (of("max_ejection_time_jitter"), |p| {
            negative(&mut outlier(p).max_ejection_time_jitter)
        }),
        (of("max_ejection_percent"), |p| {
            too_much(&mut outlier(p).max_ejection_percent)
        }),
        (of("enforcing_consecutive_5xx"), |p| {
            too_much(&mut outlier(p).enforcing_consecutive_5xx)
        }),
        (of("enforcing_consecutive_gateway_failure"), |p| {
            too_much(&mut outlier(p).enforcing_consecutive_gateway_failure)
        }),
        (of("enforcing_consecutive_local_origin_failure"), |p| {
            too_much(&mut outlier(p).enforcing_consecutive_local_origin_failure)
        }),
        (of("enforcing_success_rate"), |p| {
            too_much(&mut outlier(p).enforcing_success_rate)
        }),
        (of("enforcing_local_origin_success_rate"), |p| {
            too_much(&mut outlier(p).enforcing_local_origin_success_rate)
        }),
        (of("failure_percentage_threshold"), |p| {
            too_much(&mut outlier(p).failure_percentage_threshold)
        }),
        (of("enforcing_failure_percentage"), |p| {
            too_much(&mut outlier(p).enforcing_failure_percentage)
        }),
        (of("enforcing_failure_percentage_local_origin"), |p| {
            too_much(&mut outlier(p).enforcing_failure_percentage_local_origin)
        }),
        (of("interval"), |p| {
            outlier(p).interval = Some(DurationProto {
                seconds: 0,
                nanos: 1_000_000_000,
            })
        }),
        ("circuit_breakers.thresholds[0].priority", |p| {
            p.circuit_breakers = Some(CircuitBreakers {
                thresholds: vec![Thresholds {
                    priority: 7,
                    ..Default::default()
                }],
                ..Default::default()
            });
        }),
        ("circuit_breakers.per_host_thresholds[1].priority", |p| {
            p.circuit_breakers = Some(CircuitBreakers {
                per_host_thresholds: vec![
                    Thresholds::default(),
                    Thresholds {
                        priority: -1,
                        ..Default::default()
                    },
                ],
                ..Default::default()
            });
        }),
    ];
    let base = istiod::proxyless::cluster(istiod::CLUSTER);
    let small = inline(DiscoveryType::Static, &[]);
    table::<ClusterSpec>(context(), &base, &small, &mutators);
}
