//! What is refused of a filter of tokens: whatever would have a token believed that should not be.

use mesh_core::testing::TestIssuer;
use prost::Message as _;

use crate::bootstrap::Profile;
use crate::decode::{Context, jwt, token};
use crate::proto::core::{DataSource, data_source::Specifier};
use crate::proto::jwt_authn::{
    JwtAuthentication, JwtProvider, JwtRequirement, JwtRequirementOrList, RequirementRule,
    jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType, requirement_rule::RequirementType,
};
use crate::proto::matcher::{
    MetadataMatcher, StringMatcher, ValueMatcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    string_matcher::MatchPattern as TextPattern,
    value_matcher::MatchPattern,
};
use crate::proto::route::{RouteMatch, route_match::PathSpecifier};

fn source(specifier: Specifier) -> Option<JwksSourceSpecifier> {
    Some(JwksSourceSpecifier::LocalJwks(DataSource {
        specifier: Some(specifier),
        ..DataSource::default()
    }))
}

/// As istiod writes it.
fn good() -> JwtAuthentication {
    let provider = JwtProvider {
        issuer: "https://issuer.example".into(),
        payload_in_metadata: "payload".into(),
        jwks_source_specifier: source(Specifier::InlineString(TestIssuer::new("k").jwks())),
        ..JwtProvider::default()
    };
    let of = |requires_type| JwtRequirement {
        requires_type: Some(requires_type),
    };
    let any = JwtRequirementOrList {
        requirements: vec![
            of(RequiresType::ProviderName("origins-0".into())),
            of(RequiresType::AllowMissing(Default::default())),
        ],
    };
    JwtAuthentication {
        providers: [("origins-0".into(), provider)].into(),
        rules: vec![RequirementRule {
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".into())),
                ..RouteMatch::default()
            }),
            requirement_type: Some(RequirementType::Requires(of(RequiresType::RequiresAny(any)))),
        }],
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    }
}

fn read(proto: &JwtAuthentication) -> Result<usize, String> {
    let context = Context {
        profile: Profile::Envoy,
        trusted: true,
        ..Context::default()
    };
    let read = jwt::read(&proto.encode_to_vec(), &context);
    read.map(|rules| rules.providers.len())
        .map_err(|fault| fault.to_string())
}

