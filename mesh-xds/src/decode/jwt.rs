//! `JwtAuthentication`: whose tokens a server believes (Envoy; Istio's `RequestAuthentication`).
//!
//! Keys have to be in the resource. A URL is refused and never called: a configuration that could name one would make every workload
//! ask it, and believe what it says. What narrows a token and is not looked at here is refused, too; what only reports or caches is not.

use std::collections::HashMap;

use mesh_core::config::{ClaimHeader, Jwks, JwtPlaces, JwtProvider, JwtRequirement, JwtRule, JwtRules};

use super::common::decode_whole;
use super::{Context, Fault, matcher};
use crate::proto::core::{DataSource, data_source::Specifier};
use crate::proto::jwt_authn::{
    JwtAuthentication, JwtProvider as ProviderProto, JwtRequirement as RequirementProto, RequirementRule,
    jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType, requirement_rule::RequirementType,
};

/// Under which claims stand in the metadata that policies look at (Istio).
pub(super) const PAYLOAD: &str = "payload";

/// The doubt about clocks that there is here, in seconds; 0 means it.
const SKEWS: [u32; 2] = [0, mesh_core::jwt::SKEW as u32];

/// Reads the filter.
pub(super) fn read(bytes: &[u8], context: &Context) -> Result<JwtRules, Fault> {
    let proto = decode_whole::<JwtAuthentication>(bytes)?;
    if proto.filter_state_rules.is_some() {
        return Err(Fault::new("filter_state_rules", "is not supported"));
    }
    if proto.providers.len() > JwtRules::MAX_PROVIDERS {
        return Err(Fault::new(
            "providers",
            format!("are more than {}", JwtRules::MAX_PROVIDERS),
        ));
    }
    if proto.rules.len() > JwtRules::MAX_RULES {
        return Err(Fault::new("rules", format!("are more than {}", JwtRules::MAX_RULES)));
    }
    // A map has no order; the names have.
    let mut providers: Vec<_> = proto.providers.iter().collect();
    providers.sort_unstable_by_key(|(name, _)| name.as_str());
    let names: Vec<&str> = providers.iter().map(|(name, _)| name.as_str()).collect();
    let one = |(name, proto): &(&String, &ProviderProto)| {
        provider(name, proto).map_err(|fault| fault.within(format_args!("providers[{name:?}]")))
    };
    let read = providers.iter().map(one).collect::<Result<_, _>>()?;
    let reader = Reader {
        names,
        named: &proto.requirement_map,
        context,
    };
    let rule = |(index, proto)| {
        let read = reader.rule(proto);
        read.map_err(|fault| fault.within(format_args!("rules[{index}]")))
    };
    Ok(JwtRules {
        providers: read,
        rules: proto.rules.iter().enumerate().map(rule).collect::<Result<_, _>>()?,
    })
}

fn provider(name: &str, proto: &ProviderProto) -> Result<JwtProvider, Fault> {
    let narrows = [
        ("subjects", proto.subjects.is_some()),
        ("require_expiration", proto.require_expiration),
        ("max_lifetime", proto.max_lifetime.is_some()),
        ("clock_skew_seconds", !SKEWS.contains(&proto.clock_skew_seconds)),
        // A policy may look there, and would find nothing.
        ("header_in_metadata", !proto.header_in_metadata.is_empty()),
        ("failed_status_in_metadata", !proto.failed_status_in_metadata.is_empty()),
        ("pad_forward_payload_header", proto.pad_forward_payload_header),
        (
            "payload_in_metadata",
            !["", PAYLOAD].contains(&proto.payload_in_metadata.as_str()),
        ),
        // Envoy takes any issuer's token then.
        ("issuer", proto.issuer.is_empty()),
    ];
    if let Some((field, _)) = narrows.iter().find(|(_, asked)| *asked) {
        return Err(Fault::new(*field, "is not supported with this value"));
    }
    let header = |field: &str, name: &str| {
        name.parse()
            .map_err(|_| Fault::new(field, format!("{name:?} is no header")))
    };
    let mut places = JwtPlaces {
        params: boxed(&proto.from_params),
        cookies: boxed(&proto.from_cookies),
        headers: Vec::new(),
    };
    for one in &proto.from_headers {
        places.headers.push((
            header("from_headers.name", &one.name)?,
            one.value_prefix.as_str().into(),
        ));
    }
    let mut claim_headers = Vec::new();
    for one in &proto.claim_to_headers {
        let claim = match (&*one.claim_path, one.claim_name.as_str()) {
            ([], "") => return Err(Fault::new("claim_to_headers.claim_name", "is empty")),
            ([], name) => name.into(),
            _ => return Err(Fault::new("claim_to_headers.claim_path", "is not supported")),
        };
        claim_headers.push(ClaimHeader {
            header: header("claim_to_headers.header_name", &one.header_name)?,
            claim,
        });
    }
    let payload = Some(proto.forward_payload_header.as_str()).filter(|name| !name.is_empty());
    let words = proto.normalize_payload_in_metadata.as_ref();
    Ok(JwtProvider {
        name: name.into(),
        issuer: proto.issuer.as_str().into(),
        audiences: boxed(&proto.audiences),
        keys: keys(proto.jwks_source_specifier.as_ref())?,
        places,
        forward: proto.forward,
        payload_header: payload.map(|name| header("forward_payload_header", name)).transpose()?,
        claim_headers,
        space_delimited: words.map_or_else(Vec::new, |words| boxed(&words.space_delimited_claims)),
    })
}

