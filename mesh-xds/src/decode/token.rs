//! Tests of a token, which in Envoy are tests of the metadata that the filters leave who checked it.
//!
//! Istio writes them in two ways: of the payload that `jwt_authn` leaves, and, until 1.21, of the attributes that its own filter left.

use mesh_core::config::{ClaimShape, StringMatch, TokenTest};

use super::jwt::PAYLOAD;
use super::{Fault, matcher};
use crate::convention::{ISTIO_AUTHN_FILTER, JWT_FILTER, REQUEST_PRINCIPAL};
use crate::proto::matcher::{
    MetadataMatcher, ValueMatcher, list_matcher, metadata_matcher::path_segment::Segment, value_matcher::MatchPattern,
};

/// Whether it is about a token at all.
pub(super) fn is_of_token(matcher: &MetadataMatcher) -> bool {
    [JWT_FILTER, ISTIO_AUTHN_FILTER].contains(&matcher.filter.as_str())
}

/// Reads one that is.
pub(super) fn read(proto: &MetadataMatcher) -> Result<TokenTest, Fault> {
    let mut path = Vec::new();
    for segment in &proto.path {
        match &segment.segment {
            Some(Segment::Key(key)) => path.push(key.as_str()),
            None => return Err(Fault::new("path", "has an empty segment")),
        }
    }
    let value = proto.value.as_ref().ok_or_else(|| Fault::new("value", "is missing"))?;
    let pattern = value.match_pattern.as_ref();
    let pattern = pattern.ok_or_else(|| Fault::new("value.match_pattern", "is missing"))?;
    let claim = |path: &[&str]| {
        let (shape, test) = value_test(pattern).map_err(|fault| fault.within("value"))?;
        let path = path.iter().map(|name| Box::from(*name)).collect();
        Ok(TokenTest::Claim(path, shape, test))
    };
    match (proto.filter.as_str(), &*path) {
        (JWT_FILTER, [PAYLOAD, names @ ..]) if !names.is_empty() => claim(names),
        (ISTIO_AUTHN_FILTER, [REQUEST_PRINCIPAL]) => match pattern {
            MatchPattern::PresentMatch(true) => Ok(TokenTest::Principal(None)),
            MatchPattern::StringMatch(test) => {
                let test = matcher::string_match(test).map_err(|fault| fault.within("value.string_match"))?;
                Ok(TokenTest::Principal(Some(test)))
            }
            _ => Err(Fault::new("value", "is not a test of a principal")),
        },
        (ISTIO_AUTHN_FILTER, ["request.auth.audiences"]) => claim(&["aud"]),
        (ISTIO_AUTHN_FILTER, ["request.auth.presenter"]) => claim(&["azp"]),
        (ISTIO_AUTHN_FILTER, ["request.auth.claims", names @ ..]) if !names.is_empty() => claim(names),
        _ => Err(Fault::new(
            "path",
            format!("{path:?} is not known of {:?}", proto.filter),
        )),
    }
}

fn value_test(pattern: &MatchPattern) -> Result<(ClaimShape, StringMatch), Fault> {
    match pattern {
        MatchPattern::StringMatch(test) => Ok((ClaimShape::Text, matcher::string_match(test)?)),
        MatchPattern::ListMatch(list) => {
            let Some(list_matcher::MatchPattern::OneOf(value)) = &list.match_pattern else {
                return Err(Fault::new("list_match.one_of", "is missing"));
            };
            Ok((ClaimShape::List, text(value)?))
        }
        // Either of both, where both look for the same.
        MatchPattern::OrMatch(or) => {
            let each = or.value_matchers.iter().map(|value| {
                let pattern = value.match_pattern.as_ref();
                pattern.map_or_else(|| Err(Fault::new("or_match", "has an empty matcher")), value_test)
            });
            let each: Vec<_> = each.collect::<Result<_, _>>()?;
            match &*each {
                [(a, one), (b, other)] if one == other && a != b => Ok((ClaimShape::Any, one.clone())),
                _ => Err(Fault::new(
                    "or_match",
                    "does not look for one text as a string and in a list",
                )),
            }
        }
        _ => Err(Fault::new("match_pattern", "is not supported")),
    }
}

fn text(value: &ValueMatcher) -> Result<StringMatch, Fault> {
    match &value.match_pattern {
        Some(MatchPattern::StringMatch(test)) => matcher::string_match(test),
        _ => Err(Fault::new("list_match.one_of", "is not a string_match")),
    }
}
