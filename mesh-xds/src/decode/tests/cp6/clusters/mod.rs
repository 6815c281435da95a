//! Clusters: what cannot be honoured of their security, one field after another, and their kinds.
//!
//! Clusters that lead to one another in a circle are not among them: each by itself is good.

use super::super::kinds::{aggregate, inline};
use super::*;
use crate::proto::cluster::{Cluster as Proto, cluster::ClusterDiscoveryType, cluster::DiscoveryType};
use crate::proto::protobuf::{Any, BoolValue, Duration as DurationProto, UInt32Value, UInt64Value};
use crate::proto::tls::{
    CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
};
use crate::proto::{core, pack};
use crate::resource::ClusterSpec;

mod calls;

/// The configuration of the cluster's socket, or of its first match.
fn any_of(proto: &mut Proto) -> &mut Any {
    let first = proto.transport_socket_matches.first_mut();
    let socket = match first {
        Some(first) => first.transport_socket.as_mut(),
        None => proto.transport_socket.as_mut(),
    };
    match &mut socket.unwrap().config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => any,
        None => panic!("the socket has a configuration"),
    }
}

fn tls(proto: &mut Proto, change: impl FnOnce(&mut UpstreamTlsContext)) {
    let any = any_of(proto);
    let mut context = UpstreamTlsContext::decode(&*any.value).unwrap();
    change(&mut context);
    *any = pack(&context);
}

fn common(proto: &mut Proto, change: impl FnOnce(&mut CommonTlsContext)) {
    tls(proto, |context| change(context.common_tls_context.as_mut().unwrap()));
}

fn combined(proto: &mut Proto, change: impl FnOnce(&mut CombinedCertificateValidationContext)) {
    common(proto, |common| match &mut common.validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => change(combined),
        _ => panic!("the context is a combined one"),
    });
}

fn validation(proto: &mut Proto, change: impl FnOnce(&mut CertificateValidationContext)) {
    combined(proto, |combined| {
        change(combined.default_validation_context.as_mut().unwrap())
    });
}

/// Leaked: a few dozen names, once per test run, so that the tables are plain lists.
fn under(outer: &str, rest: &str) -> &'static str {
    Box::leak(format!("{outer}.{rest}").into_boxed_str())
}

const CHECKS: &str = "combined_validation_context.default_validation_context";

