//! `CommonTlsContext`: what both ends of a connection say of keys, roots and checks.

use std::borrow::Cow;

use super::refuse;
use crate::bootstrap::Profile;
use crate::convention::{SDS_IDENTITY, SDS_ROOTS};
use crate::decode::{Context, Fault, Notes};
use crate::proto::tls::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, TlsParameters,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    tls_parameters::TlsProtocol,
};

/// What a context asks for.
pub(super) struct Asked<'a> {
    /// Whether it says where the own certificate comes from.
    pub(super) identity: bool,
    /// What is asked of the peer; `None` when no peer is to be checked.
    pub(super) checks: Option<Checks<'a>>,
}

/// What is asked of a peer, besides a certificate of the workload's roots.
pub(super) struct Checks<'a> {
    pub(super) validation: Cow<'a, CertificateValidationContext>,
    /// The field they stand in.
    pub(super) at: &'static str,
}

pub(super) fn read<'a>(common: &'a CommonTlsContext, context: &Context, notes: &mut Notes) -> Result<Asked<'a>, Fault> {
    let sds = &common.tls_certificate_sds_secret_configs;
    let envoy = context.profile == Profile::Envoy;
    let refused = [
        ("tls_params", common.tls_params.is_some() && !envoy),
        ("custom_handshaker", common.custom_handshaker.is_some()),
        (
            "custom_tls_certificate_selector",
            common.custom_tls_certificate_selector.is_some(),
        ),
        ("tls_certificates", !common.tls_certificates.is_empty()),
        ("tls_certificate_sds_secret_configs", !sds.is_empty() && !envoy),
    ];
    refuse(&refused)?;
    if let Some(params) = &common.tls_params {
        parameters(params, notes).map_err(|fault| fault.within("tls_params"))?;
    }
    for (index, secret) in sds.iter().enumerate() {
        let field = format!("tls_certificate_sds_secret_configs[{index}].name");
        secret_is(field, secret, SDS_IDENTITY)?;
    }
    let instance = identity_instance(common);
    if let Some((field, name)) = instance {
        provided(field, name, context)?;
    }
    Ok(Asked {
        identity: instance.is_some() || !sds.is_empty(),
        checks: checks(common, context)?,
    })
}

/// Connections here are TLS 1.3 with its own ciphers, whatever a context allows besides.
pub(super) fn parameters(params: &TlsParameters, notes: &mut Notes) -> Result<(), Fault> {
    let version = |field: &str, value: i32| {
        TlsProtocol::try_from(value).map_err(|_| Fault::new(field, format!("{value} is not a version of TLS")))
    };
    version("tls_minimum_protocol_version", params.tls_minimum_protocol_version)?;
    match version("tls_maximum_protocol_version", params.tls_maximum_protocol_version)? {
        TlsProtocol::TlsAuto | TlsProtocol::TlSv13 => {}
        older => {
            let reason = format!(
                "{} keeps out TLS 1.3, and nothing older is spoken here",
                older.as_str_name()
            );
            return Err(Fault::new("tls_maximum_protocol_version", reason));
        }
    }
    if !params.compliance_policies.is_empty() {
        return Err(Fault::new("compliance_policies", "is not supported"));
    }
    if !params.signature_algorithms.is_empty() {
        return Err(Fault::new("signature_algorithms", "is not supported"));
    }
    if !params.cipher_suites.is_empty() {
        notes.add("tls_params.cipher_suites is about versions of TLS that are not spoken here");
    }
    if !params.ecdh_curves.is_empty() {
        notes.add("tls_params.ecdh_curves is not applied");
    }
    Ok(())
}

/// What is asked of the peer, and that the roots it is checked against are the workload's.
#[allow(
    deprecated,
    reason = "istiod writes both, older control planes only the deprecated one"
)]
fn checks<'a>(common: &'a CommonTlsContext, context: &Context) -> Result<Option<Checks<'a>>, Fault> {
    const PLAIN: &str = "validation_context";
    const SDS: &str = "validation_context_sds_secret_config";
    const OLD: &str = "validation_context_certificate_provider_instance";
    let none = || Cow::Owned(CertificateValidationContext::default());
    let checks = match &common.validation_context_type {
        None => return Ok(None),
        Some(ValidationContextType::ValidationContext(plain)) => {
            roots(plain, PLAIN, None, context)?;
            Checks {
                validation: Cow::Borrowed(plain),
                at: PLAIN,
            }
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            return combined_checks(combined, context).map(Some);
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) if context.profile == Profile::Envoy => {
            secret_is(format!("{SDS}.name"), secret, SDS_ROOTS)?;
            Checks {
                validation: none(),
                at: SDS,
            }
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(old)) => {
            provided(OLD, &old.instance_name, context)?;
            Checks {
                validation: none(),
                at: OLD,
            }
        }
        Some(_) => {
            return Err(Fault::new(
                "validation_context_type",
                "must be a validation context or a combined one",
            ));
        }
    };
    Ok(Some(checks))
}

