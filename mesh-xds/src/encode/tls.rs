//! `UpstreamTlsContext`: with certificate providers for gRPC (gRFC A29), with SDS names for Envoy.
//!
//! The expected identities are written twice: C-core and grpc-js enforce only the deprecated list and accept any certificate of
//! the roots without it; tonic-xds enforces the typed one, and so does Envoy, which passes over the other list where there is a
//! typed one (`getSubjectAltNameMatchers`), and counts a deprecated field in a log line. Whoever reads Envoy's shape without
//! being Envoy may know the old list only.
//!
//! Envoy's names have no configuration source. It looks such a secret up in the `static_resources.secrets` of its own
//! bootstrap, where they are read from files beside it: no private key ever crosses the stream.
//!
//! A cluster that expects nobody is one that nothing may be sent to, but foreign clients take an empty list for "anybody".
//! They are told to expect an identity that nobody can have, and so is ours, which knows it.

use mesh_core::config::{
    ChainIdentity, Credential, ExpectedPeers, MutualTls, NameKind, NameMatch, Roots, StringMatch, TlsOrigination,
};

use prost::{Message, Name};

use super::Dialect;
use super::matcher::string_match;
use crate::convention::{NOBODY, PROVIDED, PROVIDED_FILES, PROVIDER, SDS_IDENTITY, SDS_ROOTS};
use crate::proto::core::{DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType};
use crate::proto::pack;
use crate::proto::raw_buffer::RawBuffer;
use crate::proto::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
    certificate_validation_context::{SystemRootCerts, TrustChainVerification},
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
    tls_parameters::TlsProtocol,
};

/// The name by which Envoy and gRPC know the TLS transport socket.
const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
/// The name by which Envoy knows the one that does nothing.
const RAW_SOCKET: &str = "envoy.transport_sockets.raw_buffer";
/// What our servers negotiate.
const ALPN: &str = "h2";

/// The socket that does nothing, where one must be named (Envoy refuses a match without).
pub(super) fn raw_buffer() -> TransportSocket {
    TransportSocket {
        name: RAW_SOCKET.into(),
        config_type: Some(ConfigType::TypedConfig(pack(&RawBuffer::default()))),
    }
}

pub(super) fn upstream(mutual: &MutualTls, dialect: Dialect) -> TransportSocket {
    let common = match dialect {
        Dialect::Mesh | Dialect::Grpc => with_providers(mutual),
        Dialect::Sidecar | Dialect::Envoy(_) => with_secrets(mutual),
    };
    socket(&UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: mutual.sni.clone().unwrap_or_default().into(),
        ..UpstreamTlsContext::default()
    })
}

/// The TLS socket of this context.
pub(super) fn socket<M: Message + Name>(context: &M) -> TransportSocket {
    TransportSocket {
        name: TLS_SOCKET.into(),
        config_type: Some(ConfigType::TypedConfig(pack(context))),
    }
}

/// For a server outside of the mesh: what it is judged by and what it is shown is named, by file or by a name that the client
/// knows.
#[allow(deprecated, reason = "the deprecated list is the one that is of any kind")]
pub(super) fn outside(outside: &TlsOrigination, dialect: Dialect) -> TransportSocket {
    // What our control plane names has names of its own where our client reads them.
    let envoy = matches!(dialect, Dialect::Envoy(_));
    let mut validation = CertificateValidationContext {
        match_typed_subject_alt_names: outside.names.iter().filter_map(named).collect(),
        match_subject_alt_names: outside.names.iter().filter_map(of_any_kind).collect(),
        trust_chain_verification: match outside.unverified {
            true => TrustChainVerification::AcceptUntrusted as i32,
            false => TrustChainVerification::VerifyTrustChain as i32,
        },
        ..CertificateValidationContext::default()
    };
    let mut common = CommonTlsContext::default();
    let mut sds = None;
    match &outside.roots {
        Roots::System => validation.system_root_certs = Some(SystemRootCerts {}),
        Roots::File(path) if envoy => validation.trusted_ca = Some(file(path)),
        Roots::File(path) => {
            validation.ca_certificate_provider_instance = provider(PROVIDED_FILES, path.to_string_lossy());
        }
        Roots::Named(name) if envoy => sds = Some(secret(name)),
        Roots::Named(name) => validation.ca_certificate_provider_instance = provider(PROVIDED, &**name),
        Roots::Workload => match dialect {
            Dialect::Mesh | Dialect::Grpc => validation.ca_certificate_provider_instance = instance(),
            // Under this name a sidecar of ours would take them for the mesh's.
            Dialect::Sidecar => validation.ca_certificate_provider_instance = provider(PROVIDED, SDS_ROOTS),
            Dialect::Envoy(_) => sds = Some(secret(SDS_ROOTS)),
        },
    }
    match &outside.shown {
        None => {}
        Some(Credential::Workload) if dialect.is_envoys() => {
            common.tls_certificate_sds_secret_configs = vec![secret(SDS_IDENTITY)]
        }
        Some(Credential::Workload) => common.tls_certificate_provider_instance = instance(),
        Some(Credential::Provider(name)) => common.tls_certificate_provider_instance = instance_of(Some(name)),
        Some(Credential::Named(name)) if envoy => common.tls_certificate_sds_secret_configs = vec![secret(name)],
        Some(Credential::Named(name)) => common.tls_certificate_provider_instance = provider(PROVIDED, &**name),
        Some(Credential::Files { certificate, key }) if envoy => {
            common.tls_certificates = vec![TlsCertificate {
                certificate_chain: Some(file(certificate)),
                private_key: Some(file(key)),
                ..TlsCertificate::default()
            }];
        }
        Some(Credential::Files { certificate, key }) => {
            let both = format!("{}~{}", certificate.to_string_lossy(), key.to_string_lossy());
            common.tls_certificate_provider_instance = provider(PROVIDED_FILES, both);
        }
    }
    common.validation_context_type = Some(match sds {
        None => ValidationContextType::ValidationContext(validation),
        Some(_) => ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(validation),
            validation_context_sds_secret_config: sds,
            ..CombinedCertificateValidationContext::default()
        }),
    });
    socket(&UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: outside.sni.clone().unwrap_or_default().into(),
        ..UpstreamTlsContext::default()
    })
}