#[test]
#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
fn cp_6_security_of_clusters() {
    let socket = "transport_socket.typed_config";
    let at = |rest: &str| under("transport_socket.typed_config.common_tls_context", rest);
    let of_peer = |rest: &str| at(&format!("{CHECKS}.{rest}"));
    let mutators: [Mutator<Proto>; 25] = [
        ("transport_socket.typed_config", |p| {
            p.transport_socket.as_mut().unwrap().config_type = None
        }),
        ("transport_socket.typed_config", |p| {
            any_of(p).type_url = "type.googleapis.com/x.Y".into()
        }),
        ("transport_socket.typed_config", |p| any_of(p).value = vec![0xff]),
        // A field of a version of the API to come.
        ("transport_socket.typed_config", |p| {
            with_unknown_field(&mut any_of(p).value)
        }),
        ("transport_socket_matcher", |p| {
            p.transport_socket_matcher = Some(Default::default())
        }),
        ("transport_socket_matches[0].match", |p| {
            use crate::proto::protobuf::{Struct, Value, value::Kind};
            let number = Value {
                kind: Some(Kind::NumberValue(1.0)),
            };
            let criteria = Struct {
                fields: [("v".to_owned(), number)].into(),
            };
            p.transport_socket_matches.push(Default::default());
            p.transport_socket_matches[0].r#match = Some(criteria);
        }),
        ("transport_socket_matches", |p| {
            p.transport_socket_matches = vec![Default::default(); 33]
        }),
        (under(socket, "sni"), |p| tls(p, |tls| tls.sni = "x".repeat(256))),
        (under(socket, "common_tls_context"), |p| {
            tls(p, |tls| tls.common_tls_context = None)
        }),
        (at("tls_params"), |p| {
            common(p, |c| c.tls_params = Some(Default::default()))
        }),
        (at("custom_handshaker"), |p| {
            common(p, |c| c.custom_handshaker = Some(Default::default()))
        }),
        (at("custom_tls_certificate_selector"), |p| {
            common(p, |c| c.custom_tls_certificate_selector = Some(Default::default()));
        }),
        (at("tls_certificates"), |p| {
            common(p, |c| c.tls_certificates.push(Default::default()))
        }),
        (at("tls_certificate_sds_secret_configs"), |p| {
            common(p, |c| c.tls_certificate_sds_secret_configs.push(Default::default()));
        }),
        (at("tls_certificate_provider_instance.instance_name"), |p| {
            common(p, |c| {
                c.tls_certificate_provider_instance.as_mut().unwrap().instance_name = "other".into()
            });
        }),
        (at("validation_context"), |p| {
            common(p, |c| c.validation_context_type = None)
        }),
        (at("validation_context_type"), |p| {
            common(p, |c| {
                let secret = ValidationContextType::ValidationContextSdsSecretConfig(Default::default());
                c.validation_context_type = Some(secret);
            });
        }),
        (
            at("combined_validation_context.validation_context_sds_secret_config"),
            |p| {
                combined(p, |c| c.validation_context_sds_secret_config = Some(Default::default()));
            },
        ),
        (of_peer("verify_certificate_spki"), |p| {
            validation(p, |v| v.verify_certificate_spki.push("x".into()))
        }),
        (of_peer("verify_certificate_hash"), |p| {
            validation(p, |v| v.verify_certificate_hash.push("x".into()))
        }),
        (of_peer("require_signed_certificate_timestamp"), |p| {
            validation(p, |v| {
                v.require_signed_certificate_timestamp = Some(BoolValue { value: true })
            });
        }),
        (of_peer("crl"), |p| validation(p, |v| v.crl = Some(Default::default()))),
        (of_peer("custom_validator_config"), |p| {
            validation(p, |v| v.custom_validator_config = Some(Default::default()));
        }),
        (of_peer("match_subject_alt_names[0].match_pattern"), |p| {
            validation(p, |v| v.match_subject_alt_names[0].match_pattern = None);
        }),
        (of_peer("match_subject_alt_names[0].safe_regex"), |p| {
            use crate::proto::matcher::{RegexMatcher, string_matcher::MatchPattern};
            let regex = RegexMatcher {
                regex: "(".into(),
                engine_type: None,
            };
            validation(p, |v| {
                v.match_subject_alt_names[0].match_pattern = Some(MatchPattern::SafeRegex(regex))
            });
        }),
    ];
    let base = istiod::proxyless::cluster(istiod::CLUSTER);
    let small = inline(DiscoveryType::Static, &[]);
    table::<ClusterSpec>(context(), &base, &small, &mutators);
}

#[test]
fn cp_6_security_of_a_sidecars_clusters() {
    let at = |rest: &str| {
        under(
            "transport_socket_matches[0].transport_socket.typed_config.common_tls_context",
            rest,
        )
    };
    let mutators: [Mutator<Proto>; 9] = [
        (at("tls_certificate_sds_secret_configs[0].name"), |p| {
            common(p, |c| {
                c.tls_certificate_sds_secret_configs[0].name = "kubernetes://credential".into()
            });
        }),
        (
            at("combined_validation_context.validation_context_sds_secret_config.name"),
            |p| {
                combined(p, |c| {
                    c.validation_context_sds_secret_config.as_mut().unwrap().name = "other-roots".into()
                });
            },
        ),
        (at(&format!("{CHECKS}.ca_certificate_provider_instance")), |p| {
            combined(p, |c| c.validation_context_sds_secret_config = None);
        }),
        (at(&format!("{CHECKS}.trusted_ca")), |p| {
            validation(p, |v| v.trusted_ca = Some(Default::default()));
        }),
        (at("validation_context"), |p| {
            common(p, |c| c.validation_context_type = None)
        }),
        (at("tls_certificates"), |p| {
            common(p, |c| c.tls_certificates.push(Default::default()))
        }),
        (at("tls_params.tls_maximum_protocol_version"), |p| {
            common(p, |c| c.tls_params.as_mut().unwrap().tls_maximum_protocol_version = 3);
        }),
        (at("tls_params.tls_minimum_protocol_version"), |p| {
            common(p, |c| c.tls_params.as_mut().unwrap().tls_minimum_protocol_version = 9);
        }),
        (at("tls_params.compliance_policies"), |p| {
            common(p, |c| c.tls_params.as_mut().unwrap().compliance_policies.push(0));
        }),
    ];
    let base = istiod::sidecar::cluster(istiod::CLUSTER);
    let small = inline(DiscoveryType::Static, &[]);
    table::<ClusterSpec>(envoy(), &base, &small, &mutators);
}

