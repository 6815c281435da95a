//! `UpstreamTlsContext` with certificate providers (gRFC A29).
//!
//! The expected identities are written twice: gRPC C-core and grpc-js enforce only the deprecated list and accept any
//! certificate of the roots without it; Envoy and tonic-xds enforce the typed one.

use mesh_core::config::{MutualTls, StringMatch};

use super::matcher::string_match;
use crate::convention::PROVIDER;
use crate::proto::core::{TransportSocket, transport_socket::ConfigType};
use crate::proto::pack;
use crate::proto::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher,
    UpstreamTlsContext, common_tls_context::ValidationContextType, subject_alt_name_matcher::SanType,
};

/// The name by which Envoy and gRPC know the TLS transport socket.
const TLS_SOCKET: &str = "envoy.transport_sockets.tls";

pub(super) fn upstream(mutual: &MutualTls) -> TransportSocket {
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: instance(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation(mutual))),
            ..CommonTlsContext::default()
        }),
        sni: mutual.sni.clone().unwrap_or_default().into(),
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: TLS_SOCKET.into(),
        config_type: Some(ConfigType::TypedConfig(pack(&context))),
    }
}

#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
fn validation(mutual: &MutualTls) -> CertificateValidationContext {
    let typed = |test: &StringMatch| SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(string_match(test)),
        oid: String::new(),
    };
    let tests = mutual.expected.tests();
    CertificateValidationContext {
        ca_certificate_provider_instance: instance(),
        match_typed_subject_alt_names: tests.iter().map(typed).collect(),
        match_subject_alt_names: tests.iter().map(string_match).collect(),
        ..CertificateValidationContext::default()
    }
}

fn instance() -> Option<CertificateProviderPluginInstance> {
    Some(CertificateProviderPluginInstance {
        instance_name: PROVIDER.into(),
        certificate_name: String::new(),
    })
}
