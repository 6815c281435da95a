//! TLS to servers outside of the mesh (Istio's `SIMPLE` and `MUTUAL`): contexts whose roots are others than the workload's.
//!
//! A context whose roots are a provider's file in PEM (gRFC A29), or the workload's without a certificate of the mesh, is one of
//! these too: the files are the provider's, and nobody is told of them. Where a provider's roots are a trust domain's, of a CA or a
//! SPIFFE bundle map, its peers are of a mesh and known by their ids.
//!
//! What is named is never sent: files are the client's own, and secrets have names that the application stands behind. istiod
//! writes both as names of SDS (`file-root:`, `file-cert:`, `kubernetes://`), gRPC the system's roots as gRFC A82 has them, and
//! our control plane the rest as certificate providers that no bootstrap defines, which other clients refuse.

use std::path::Path;

use mesh_core::config::{Credential, NameKind, NameMatch, Roots, TlsOrigination};

use super::{common, peers, refuse};
use crate::bootstrap::Profile;
use crate::convention::{PROVIDED, PROVIDED_FILES, SDS_CERTIFICATE_FILES, SDS_IDENTITY, SDS_ROOTS, SDS_ROOTS_FILE};
use crate::decode::{Context, Fault, Notes, Provided, matcher};
use crate::proto::core::{DataSource, data_source::Specifier};
use crate::proto::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
    certificate_validation_context::TrustChainVerification, common_tls_context::ValidationContextType,
    subject_alt_name_matcher::SanType,
};

/// Between a certificate's file and its key's, where one text names both (istiod).
const SEPARATOR: char = '~';
/// istiod's word for the roots of the operating system.
const SYSTEM: &str = "system";

/// What the context asks of a server outside of the mesh; `None` when it is about the mesh's own roots.
pub(super) fn read(
    upstream: &UpstreamTlsContext,
    common: &CommonTlsContext,
    context: &Context,
    notes: &mut Notes,
) -> Result<Option<TlsOrigination>, Fault> {
    let Some((roots, validation, at)) = roots(common, context, notes)? else {
        return Ok(None);
    };
    let refused = [
        ("custom_handshaker", common.custom_handshaker.is_some()),
        (
            "custom_tls_certificate_selector",
            common.custom_tls_certificate_selector.is_some(),
        ),
    ];
    refuse(&refused)?;
    if let Some(params) = &common.tls_params {
        common::parameters(params, notes).map_err(|fault| fault.within("tls_params"))?;
    }
    let of_peer = |fault: Fault| fault.within(at);
    peers::refused_checks(&validation).map_err(of_peer)?;
    Ok(Some(TlsOrigination {
        roots,
        sni: (!upstream.sni.is_empty()).then(|| upstream.sni.as_str().into()),
        names: names(&validation).map_err(of_peer)?,
        shown: shown(common, context)?,
        unverified: validation.trust_chain_verification == TrustChainVerification::AcceptUntrusted as i32,
    }))
}