#[allow(
    deprecated,
    reason = "istiod writes both, older control planes only the deprecated one"
)]
fn combined_checks<'a>(
    combined: &'a CombinedCertificateValidationContext,
    context: &Context,
) -> Result<Checks<'a>, Fault> {
    const COMBINED: &str = "combined_validation_context.default_validation_context";
    const SDS: &str = "combined_validation_context.validation_context_sds_secret_config";
    const OLD: &str = "validation_context_certificate_provider_instance";
    let validation = match &combined.default_validation_context {
        Some(inner) => Cow::Borrowed(inner),
        None => Cow::Owned(CertificateValidationContext::default()),
    };
    match &combined.validation_context_sds_secret_config {
        Some(_) if context.profile == Profile::Grpc => return Err(Fault::new(SDS, "is not supported")),
        Some(secret) => {
            secret_is(format!("{SDS}.name"), secret, SDS_ROOTS)?;
            inline_roots(&validation, COMBINED, context)?;
        }
        None => {
            let old = combined.validation_context_certificate_provider_instance.as_ref();
            roots(
                &validation,
                COMBINED,
                old.map(|old| (OLD, &*old.instance_name)),
                context,
            )?;
        }
    }
    Ok(Checks {
        validation,
        at: COMBINED,
    })
}

/// The roots come from the workload's provider: of the current field, or else of the deprecated one.
fn roots(
    validation: &CertificateValidationContext,
    at: &str,
    old: Option<(&str, &str)>,
    context: &Context,
) -> Result<(), Fault> {
    let current = validation.ca_certificate_provider_instance.as_ref();
    let current = current.map(|root| ("ca_certificate_provider_instance", &*root.instance_name));
    let Some((field, instance)) = current.or(old) else {
        return Err(Fault::new(
            format!("{at}.ca_certificate_provider_instance"),
            "is missing: roots come from a certificate provider only (gRFC A29)",
        ));
    };
    provided(field, instance, context)?;
    inline_roots(validation, at, context)
}

/// Roots that a sidecar would trust besides its own; gRPC does not look at them.
fn inline_roots(validation: &CertificateValidationContext, at: &str, context: &Context) -> Result<(), Fault> {
    if context.profile == Profile::Envoy && validation.trusted_ca.is_some() {
        let reason = "is not supported: roots are the workload's own";
        return Err(Fault::new(format!("{at}.trusted_ca"), reason));
    }
    Ok(())
}

/// The provider of the own certificate: the current field, or the deprecated one when that is absent.
#[allow(
    deprecated,
    reason = "istiod writes both, older control planes only the deprecated one"
)]
pub(super) fn identity_instance(common: &CommonTlsContext) -> Option<(&'static str, &str)> {
    if let Some(instance) = &common.tls_certificate_provider_instance {
        return Some(("tls_certificate_provider_instance", &instance.instance_name));
    }
    let old = common.tls_certificate_certificate_provider_instance.as_ref()?;
    Some(("tls_certificate_certificate_provider_instance", &old.instance_name))
}

pub(super) fn provided(field: &str, instance: &str, context: &Context) -> Result<(), Fault> {
    if context.provider.as_deref() == Some(instance) {
        return Ok(());
    }
    let reason = format!("names certificate provider {instance:?}, which the bootstrap does not give an identity");
    Err(Fault::new(format!("{field}.instance_name"), reason))
}

/// Istio's two secrets are the workload's own identity and roots, from wherever a sidecar would fetch them. No other one is
/// to be had.
fn secret_is(field: String, secret: &SdsSecretConfig, known: &str) -> Result<(), Fault> {
    if secret.name == known {
        return Ok(());
    }
    let reason = format!("{:?} is not the workload's own, which is {known:?}", secret.name);
    Err(Fault::new(field, reason))
}