#[test]
fn az_12_what_would_believe_more_than_it_says_is_refused() {
    type Change = fn(&mut JwtAuthentication);
    fn provider(all: &mut JwtAuthentication) -> &mut JwtProvider {
        all.providers.get_mut("origins-0").unwrap()
    }
    fn requires(all: &mut JwtAuthentication, what: RequiresType) {
        let requires_type = Some(what);
        all.rules[0].requirement_type = Some(RequirementType::Requires(JwtRequirement { requires_type }));
    }
    assert_eq!(read(&good()), Ok(1));
    let cases: [(&str, Change); 22] = [
        ("filter_state_rules", |all| {
            all.filter_state_rules = Some(Default::default())
        }),
        ("remote_jwks", |all| {
            provider(all).jwks_source_specifier = Some(JwksSourceSpecifier::RemoteJwks(Default::default()));
        }),
        ("jwks_source_specifier", |all| {
            provider(all).jwks_source_specifier = None
        }),
        ("local_jwks.specifier", |all| {
            provider(all).jwks_source_specifier = source(Specifier::Filename("/etc/keys".into()));
        }),
        ("local_jwks.specifier", |all| {
            provider(all).jwks_source_specifier = source(Specifier::EnvironmentVariable("KEYS".into()));
        }),
        ("local_jwks.inline_string", |all| {
            provider(all).jwks_source_specifier = source(Specifier::InlineString("{}".into()));
        }),
        ("secret key", |all| {
            let text = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;
            provider(all).jwks_source_specifier = source(Specifier::InlineBytes(text.into()));
        }),
        ("issuer", |all| provider(all).issuer.clear()),
        ("subjects", |all| provider(all).subjects = Some(Default::default())),
        ("require_expiration", |all| provider(all).require_expiration = true),
        ("max_lifetime", |all| {
            provider(all).max_lifetime = Some(Default::default())
        }),
        ("clock_skew_seconds", |all| provider(all).clock_skew_seconds = 3600),
        ("payload_in_metadata", |all| {
            provider(all).payload_in_metadata = "other".into()
        }),
        ("header_in_metadata", |all| {
            provider(all).header_in_metadata = "other".into()
        }),
        ("forward_payload_header", |all| {
            provider(all).forward_payload_header = "a b".into()
        }),
        ("claim_to_headers", |all| {
            provider(all).claim_to_headers.push(Default::default())
        }),
        ("from_headers.name", |all| {
            provider(all).from_headers.push(Default::default())
        }),
        ("rules[0].match", |all| all.rules[0].r#match = None),
        ("rules[0].requirement_name", |all| {
            all.rules[0].requirement_type = Some(RequirementType::RequirementName("x".into()));
        }),
        ("rules[0].requires.provider_name", |all| {
            requires(all, RequiresType::ProviderName("x".into()));
        }),
        ("rules[0].requires.requires_any", |all| {
            requires(all, RequiresType::RequiresAny(Default::default()));
        }),
        ("extract_only_without_validation", |all| {
            requires(all, RequiresType::ExtractOnlyWithoutValidation(Default::default()));
        }),
    ];
    for (field, change) in cases {
        let mut proto = good();
        change(&mut proto);
        let why = read(&proto).unwrap_err();
        assert!(why.contains(field), "{field}: {why}");
    }
    let mut many = good();
    let one = provider(&mut many).clone();
    many.providers
        .extend((1..=32).map(|index| (format!("origins-{index}"), one.clone())));
    assert!(read(&many).unwrap_err().contains("providers"));
}

#[test]
fn az_12_a_test_of_a_token_that_is_not_understood_is_refused() {
    let matcher = |filter: &str, path: &[&str], pattern: Option<MatchPattern>| MetadataMatcher {
        filter: filter.into(),
        path: path
            .iter()
            .map(|key| PathSegment {
                segment: Some(Segment::Key((*key).into())),
            })
            .collect(),
        value: Some(ValueMatcher { match_pattern: pattern }),
        invert: false,
    };
    let text = || {
        Some(MatchPattern::StringMatch(StringMatcher {
            match_pattern: Some(TextPattern::Exact("a".into())),
            ignore_case: false,
        }))
    };
    let (jwt, istio) = ("envoy.filters.http.jwt_authn", "istio_authn");
    for (filter, path) in [
        (jwt, &["payload", "iss"][..]),
        (jwt, &["payload", "realm", "roles"]),
        (istio, &["request.auth.principal"]),
        (istio, &["request.auth.audiences"]),
        (istio, &["request.auth.presenter"]),
        (istio, &["request.auth.claims", "groups"]),
    ] {
        token::read(&matcher(filter, path, text())).unwrap();
    }
    let refused = [
        matcher(jwt, &["payload"], text()),
        matcher(jwt, &["header", "kid"], text()),
        matcher(jwt, &[], text()),
        matcher(istio, &["request.auth.raw_claims"], text()),
        matcher(istio, &["source.principal"], text()),
        matcher(jwt, &["payload", "iss"], None),
        matcher(jwt, &["payload", "iss"], Some(MatchPattern::BoolMatch(true))),
        matcher(
            jwt,
            &["payload", "iss"],
            Some(MatchPattern::OrMatch(Default::default())),
        ),
        matcher(
            jwt,
            &["payload", "iss"],
            Some(MatchPattern::ListMatch(Default::default())),
        ),
        matcher(
            istio,
            &["request.auth.principal"],
            Some(MatchPattern::PresentMatch(false)),
        ),
    ];
    for proto in refused {
        assert!(token::read(&proto).is_err(), "{proto:?}");
        assert!(token::is_of_token(&proto));
    }
}
