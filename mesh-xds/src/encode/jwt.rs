//! Whose tokens a server believes, as Envoy's `JwtAuthentication`.
//!
//! Providers are a map there. As with policies, what holds it is written by messages of its own, in the order of the names, so that the
//! same rules are the same bytes.

use mesh_core::config::{JwtProvider, JwtRequirement, JwtRule, JwtRules};
use prost::{Message, Name};

use super::matcher::route_match;
use crate::convention::JWT_FILTER;
use crate::proto::core::{DataSource, data_source::Specifier};
use crate::proto::hcm::{HttpFilter, http_filter::ConfigType};
use crate::proto::jwt_authn::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider as ProviderProto, JwtRequirement as RequirementProto,
    JwtRequirementAndList, JwtRequirementOrList, ProviderWithAudiences, RequirementRule,
    jwt_provider::{JwksSourceSpecifier, NormalizePayload},
    jwt_requirement::RequiresType,
    requirement_rule::RequirementType,
};
use crate::proto::protobuf::Any;

/// `JwtAuthentication`, in order.
#[derive(Clone, PartialEq, Message)]
struct Authentication {
    #[prost(message, repeated, tag = "1")]
    providers: Vec<Entry>,
    #[prost(message, repeated, tag = "2")]
    rules: Vec<RequirementRule>,
}

/// A pair of a map, as maps are on the wire.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ProviderProto>,
}

/// The filter.
pub(super) fn filter(rules: &JwtRules) -> HttpFilter {
    let entry = |provider: &JwtProvider| Entry {
        key: provider.name.clone().into(),
        value: Some(self::provider(provider)),
    };
    let authentication = Authentication {
        providers: rules.providers.iter().map(entry).collect(),
        rules: rules.rules.iter().map(|rule| self::rule(rule, rules)).collect(),
    };
    HttpFilter {
        name: JWT_FILTER.into(),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: JwtAuthentication::type_url(),
            value: authentication.encode_to_vec(),
        })),
        ..HttpFilter::default()
    }
}

fn provider(provider: &JwtProvider) -> ProviderProto {
    let headers = provider.places.headers.iter().map(|(name, prefix)| JwtHeader {
        name: name.as_str().into(),
        value_prefix: prefix.clone().into(),
    });
    let claims = provider.claim_headers.iter().map(|one| JwtClaimToHeader {
        header_name: one.header.as_str().into(),
        claim_name: one.claim.clone().into(),
        ..JwtClaimToHeader::default()
    });
    let words = texts(&provider.space_delimited);
    ProviderProto {
        issuer: provider.issuer.clone().into(),
        audiences: texts(&provider.audiences),
        forward: provider.forward,
        from_headers: headers.collect(),
        from_params: texts(&provider.places.params),
        from_cookies: texts(&provider.places.cookies),
        forward_payload_header: provider.payload_header.as_ref().map_or("", |name| name.as_str()).into(),
        payload_in_metadata: "payload".into(),
        normalize_payload_in_metadata: (!words.is_empty()).then_some(NormalizePayload {
            space_delimited_claims: words,
        }),
        claim_to_headers: claims.collect(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(Specifier::InlineString(provider.keys.to_json())),
            ..DataSource::default()
        })),
        ..ProviderProto::default()
    }
}

fn texts(all: &[Box<str>]) -> Vec<String> {
    all.iter().map(|text| String::from(&**text)).collect()
}

fn rule(rule: &JwtRule, rules: &JwtRules) -> RequirementRule {
    let requires = rule.requires.as_ref().map(|requires| requirement(requires, rules));
    RequirementRule {
        r#match: Some(route_match(&rule.matches)),
        requirement_type: requires.map(RequirementType::Requires),
    }
}

fn requirement(requires: &JwtRequirement, rules: &JwtRules) -> RequirementProto {
    // One that is not there is written as a name that is not: who reads it refuses the whole.
    let name = |index: usize| rules.providers.get(index).map_or("", |provider| &*provider.name).into();
    let all = |parts: &[JwtRequirement]| parts.iter().map(|part| requirement(part, rules)).collect();
    let written = match requires {
        JwtRequirement::Provider(index, audiences) if audiences.is_empty() => RequiresType::ProviderName(name(*index)),
        JwtRequirement::Provider(index, audiences) => RequiresType::ProviderAndAudiences(ProviderWithAudiences {
            provider_name: name(*index),
            audiences: texts(audiences),
        }),
        JwtRequirement::Any(parts) => RequiresType::RequiresAny(JwtRequirementOrList {
            requirements: all(parts),
        }),
        JwtRequirement::All(parts) => RequiresType::RequiresAll(JwtRequirementAndList {
            requirements: all(parts),
        }),
        JwtRequirement::AllowMissing => RequiresType::AllowMissing(Default::default()),
        JwtRequirement::AllowMissingOrFailed => RequiresType::AllowMissingOrFailed(Default::default()),
    };
    RequirementProto {
        requires_type: Some(written),
    }
}