#[test]
fn cp_6_servers_outside_of_the_mesh() {
    use crate::proto::core::{DataSource, data_source::Specifier};
    use crate::proto::tls::{SdsSecretConfig, SubjectAltNameMatcher, TlsCertificate};
    fn secret(name: &str) -> SdsSecretConfig {
        SdsSecretConfig {
            name: name.into(),
            sds_config: None,
        }
    }
    fn file(name: &str) -> DataSource {
        DataSource {
            specifier: Some(Specifier::Filename(name.into())),
            ..Default::default()
        }
    }
    fn plain(proto: &mut Proto, change: impl FnOnce(&mut CertificateValidationContext)) {
        common(proto, |common| match &mut common.validation_context_type {
            Some(ValidationContextType::ValidationContext(plain)) => change(plain),
            _ => panic!("the context is a plain one"),
        });
    }
    let at = |rest: &str| under("transport_socket.typed_config.common_tls_context", rest);
    let mut base = inline(DiscoveryType::Static, &["10.0.0.1"]);
    let context_of = CommonTlsContext {
        validation_context_type: Some(ValidationContextType::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(file("/roots.pem")),
            ..Default::default()
        })),
        ..Default::default()
    };
    base.transport_socket = Some(core::TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(
            &UpstreamTlsContext {
                common_tls_context: Some(context_of),
                sni: "api.example.com".into(),
                ..Default::default()
            },
        ))),
    });
    let mutators: [Mutator<Proto>; 9] = [
        (at("tls_certificates[0]"), |p| {
            common(p, |c| {
                // A key from the control plane.
                c.tls_certificates = vec![TlsCertificate {
                    certificate_chain: Some(file("/chain.pem")),
                    private_key: Some(DataSource {
                        specifier: Some(Specifier::InlineString("secret".into())),
                        ..Default::default()
                    }),
                    ..Default::default()
                }];
            })
        }),
        (at("tls_certificates[1]"), |p| {
            common(p, |c| c.tls_certificates = vec![Default::default(), Default::default()])
        }),
        (at("tls_certificate_sds_secret_configs[0].name"), |p| {
            common(p, |c| {
                c.tls_certificate_sds_secret_configs = vec![secret("file-cert:/chain.pem")]
            })
        }),
        (at("tls_certificate_sds_secret_configs[1]"), |p| {
            common(p, |c| {
                c.tls_certificate_sds_secret_configs = vec![secret("a"), secret("b")]
            })
        }),
        (
            at("validation_context.match_typed_subject_alt_names[0].san_type"),
            |p| {
                plain(p, |v| {
                    v.match_typed_subject_alt_names = vec![SubjectAltNameMatcher::default()]
                })
            },
        ),
        (at("validation_context.match_typed_subject_alt_names[0].matcher"), |p| {
            plain(p, |v| {
                v.match_typed_subject_alt_names = vec![SubjectAltNameMatcher {
                    san_type: 2,
                    ..Default::default()
                }]
            })
        }),
        (at("validation_context.verify_certificate_hash"), |p| {
            plain(p, |v| v.verify_certificate_hash = vec!["ab".into()])
        }),
        (at("custom_handshaker"), |p| {
            common(p, |c| c.custom_handshaker = Some(Default::default()))
        }),
        (
            at("combined_validation_context.default_validation_context.trusted_ca"),
            |p| {
                common(p, |c| {
                    let combined = CombinedCertificateValidationContext {
                        default_validation_context: Some(CertificateValidationContext {
                            trusted_ca: Some(file("/roots.pem")),
                            ..Default::default()
                        }),
                        validation_context_sds_secret_config: Some(secret("kubernetes://ca")),
                        ..Default::default()
                    };
                    c.validation_context_type = Some(ValidationContextType::CombinedValidationContext(combined));
                })
            },
        ),
    ];
    let small = inline(DiscoveryType::Static, &[]);
    table::<ClusterSpec>(envoy(), &base, &small, &mutators);
}
