//! `UpstreamTlsContext`, by gRFC A29: keys and roots come from certificate providers named in the bootstrap, never from the
//! control plane. What cannot be honoured is refused, since leaving out a check would leave out security.

use std::collections::HashSet;

use mesh_core::config::{ExpectedPeers, MutualTls, StringMatch, TlsMode};

use super::common::unpack;
use super::{Context, Fault, Notes, matcher};
use crate::proto::core::{TransportSocket, transport_socket::ConfigType};
use crate::proto::tls::{
    CertificateValidationContext, CommonTlsContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
    subject_alt_name_matcher::SanType,
};

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
    expected_peers(validation.unwrap_or(&none), notes).map_err(|fault| fault.within(field))
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

#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
fn expected_peers(validation: &CertificateValidationContext, notes: &mut Notes) -> Result<ExpectedPeers, Fault> {
    let refused = [
        (
            "verify_certificate_spki",
            !validation.verify_certificate_spki.is_empty(),
        ),
        (
            "verify_certificate_hash",
            !validation.verify_certificate_hash.is_empty(),
        ),
        (
            "require_signed_certificate_timestamp",
            validation
                .require_signed_certificate_timestamp
                .as_ref()
                .is_some_and(|flag| flag.value),
        ),
        ("crl", validation.crl.is_some()),
        ("custom_validator_config", validation.custom_validator_config.is_some()),
    ];
    refuse(&refused)?;
    let mut typed = Vec::new();
    for (index, san) in validation.match_typed_subject_alt_names.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("match_typed_subject_alt_names[{index}]"));
        let matcher = san
            .matcher
            .as_ref()
            .ok_or_else(|| at(Fault::new("matcher", "is missing")))?;
        let test = matcher::string_match(matcher).map_err(|fault| at(fault.within("matcher")))?;
        if san.san_type == SanType::Uri as i32 {
            typed.push(test);
        } else {
            notes.add("an expected name that is not a URI was left out: peers are known by SPIFFE ids here");
        }
    }
    let mut plain = Vec::new();
    for (index, proto) in validation.match_subject_alt_names.iter().enumerate() {
        let test = matcher::string_match(proto)
            .map_err(|fault| fault.within(format_args!("match_subject_alt_names[{index}]")))?;
        plain.push(test);
    }
    // A list without a URI in it still asks for something, which no peer here can show: it must not count as absent.
    let asks_typed = !validation.match_typed_subject_alt_names.is_empty();
    agreed(typed, asks_typed, plain)
}

/// Peers must pass both lists where there are two: gRPC enforces the one, Envoy the other, and a peer that only one of them
/// admits is not one that the control plane meant.
fn agreed(typed: Vec<StringMatch>, asks_typed: bool, plain: Vec<StringMatch>) -> Result<ExpectedPeers, Fault> {
    if plain.is_empty() || !asks_typed {
        let mut seen = HashSet::new();
        let mut tests = typed;
        tests.extend(plain);
        tests.retain(|test| seen.insert(test.clone()));
        return Ok(ExpectedPeers::new(tests));
    }
    let wanted: HashSet<&StringMatch> = plain.iter().collect();
    let mut seen = HashSet::new();
    let both: Vec<StringMatch> = typed
        .into_iter()
        .filter(|test| wanted.contains(test) && seen.insert(test.clone()))
        .collect();
    if both.is_empty() {
        return Err(Fault::new(
            "match_typed_subject_alt_names",
            "has nothing in common with match_subject_alt_names: no peer could pass both",
        ));
    }
    Ok(ExpectedPeers::new(both))
}

fn refuse(fields: &[(&str, bool)]) -> Result<(), Fault> {
    match fields.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Fault::new(*field, "is not supported (gRFC A29)")),
        None => Ok(()),
    }
}