fn named(name: &NameMatch) -> Option<SubjectAltNameMatcher> {
    let kind = match name.kind {
        NameKind::Dns => SanType::Dns,
        NameKind::Uri => SanType::Uri,
        NameKind::Ip => SanType::IpAddress,
        NameKind::Email => SanType::Email,
        NameKind::Any => return None,
    };
    Some(SubjectAltNameMatcher {
        san_type: kind as i32,
        ..typed(&name.test)
    })
}

fn of_any_kind(name: &NameMatch) -> Option<crate::proto::matcher::StringMatcher> {
    (name.kind == NameKind::Any).then(|| string_match(&name.test))
}

fn provider(instance: &str, name: impl Into<String>) -> Option<CertificateProviderPluginInstance> {
    Some(CertificateProviderPluginInstance {
        instance_name: instance.into(),
        certificate_name: name.into(),
    })
}

fn file(path: &std::path::Path) -> DataSource {
    DataSource {
        specifier: Some(Specifier::Filename(path.to_string_lossy().into())),
        ..DataSource::default()
    }
}

fn with_providers(mutual: &MutualTls) -> CommonTlsContext {
    let ChainIdentity { certificate, roots } = &mutual.identity;
    CommonTlsContext {
        tls_certificate_provider_instance: match mutual.anonymous {
            true => None,
            false => instance_of(certificate.as_deref()),
        },
        validation_context_type: Some(by_provider(naming(&mutual.expected), roots.as_deref())),
        ..CommonTlsContext::default()
    }
}

/// Istio's secrets are the workload's own. Of other providers both shapes speak alike, and Envoy, which knows of none, refuses that.
fn with_secrets(mutual: &MutualTls) -> CommonTlsContext {
    let ChainIdentity { certificate, roots } = &mutual.identity;
    // As a client Envoy stops at TLS 1.2 unless it is told otherwise, and our servers begin at 1.3.
    let versions = TlsParameters {
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..TlsParameters::default()
    };
    let checks = naming(&mutual.expected);
    let mut common = CommonTlsContext {
        tls_params: Some(versions),
        alpn_protocols: vec![ALPN.into()],
        validation_context_type: Some(match roots {
            None => by_secret(checks),
            roots => by_provider(checks, roots.as_deref()),
        }),
        ..CommonTlsContext::default()
    };
    match certificate {
        _ if mutual.anonymous => {}
        None => common.tls_certificate_sds_secret_configs = vec![secret(SDS_IDENTITY)],
        certificate => common.tls_certificate_provider_instance = instance_of(certificate.as_deref()),
    }
    common
}

/// These checks, and the roots of one of the bootstrap's providers; `None`: of that of the workload's identity.
pub(super) fn by_provider(checks: CertificateValidationContext, roots: Option<&str>) -> ValidationContextType {
    ValidationContextType::ValidationContext(CertificateValidationContext {
        ca_certificate_provider_instance: instance_of(roots),
        ..checks
    })
}

/// These checks, and the roots that a sidecar has under their name.
pub(super) fn by_secret(checks: CertificateValidationContext) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(checks),
        validation_context_sds_secret_config: Some(secret(SDS_ROOTS)),
        ..CombinedCertificateValidationContext::default()
    })
}

/// That a peer must be one of these.
#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
pub(super) fn naming(expected: &ExpectedPeers) -> CertificateValidationContext {
    let nobody = [StringMatch::Exact(NOBODY.into())];
    let tests = match expected.tests() {
        [] => &nobody[..],
        tests => tests,
    };
    CertificateValidationContext {
        match_typed_subject_alt_names: tests.iter().map(typed).collect(),
        match_subject_alt_names: tests.iter().map(string_match).collect(),
        ..CertificateValidationContext::default()
    }
}

fn typed(test: &StringMatch) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(string_match(test)),
        oid: String::new(),
    }
}

pub(super) fn secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.into(),
        sds_config: None,
    }
}

pub(super) fn instance() -> Option<CertificateProviderPluginInstance> {
    instance_of(None)
}

/// One of the bootstrap's providers; `None`: the one that the workload's identity comes from.
pub(super) fn instance_of(name: Option<&str>) -> Option<CertificateProviderPluginInstance> {
    provider(name.unwrap_or(PROVIDER), "")
}
