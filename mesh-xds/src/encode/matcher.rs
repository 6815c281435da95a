//! Matchers of paths, headers and strings.

use mesh_core::config::{HeaderMatch, HeaderTest, PathMatch, Pattern, RouteMatch, StringMatch};

use crate::proto::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::proto::route::{
    HeaderMatcher, RouteMatch as Proto, header_matcher::HeaderMatchSpecifier, route_match::PathSpecifier,
};

pub(super) fn route_match(matches: &RouteMatch) -> Proto {
    let path = match &matches.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone().into()),
        PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.clone().into()),
        PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(regex(pattern)),
    };
    Proto {
        path_specifier: Some(path),
        headers: matches.headers.iter().map(header_match).collect(),
        ..Proto::default()
    }
}

pub(super) fn header_match(header: &HeaderMatch) -> HeaderMatcher {
    let test = match &header.test {
        HeaderTest::Present => HeaderMatchSpecifier::PresentMatch(true),
        HeaderTest::Value(test) => HeaderMatchSpecifier::StringMatch(string_match(test)),
    };
    HeaderMatcher {
        name: header.name.to_string(),
        invert_match: header.invert,
        header_match_specifier: Some(test),
        ..HeaderMatcher::default()
    }
}

pub(super) fn string_match(test: &StringMatch) -> StringMatcher {
    let pattern = match test {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone().into()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone().into()),
        StringMatch::Suffix(text) => MatchPattern::Suffix(text.clone().into()),
        StringMatch::Contains(text) => MatchPattern::Contains(text.clone().into()),
        StringMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
    };
    StringMatcher {
        match_pattern: Some(pattern),
        ignore_case: false,
    }
}

fn regex(pattern: &Pattern) -> RegexMatcher {
    RegexMatcher {
        regex: pattern.as_str().into(),
        engine_type: None,
    }
}