fn boxed(texts: &[String]) -> Vec<Box<str>> {
    texts.iter().map(|text| text.as_str().into()).collect()
}

fn keys(source: Option<&JwksSourceSpecifier>) -> Result<Jwks, Fault> {
    let local = match source {
        Some(JwksSourceSpecifier::LocalJwks(local)) => local,
        Some(JwksSourceSpecifier::RemoteJwks(_)) => {
            let reason = "is not called: the keys have to be in local_jwks";
            return Err(Fault::new("remote_jwks", reason));
        }
        None => return Err(Fault::new("jwks_source_specifier", "is missing")),
    };
    let at = |fault: Fault| fault.within("local_jwks");
    text(local)
        .and_then(|text| Jwks::parse(text).map_err(|error| Fault::new("inline_string", error)))
        .map_err(at)
}

fn text(source: &DataSource) -> Result<&str, Fault> {
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text),
        Some(Specifier::InlineBytes(bytes)) => {
            std::str::from_utf8(bytes).map_err(|_| Fault::new("inline_bytes", "is not text"))
        }
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) | None => {
            Err(Fault::new("specifier", "must be inline"))
        }
    }
}

struct Reader<'a> {
    names: Vec<&'a str>,
    named: &'a HashMap<String, RequirementProto>,
    context: &'a Context,
}

impl Reader<'_> {
    fn rule(&self, proto: &RequirementRule) -> Result<JwtRule, Fault> {
        let at = |fault: Fault| fault.within("match");
        let matches = proto.r#match.as_ref().ok_or_else(|| at(Fault::new("", "is missing")))?;
        let matches = matcher::route_match(matches, self.context.profile).map_err(at)?;
        let matches = matches.map_err(|why| at(Fault::new("", why)))?;
        if matches.fraction.is_some() {
            return Err(at(Fault::new("runtime_fraction", "is not supported")));
        }
        let requires = match &proto.requirement_type {
            None => None,
            Some(RequirementType::Requires(proto)) => {
                Some(self.requirement(proto, 1).map_err(|fault| fault.within("requires"))?)
            }
            Some(RequirementType::RequirementName(name)) => {
                let at = |fault: Fault| fault.within("requirement_name");
                let found = self.named.get(name);
                let proto = found.ok_or_else(|| at(Fault::new("", format!("{name:?} is not there"))))?;
                Some(self.requirement(proto, 1).map_err(at)?)
            }
        };
        Ok(JwtRule { matches, requires })
    }

    fn requirement(&self, proto: &RequirementProto, depth: usize) -> Result<JwtRequirement, Fault> {
        if depth > JwtRules::MAX_DEPTH {
            return Err(Fault::new("", format!("is more than {} deep", JwtRules::MAX_DEPTH)));
        }
        let all = |field: &str, protos: &[RequirementProto]| {
            if protos.is_empty() || protos.len() > JwtRules::MAX_RULES {
                let reason = format!("has not between 1 and {} parts", JwtRules::MAX_RULES);
                return Err(Fault::new(field, reason));
            }
            let each = protos.iter().map(|proto| self.requirement(proto, depth + 1));
            each.collect::<Result<_, _>>()
                .map_err(|fault: Fault| fault.within(field))
        };
        match &proto.requires_type {
            Some(RequiresType::ProviderName(name)) => Ok(JwtRequirement::Provider(self.index(name)?, Vec::new())),
            Some(RequiresType::ProviderAndAudiences(both)) => Ok(JwtRequirement::Provider(
                self.index(&both.provider_name)?,
                boxed(&both.audiences),
            )),
            Some(RequiresType::RequiresAny(list)) => all("requires_any", &list.requirements).map(JwtRequirement::Any),
            Some(RequiresType::RequiresAll(list)) => all("requires_all", &list.requirements).map(JwtRequirement::All),
            Some(RequiresType::AllowMissing(_)) => Ok(JwtRequirement::AllowMissing),
            Some(RequiresType::AllowMissingOrFailed(_)) => Ok(JwtRequirement::AllowMissingOrFailed),
            Some(RequiresType::ExtractOnlyWithoutValidation(_)) => Err(Fault::new(
                "extract_only_without_validation",
                "would believe whoever writes a token",
            )),
            None => Err(Fault::new("requires_type", "is missing")),
        }
    }

    fn index(&self, name: &str) -> Result<usize, Fault> {
        let found = self.names.iter().position(|known| *known == name);
        found.ok_or_else(|| Fault::new("provider_name", format!("{name:?} is not there")))
    }
}