type Said = (Roots, CertificateValidationContext, &'static str);

#[allow(deprecated, reason = "older control planes write only the deprecated fields")]
fn roots(common: &CommonTlsContext, context: &Context, notes: &mut Notes) -> Result<Option<Said>, Fault> {
    const PLAIN: &str = "validation_context";
    const COMBINED: &str = "combined_validation_context.default_validation_context";
    const SDS: &str = "validation_context_sds_secret_config";
    let envoy = context.profile == Profile::Envoy;
    let (validation, sds, at) = match &common.validation_context_type {
        None if envoy && shows_another(common) => {
            notes.add("a context that says nothing of its peer was taken to mean the system's roots");
            return Ok(Some((Roots::System, CertificateValidationContext::default(), PLAIN)));
        }
        None => return Ok(None),
        Some(ValidationContextType::ValidationContext(plain)) => (plain.clone(), None, PLAIN),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let validation = combined.default_validation_context.clone().unwrap_or_default();
            (
                validation,
                combined.validation_context_sds_secret_config.as_ref(),
                COMBINED,
            )
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            (CertificateValidationContext::default(), Some(secret), SDS)
        }
        Some(_) => return Ok(None),
    };
    if let Some(secret) = sds {
        let roots = match secret.name.as_str() {
            // Who may name secrets at all, and that the mesh's own are good, is looked at where they are read.
            SDS_ROOTS => return Ok(None),
            // Who shows the workload's identity speaks with the mesh, and that by no other roots.
            _ if !envoy || !shows_another(common) => return Ok(None),
            name => match name.strip_prefix(SDS_ROOTS_FILE) {
                Some(SYSTEM) => Roots::System,
                Some(path) => Roots::File(Path::new(path).into()),
                None => Roots::Named(name.into()),
            },
        };
        if validation.trusted_ca.is_some() {
            return Err(Fault::new(
                format!("{at}.trusted_ca"),
                "is there beside a secret's name",
            ));
        }
        return Ok(Some((roots, validation, at)));
    }
    if let Some(instance) = &validation.ca_certificate_provider_instance {
        let field = |fault: Fault| fault.within(format_args!("{at}.ca_certificate_provider_instance"));
        if let Some(roots) = provided_roots(instance, common, context).map_err(field)? {
            return Ok(Some((roots, validation, at)));
        }
    }
    // The system's stand back behind a provider's, if both are said (gRFC A82).
    if validation.ca_certificate_provider_instance.is_none() {
        if validation.system_root_certs.is_some() {
            return Ok(Some((Roots::System, validation, at)));
        }
        let file = validation.trusted_ca.as_ref().and_then(file_name).filter(|_| envoy);
        if let Some(file) = file.map(|file| Roots::File(Path::new(file).into())) {
            return Ok(Some((file, validation, at)));
        }
        if envoy && validation.trust_chain_verification == TrustChainVerification::AcceptUntrusted as i32 {
            return Ok(Some((Roots::System, validation, at)));
        }
    }
    Ok(None)
}

/// Whether the context names something to show that is not the workload's, so that it cannot be about the mesh.
fn shows_another(common: &CommonTlsContext) -> bool {
    let own = |name: &str| name == SDS_IDENTITY;
    common.tls_certificate_provider_instance.is_none()
        && common
            .tls_certificate_sds_secret_configs
            .iter()
            .all(|secret| !own(&secret.name))
}

/// `None` where they are the mesh's own, and the mesh is spoken with.
fn provided_roots(
    instance: &CertificateProviderPluginInstance,
    common: &CommonTlsContext,
    context: &Context,
) -> Result<Option<Roots>, Fault> {
    let name = &*instance.instance_name;
    let roots = match name {
        PROVIDED_FILES => Roots::File(Path::new(&instance.certificate_name).into()),
        PROVIDED if instance.certificate_name == SDS_ROOTS => Roots::Workload,
        PROVIDED => Roots::Named(instance.certificate_name.as_str().into()),
        own if context.provider.as_deref() == Some(own) => {
            let shown = common::identity_instance(common).map(|(_, name)| name);
            // Who shows the workload's certificate to a peer of the workload's roots speaks with the mesh.
            match shown {
                Some(name) if context.provider.as_deref() == Some(name) => return Ok(None),
                // And who shows a certificate that another authority gives it, for it is no file.
                Some(name)
                    if context
                        .others
                        .get(name)
                        .is_some_and(|other| other.shows && other.identity.is_none()) =>
                {
                    return Ok(None);
                }
                // By a secret, which only a sidecar is told of.
                None if !common.tls_certificate_sds_secret_configs.is_empty() => return Ok(None),
                // A context that is refused, with its own word for it.
                Some(name) if ![PROVIDED, PROVIDED_FILES].contains(&name) && !context.others.contains_key(name) => {
                    return Ok(None);
                }
                _ => Roots::Workload,
            }
        }
        other => match context.others.get(other) {
            Some(Provided { roots: Some(path), .. }) => Roots::File(path.clone()),
            // Those of a trust domain, or of several.
            Some(_) | None => return Ok(None),
        },
    };
    Ok(Some(roots))
}

