//! Clusters and their TLS.

use mesh_core::config::{
    Cluster, ExpectedPeers, LbPolicy, LeastRequest, LoadReporting, MutualTls, ReportedMetric, TlsMode,
};

use super::*;
use crate::encode::{self, Dialect};
use crate::proto::{cluster, core, lb, matcher, pack, protobuf, tls};
use crate::resource::{ClusterSpec, Discovery};

fn mutual() -> TlsMode {
    TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly(["spiffe://d/ns/n/sa/a"]),
        sni: None,
        ..MutualTls::default()
    })
}

pub(super) fn cluster_proto() -> cluster::Cluster {
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

/// Whoever wrote it learns that it does nothing.
#[test]
fn what_a_cluster_says_in_vain_is_noted() {
    let notes_of = |change: fn(&mut cluster::Cluster)| {
        let mut proto = cluster_proto();
        change(&mut proto);
        let decoded = decode::<ClusterSpec>(&raw(&proto), &context()).unwrap();
        assert!(decoded.value.is_ok());
        decoded.notes
    };
    let before = notes_of(|_| {});
    type Change = fn(&mut cluster::Cluster);
    let said: [(&str, Change); 4] = [
        ("health_checks", |proto| proto.health_checks = vec![Default::default()]),
        ("upstream_bind_config", |proto| {
            proto.upstream_bind_config = Some(Default::default())
        }),
        ("preconnect_policy", |proto| {
            proto.preconnect_policy = Some(Default::default())
        }),
        ("\"lua\"", |proto| {
            proto.filters = ["istio.metadata_exchange", "lua"]
                .map(|name| cluster::Filter {
                    name: name.into(),
                    ..Default::default()
                })
                .into();
        }),
    ];
    for (word, change) in said {
        let notes: Vec<_> = notes_of(change)
            .into_iter()
            .filter(|note| !before.contains(note))
            .collect();
        assert!(notes.len() == 1 && notes[0].contains(word), "{word}: {notes:?}");
    }
    // Without a selector there are no subsets (Envoy).
    let none = notes_of(|proto| proto.lb_subset_config = Some(Default::default()));
    assert_eq!(none, before);
}

#[test]
fn clusters_that_are_refused() {
    use cluster::cluster::{ClusterDiscoveryType, LbConfig};
    let bad = |field: &str, spoil: fn(&mut cluster::Cluster)| refused::<ClusterSpec>(cluster_proto(), field, spoil);
    bad("type", |proto| {
        proto.cluster_discovery_type = Some(ClusterDiscoveryType::Type(99))
    });
    bad("type", |proto| proto.cluster_discovery_type = None);
    bad("eds_cluster_config.service_name", |proto| {
        proto.name = "xdstp://authority/envoy.config.cluster.v3.Cluster/c".into();
        proto.eds_cluster_config.as_mut().unwrap().service_name.clear();
    });
    bad("eds_cluster_config", |proto| proto.eds_cluster_config = None);
    bad("eds_cluster_config.eds_config", |proto| {
        proto.eds_cluster_config.as_mut().unwrap().eds_config = Some(core::ConfigSource::default());
    });
    bad("lb_policy", |proto| proto.lb_policy = 99);
    bad("lb_subset_config", |proto| {
        proto.lb_subset_config = Some(cluster::cluster::LbSubsetConfig {
            subset_selectors: vec![Default::default()],
            ..Default::default()
        });
    });
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
    bad("lrs_server", |proto| {
        proto.lrs_server = Some(core::ConfigSource {
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(
                Default::default(),
            )),
            ..Default::default()
        });
    });
    bad("lrs_server", |proto| proto.lrs_server = Some(Default::default()));
    bad("transport_socket.typed_config", |proto| {
        let any = protobuf::Any {
            type_url: "type.googleapis.com/envoy.extensions.transport_sockets.alts.v3.Alts".into(),
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
            other => panic!("a TLS context of the mesh became {other:?}"),
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
    assert_eq!(plain.discovery, Discovery::Eds("elsewhere".into()));
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
    let ten = LeastRequest {
        choices: 10,
        ..LeastRequest::DEFAULT
    };
    assert_eq!(listed.cluster.lb, LbPolicy::LeastRequest(ten));
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

#[test]
fn load_is_reported_where_it_is_asked_for() {
    use core::config_source::ConfigSourceSpecifier;
    let asked = |names: &[&str]| {
        accepted::<ClusterSpec>(cluster_proto(), |proto| {
            proto.eds_cluster_config.as_mut().unwrap().service_name = "eds".into();
            proto.lrs_server = Some(core::ConfigSource {
                config_source_specifier: Some(ConfigSourceSpecifier::Self_(Default::default())),
                ..Default::default()
            });
            proto.lrs_report_endpoint_metrics = names.iter().map(ToString::to_string).collect();
        })
    };
    let reporting = |names: &[&str]| asked(names).cluster.load_reporting.unwrap();
    assert_eq!(reporting(&[]), LoadReporting::of("eds"));
    let named = reporting(&[
        "cpu_utilization",
        "named_metrics.q",
        "request_cost.x",
        "named_metrics.*",
    ]);
    let expected = [
        ReportedMetric::CpuUtilization,
        ReportedMetric::Named("q".into()),
        ReportedMetric::AllNamed,
    ];
    assert_eq!(*named.metrics, expected, "what is not known is ignored");
    let many: Vec<String> = (0..1_000).map(|n| format!("named_metrics.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(reporting(&many).metrics.len(), 64);
    assert_eq!(
        accepted::<ClusterSpec>(cluster_proto(), |_| {}).cluster.load_reporting,
        None
    );
}

/// What istiod writes for `SIMPLE` and `MUTUAL`, and gRPC for the system's roots, as what is meant by it.
#[test]
fn servers_outside_of_the_mesh_are_known_by_what_they_are_judged_by() {
    use mesh_core::config::{Credential, Roots, TlsOrigination};

    use crate::proto::tls::certificate_validation_context::SystemRootCerts;
    use crate::proto::tls::{
        CertificateValidationContext, CommonTlsContext, SdsSecretConfig, UpstreamTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    };
    let secret = |name: &str| SdsSecretConfig {
        name: name.into(),
        sds_config: None,
    };
    let with_roots = |name: &str| {
        Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(CertificateValidationContext::default()),
                validation_context_sds_secret_config: Some(secret(name)),
                ..Default::default()
            },
        ))
    };
    let system = || {
        Some(ValidationContextType::ValidationContext(CertificateValidationContext {
            system_root_certs: Some(SystemRootCerts {}),
            ..Default::default()
        }))
    };
    let shown = |name: &str| vec![secret(name)];
    let files = Credential::Files {
        certificate: Path::new("/c.pem").into(),
        key: Path::new("/k.pem").into(),
    };
    let named = |name: &str| Some(Credential::Named(name.into()));
    let file = Roots::File(Path::new("/roots.pem").into());
    let cases = [
        (with_roots("file-root:system"), vec![], Roots::System, None),
        (
            with_roots("file-root:/roots.pem"),
            shown("file-cert:/c.pem~/k.pem"),
            file,
            Some(files),
        ),
        (
            with_roots("kubernetes://web-cacert"),
            shown("kubernetes://web"),
            Roots::Named("kubernetes://web-cacert".into()),
            named("kubernetes://web"),
        ),
        (system(), vec![], Roots::System, None),
        // Nothing is said of whom to trust.
        (None, vec![], Roots::System, None),
    ];
    for (index, (validation_context_type, certificates, roots, shown)) in cases.into_iter().enumerate() {
        for (name, sni, expected) in [
            ("outbound|443||api.example.com", "", Some("api.example.com")),
            ("c", "", None),
            ("c", "web", Some("web")),
        ] {
            let upstream = UpstreamTlsContext {
                common_tls_context: Some(CommonTlsContext {
                    tls_certificate_sds_secret_configs: certificates.clone(),
                    validation_context_type: validation_context_type.clone(),
                    ..Default::default()
                }),
                sni: sni.into(),
                ..Default::default()
            };
            let proto = cluster::Cluster {
                name: name.into(),
                transport_socket: Some(core::TransportSocket {
                    name: "envoy.transport_sockets.tls".into(),
                    config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(&upstream))),
                }),
                ..Default::default()
            };
            let read = decode::<ClusterSpec>(&raw(&proto), &envoy()).unwrap().value.unwrap();
            let outside = TlsOrigination {
                roots: roots.clone(),
                sni: expected.map(Box::from),
                names: Box::default(),
                shown: shown.clone(),
                unverified: false,
            };
            assert_eq!(
                read.cluster.tls,
                TlsMode::Origination(Box::new(outside)),
                "case {index} of {name}"
            );
        }
    }
}
