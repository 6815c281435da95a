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
//! They are told to expect an identity that nobody can have.

use mesh_core::config::{MutualTls, StringMatch};

use super::Dialect;
use super::matcher::string_match;
use crate::convention::PROVIDER;
use crate::proto::core::{TransportSocket, transport_socket::ConfigType};
use crate::proto::pack;
use crate::proto::raw_buffer::RawBuffer;
use crate::proto::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
    tls_parameters::TlsProtocol,
};

/// The name by which Envoy and gRPC know the TLS transport socket.
const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
/// The name by which Envoy knows the one that does nothing.
const RAW_SOCKET: &str = "envoy.transport_sockets.raw_buffer";
/// The SDS names of the workload's certificate and of the roots (Istio's sidecars use the same).
const CERTIFICATE_SECRET: &str = "default";
const ROOTS_SECRET: &str = "ROOTCA";
/// What our servers negotiate.
const ALPN: &str = "h2";
/// In a top-level domain that is nobody's (RFC 2606).
const NOBODY: &str = "spiffe://nobody.invalid/";

/// The socket that does nothing, where one must be named (Envoy refuses a match without).
pub(super) fn raw_buffer() -> TransportSocket {
    TransportSocket {
        name: RAW_SOCKET.into(),
        config_type: Some(ConfigType::TypedConfig(pack(&RawBuffer::default()))),
    }
}

pub(super) fn upstream(mutual: &MutualTls, dialect: Dialect) -> TransportSocket {
    let common = match dialect {
        Dialect::Mesh | Dialect::Grpc => with_providers(mutual, dialect),
        Dialect::Envoy(_) => with_secrets(mutual),
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: mutual.sni.clone().unwrap_or_default().into(),
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: TLS_SOCKET.into(),
        config_type: Some(ConfigType::TypedConfig(pack(&context))),
    }
}

#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
fn with_providers(mutual: &MutualTls, dialect: Dialect) -> CommonTlsContext {
    let tests = match dialect {
        // It knows that an empty list admits nobody.
        Dialect::Mesh => mutual.expected.tests().to_vec(),
        Dialect::Grpc | Dialect::Envoy(_) => expected(mutual),
    };
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: instance(),
        match_typed_subject_alt_names: tests.iter().map(typed).collect(),
        match_subject_alt_names: tests.iter().map(string_match).collect(),
        ..CertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_certificate_provider_instance: instance(),
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..CommonTlsContext::default()
    }
}

#[allow(deprecated, reason = "the deprecated list is the one that others may enforce")]
fn with_secrets(mutual: &MutualTls) -> CommonTlsContext {
    let tests = expected(mutual);
    let validation = CertificateValidationContext {
        match_typed_subject_alt_names: tests.iter().map(typed).collect(),
        match_subject_alt_names: tests.iter().map(string_match).collect(),
        ..CertificateValidationContext::default()
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(validation),
        validation_context_sds_secret_config: Some(secret(ROOTS_SECRET)),
        ..CombinedCertificateValidationContext::default()
    };
    // As a client Envoy stops at TLS 1.2 unless it is told otherwise, and our servers begin at 1.3.
    let versions = TlsParameters {
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..TlsParameters::default()
    };
    CommonTlsContext {
        tls_params: Some(versions),
        tls_certificate_sds_secret_configs: vec![secret(CERTIFICATE_SECRET)],
        alpn_protocols: vec![ALPN.into()],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..CommonTlsContext::default()
    }
}

fn expected(mutual: &MutualTls) -> Vec<StringMatch> {
    match mutual.expected.tests() {
        [] => vec![StringMatch::Exact(NOBODY.into())],
        tests => tests.to_vec(),
    }
}

fn typed(test: &StringMatch) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(string_match(test)),
        oid: String::new(),
    }
}

fn secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.into(),
        sds_config: None,
    }
}

fn instance() -> Option<CertificateProviderPluginInstance> {
    Some(CertificateProviderPluginInstance {
        instance_name: PROVIDER.into(),
        certificate_name: String::new(),
    })
}