fn shown(common: &CommonTlsContext, context: &Context) -> Result<Option<Credential>, Fault> {
    const SDS: &str = "tls_certificate_sds_secret_configs";
    const INLINE: &str = "tls_certificates";
    let envoy = context.profile == Profile::Envoy;
    if let Some(instance) = &common.tls_certificate_provider_instance {
        const AT: &str = "tls_certificate_provider_instance";
        return match &*instance.instance_name {
            PROVIDED_FILES => files(&instance.certificate_name, format!("{AT}.certificate_name")).map(Some),
            PROVIDED => Ok(Some(Credential::Named(instance.certificate_name.as_str().into()))),
            other if context.others.contains_key(other) => match &context.others[other] {
                Provided {
                    identity: Some(files), ..
                } => Ok(Some(files.clone())),
                Provided { shows: true, .. } => Ok(Some(Credential::Provider(other.into()))),
                Provided { shows: false, .. } => {
                    let reason = format!("names certificate provider {other:?}, which has no certificate");
                    Err(Fault::new(format!("{AT}.instance_name"), reason))
                }
            },
            name => common::provided(AT, name, context).map(|()| Some(Credential::Workload)),
        };
    }
    match (
        &common.tls_certificates[..],
        &common.tls_certificate_sds_secret_configs[..],
    ) {
        ([], []) => Ok(None),
        _ if !envoy => Err(Fault::new(
            if common.tls_certificates.is_empty() {
                SDS
            } else {
                INLINE
            },
            "is not supported (gRFC A29)",
        )),
        ([one], []) => {
            let chain = one.certificate_chain.as_ref().and_then(file_name);
            let key = one.private_key.as_ref().and_then(file_name);
            let (Some(chain), Some(key)) = (chain, key) else {
                let reason = "must name files for the chain and its key: no key comes from a control plane";
                return Err(Fault::new(format!("{INLINE}[0]"), reason));
            };
            Ok(Some(Credential::Files {
                certificate: Path::new(chain).into(),
                key: Path::new(key).into(),
            }))
        }
        ([], [one]) => match one.name.strip_prefix(SDS_CERTIFICATE_FILES) {
            Some(pair) => files(pair, format!("{SDS}[0].name")).map(Some),
            None if one.name == SDS_IDENTITY => Ok(Some(Credential::Workload)),
            None => Ok(Some(Credential::Named(one.name.as_str().into()))),
        },
        ([], _) => Err(Fault::new(
            format!("{SDS}[1]"),
            "is one too many: one certificate is shown",
        )),
        _ => Err(Fault::new(
            format!("{INLINE}[1]"),
            "is one too many: one certificate is shown",
        )),
    }
}

fn files(pair: &str, field: String) -> Result<Credential, Fault> {
    match pair.split_once(SEPARATOR) {
        Some((certificate, key)) if !certificate.is_empty() && !key.is_empty() => Ok(Credential::Files {
            certificate: Path::new(certificate).into(),
            key: Path::new(key).into(),
        }),
        _ => Err(Fault::new(field, "does not name two files")),
    }
}

fn file_name(source: &DataSource) -> Option<&str> {
    match &source.specifier {
        Some(Specifier::Filename(name)) if !name.is_empty() => Some(name),
        _ => None,
    }
}

#[allow(deprecated, reason = "older control planes write only the deprecated list")]
fn names(validation: &CertificateValidationContext) -> Result<Box<[NameMatch]>, Fault> {
    let mut names = Vec::new();
    for (index, san) in validation.match_typed_subject_alt_names.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("match_typed_subject_alt_names[{index}]"));
        let kind = match SanType::try_from(san.san_type) {
            Ok(SanType::Dns) => NameKind::Dns,
            Ok(SanType::Uri) => NameKind::Uri,
            Ok(SanType::IpAddress) => NameKind::Ip,
            Ok(SanType::Email) => NameKind::Email,
            _ => return Err(at(Fault::new("san_type", "is not a kind of name that is looked at"))),
        };
        let matcher = san.matcher.as_ref();
        let matcher = matcher.ok_or_else(|| at(Fault::new("matcher", "is missing")))?;
        let test = matcher::string_match(matcher).map_err(|fault| at(fault.within("matcher")))?;
        names.push(NameMatch { kind, test });
    }
    // The older list says the same where both are there (istiod writes both).
    if names.is_empty() {
        for (index, matcher) in validation.match_subject_alt_names.iter().enumerate() {
            let test = matcher::string_match(matcher)
                .map_err(|fault| fault.within(format_args!("match_subject_alt_names[{index}]")))?;
            let kind = NameKind::Any;
            names.push(NameMatch { kind, test });
        }
    }
    Ok(names.into())
}
