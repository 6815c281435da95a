//! `UpstreamTlsContext`, by gRFC A29: keys and roots come from certificate providers named in the bootstrap, never from the
//! control plane. What cannot be honoured is refused, since leaving out a check would leave out security.

use mesh_core::config::{ExpectedPeers, MutualTls, TlsMode};

use super::common::unpack;
use super::{Context, Fault, Notes};
use crate::proto::core::{TransportSocket, transport_socket::ConfigType};
use crate::proto::tls::{
    CertificateValidationContext, CommonTlsContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
};

mod peers;

/// The longest server name DNS allows, and more than gRFC A101 does.
const MAX_SNI_BYTES: usize = 255;

pub(super) fn upstream(socket: &TransportSocket, context: &Context, notes: &mut Notes) -> Result<TlsMode, Fault> {
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(Fault::new("typed_config", "is missing"));
    };
    let upstream = unpack::<UpstreamTlsContext>("typed_config", any)?;
    read(&upstream, context, notes).map_err(|fault| fault.within("typed_config"))
}

fn read(upstream: &UpstreamTlsContext, context: &Context, notes: &mut Notes) -> Result<TlsMode, Fault> {
    if upstream.sni.len() > MAX_SNI_BYTES {
        return Err(Fault::new("sni", "is longer than 255 bytes"));
    }
    let common = upstream
        .common_tls_context
        .as_ref()
        .ok_or_else(|| Fault::new("common_tls_context", "is missing"))?;
    let expected = common_context(common, context, notes).map_err(|fault| fault.within("common_tls_context"))?;
    let sni = (!upstream.sni.is_empty()).then(|| upstream.sni.as_str().into());
    Ok(TlsMode::Mutual(MutualTls { expected, sni }))
}

fn common_context(common: &CommonTlsContext, context: &Context, notes: &mut Notes) -> Result<ExpectedPeers, Fault> {
    let refused = [
        ("tls_params", common.tls_params.is_some()),
        ("custom_handshaker", common.custom_handshaker.is_some()),
        (
            "custom_tls_certificate_selector",
            common.custom_tls_certificate_selector.is_some(),
        ),
        ("tls_certificates", !common.tls_certificates.is_empty()),
        (
            "tls_certificate_sds_secret_configs",
            !common.tls_certificate_sds_secret_configs.is_empty(),
        ),
    ];
    refuse(&refused)?;
    if let Some((field, name)) = identity_instance(common) {
        provided(field, name, context)?;
    }
    let (validation, root, field) = validation(common)?;
    let (root_field, root) = root.ok_or_else(|| {
        Fault::new(
            format!("{field}.ca_certificate_provider_instance"),
            "is missing: roots come from a certificate provider only (gRFC A29)",
        )
    })?;
    provided(root_field, root, context)?;
    let none = CertificateValidationContext::default();
    peers::expected(validation.unwrap_or(&none), notes).map_err(|fault| fault.within(field))
}

/// The provider of the own certificate: the current field, or the deprecated one when that is absent.
#[allow(
    deprecated,
    reason = "istiod writes both, older control planes only the deprecated one"
)]
fn identity_instance(common: &CommonTlsContext) -> Option<(&'static str, &str)> {
    if let Some(instance) = &common.tls_certificate_provider_instance {
        return Some(("tls_certificate_provider_instance", &instance.instance_name));
    }
    let old = common.tls_certificate_certificate_provider_instance.as_ref()?;
    Some(("tls_certificate_certificate_provider_instance", &old.instance_name))
}

type Validation<'a> = (
    Option<&'a CertificateValidationContext>,
    Option<(&'static str, &'a str)>,
    &'static str,
);

/// The checks of the peer, the provider of the roots, and the field they stand in.
#[allow(
    deprecated,
    reason = "istiod writes both, older control planes only the deprecated one"
)]
fn validation(common: &CommonTlsContext) -> Result<Validation<'_>, Fault> {
    const PLAIN: &str = "validation_context";
    const COMBINED: &str = "combined_validation_context.default_validation_context";
    const OLD: &str = "validation_context_certificate_provider_instance";
    match &common.validation_context_type {
        Some(ValidationContextType::ValidationContext(plain)) => Ok((Some(plain), root_of(plain), PLAIN)),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            if combined.validation_context_sds_secret_config.is_some() {
                return Err(Fault::new(
                    "combined_validation_context.validation_context_sds_secret_config",
                    "is not supported",
                ));
            }
            let inner = combined.default_validation_context.as_ref();
            let old = combined.validation_context_certificate_provider_instance.as_ref();
            let root = inner
                .and_then(root_of)
                .or_else(|| old.map(|old| (OLD, old.instance_name.as_str())));
            Ok((inner, root, COMBINED))
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(old)) => {
            Ok((None, Some((OLD, &old.instance_name)), OLD))
        }
        Some(_) => Err(Fault::new(
            "validation_context_type",
            "must be a validation context or a combined one",
        )),
        None => Err(Fault::new("validation_context", "is missing (gRFC A29)")),
    }
}

fn root_of(validation: &CertificateValidationContext) -> Option<(&'static str, &str)> {
    let root = validation.ca_certificate_provider_instance.as_ref()?;
    Some(("ca_certificate_provider_instance", &root.instance_name))
}

fn provided(field: &str, instance: &str, context: &Context) -> Result<(), Fault> {
    if context.provider.as_deref() == Some(instance) {
        return Ok(());
    }
    let reason = format!("names certificate provider {instance:?}, which the bootstrap does not give an identity");
    Err(Fault::new(format!("{field}.instance_name"), reason))
}

fn refuse(fields: &[(&str, bool)]) -> Result<(), Fault> {
    match fields.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Fault::new(*field, "is not supported (gRFC A29)")),
        None => Ok(()),
    }
}
