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

/// A half of an identity.
#[derive(Clone, Copy)]
enum Half {
    Certificate,
    Roots,
}

/// What a context asks for.
pub(super) struct Asked<'a> {
    /// Where the own certificate comes from, if that is said; the inner `None`: from the workload's provider.
    pub(super) certificate: Option<Option<Box<str>>>,
    /// What is asked of the peer; `None` when no peer is to be checked.
    pub(super) checks: Option<Checks<'a>>,
}

/// What is asked of a peer, besides a certificate of the workload's roots.
pub(super) struct Checks<'a> {
    pub(super) validation: Cow<'a, CertificateValidationContext>,
    /// The provider of the roots; `None`: the workload's.
    pub(super) roots: Option<Box<str>>,
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
    let certificate = match identity_instance(common) {
        Some((field, name)) => Some(of_provider(field, name, Half::Certificate, context)?),
        None => (!sds.is_empty()).then_some(None),
    };
    Ok(Asked {
        certificate,
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

/// What is asked of the peer, and whose the roots are that it is checked against.
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
            let roots = roots(plain, PLAIN, None, context)?;
            Checks {
                validation: Cow::Borrowed(plain),
                roots,
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
                roots: None,
                at: SDS,
            }
        }
        Some(ValidationContextType::ValidationContextCertificateProviderInstance(old)) => {
            let roots = of_provider(OLD, &old.instance_name, Half::Roots, context)?;
            Checks {
                validation: none(),
                roots,
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
    const OLD: &str = "combined_validation_context.validation_context_certificate_provider_instance";
    let validation = match &combined.default_validation_context {
        Some(inner) => Cow::Borrowed(inner),
        None => Cow::Owned(CertificateValidationContext::default()),
    };
    let roots = match &combined.validation_context_sds_secret_config {
        Some(_) if context.profile == Profile::Grpc => return Err(Fault::new(SDS, "is not supported")),
        Some(secret) => {
            secret_is(format!("{SDS}.name"), secret, SDS_ROOTS)?;
            inline_roots(&validation, COMBINED, context)?;
            None
        }
        None => {
            let old = combined.validation_context_certificate_provider_instance.as_ref();
            let old = old.map(|old| (OLD, &*old.instance_name));
            roots(&validation, COMBINED, old, context)?
        }
    };
    Ok(Checks {
        validation,
        roots,
        at: COMBINED,
    })
}

/// The provider of the roots: of the current field, or else of the deprecated one.
fn roots(
    validation: &CertificateValidationContext,
    at: &str,
    old: Option<(&str, &str)>,
    context: &Context,
) -> Result<Option<Box<str>>, Fault> {
    let current = validation.ca_certificate_provider_instance.as_ref();
    let current_field = format!("{at}.ca_certificate_provider_instance");
    let current = current.map(|root| (&*current_field, &*root.instance_name));
    let Some((field, instance)) = current.or(old) else {
        return Err(Fault::new(
            current_field,
            "is missing: roots come from a certificate provider only (gRFC A29)",
        ));
    };
    let provider = of_provider(field, instance, Half::Roots, context)?;
    inline_roots(validation, at, context)?;
    Ok(provider)
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

/// The provider, if it is another one than the workload's and has what is asked of it.
fn of_provider(field: &str, instance: &str, half: Half, context: &Context) -> Result<Option<Box<str>>, Fault> {
    let other = context.others.get(instance);
    let Some(other) = other.filter(|_| context.provider.as_deref() != Some(instance)) else {
        return provided(field, instance, context).map(|()| None);
    };
    let (has, what) = match half {
        Half::Certificate => (other.shows, "certificate"),
        Half::Roots => (other.judges, "roots"),
    };
    if !has {
        let reason = format!("names certificate provider {instance:?}, which has no {what}");
        return Err(Fault::new(format!("{field}.instance_name"), reason));
    }
    Ok(Some(instance.into()))
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
