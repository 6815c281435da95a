//! Tests of a token, in the words that Istio has for them.

use mesh_core::config::{ClaimShape, StringMatch, TokenTest};

use super::matcher::string_match;
use crate::convention::{ISTIO_AUTHN_FILTER, JWT_FILTER, REQUEST_PRINCIPAL};
use crate::proto::matcher::{
    ListMatcher, MetadataMatcher, OrMatcher, ValueMatcher, list_matcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    value_matcher::MatchPattern,
};

pub(super) fn metadata(test: &TokenTest) -> MetadataMatcher {
    let (filter, path, value) = match test {
        TokenTest::Principal(test) => {
            let present = MatchPattern::PresentMatch(true);
            let value = test
                .as_ref()
                .map_or(present, |test| MatchPattern::StringMatch(string_match(test)));
            (ISTIO_AUTHN_FILTER, vec![REQUEST_PRINCIPAL], value)
        }
        TokenTest::Claim(path, shape, test) => {
            let names = path.iter().map(|name| &**name);
            let value = match shape {
                ClaimShape::Text => text(test),
                ClaimShape::List => list(test),
                ClaimShape::Any => MatchPattern::OrMatch(OrMatcher {
                    value_matchers: vec![value(text(test)), value(list(test))],
                }),
            };
            (JWT_FILTER, ["payload"].into_iter().chain(names).collect(), value)
        }
    };
    let segment = |key: &str| PathSegment {
        segment: Some(Segment::Key(key.into())),
    };
    MetadataMatcher {
        filter: filter.into(),
        path: path.into_iter().map(segment).collect(),
        value: Some(self::value(value)),
        invert: false,
    }
}

fn value(pattern: MatchPattern) -> ValueMatcher {
    ValueMatcher {
        match_pattern: Some(pattern),
    }
}

fn text(test: &StringMatch) -> MatchPattern {
    MatchPattern::StringMatch(string_match(test))
}

fn list(test: &StringMatch) -> MatchPattern {
    MatchPattern::ListMatch(Box::new(ListMatcher {
        match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(value(text(test))))),
    }))
}
