//! Matchers of paths, headers and strings.

use mesh_core::config::{HeaderMatch, HeaderTest, PathMatch, Pattern, QueryMatch, QueryTest, RouteMatch, StringMatch};

use super::common::runtime_fraction;
use crate::proto::core::TypedExtensionConfig;
use crate::proto::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::proto::pack;
use crate::proto::path::r#match::UriTemplateMatchConfig;
use crate::proto::percent::Int64Range;
use crate::proto::protobuf::BoolValue;
use crate::proto::route::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch as Proto, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier, route_match::GrpcRouteMatchOptions,
    route_match::PathSpecifier,
};

pub(super) fn route_match(matches: &RouteMatch) -> Proto {
    let path = match &matches.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone().into()),
        PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.clone().into()),
        PathMatch::Segments(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone().into()),
        PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(regex(pattern)),
        PathMatch::Template(template) => {
            let path_template = template.as_str().into();
            PathSpecifier::PathMatchPolicy(TypedExtensionConfig {
                name: "envoy.path.match.uri_template.uri_template_matcher".into(),
                typed_config: Some(pack(&UriTemplateMatchConfig { path_template })),
            })
        }
    };
    Proto {
        path_specifier: Some(path),
        // Not said when it is what everyone takes for granted.
        case_sensitive: matches.ignore_case.then_some(BoolValue { value: false }),
        headers: header_matches(&matches.headers),
        query_parameters: matches.query.iter().map(query_match).collect(),
        grpc: matches.grpc.then_some(GrpcRouteMatchOptions {}),
        runtime_fraction: matches.fraction.map(runtime_fraction),
        ..Proto::default()
    }
}

pub(super) fn header_matches(headers: &[HeaderMatch]) -> Vec<HeaderMatcher> {
    headers.iter().map(header_match).collect()
}

fn query_match(parameter: &QueryMatch) -> QueryParameterMatcher {
    let test = match &parameter.test {
        QueryTest::Present(present) => QueryParameterMatchSpecifier::PresentMatch(*present),
        QueryTest::Value(test) => QueryParameterMatchSpecifier::StringMatch(string_match(test)),
    };
    QueryParameterMatcher {
        name: parameter.name.clone().into(),
        query_parameter_match_specifier: Some(test),
    }
}

pub(super) fn header_match(header: &HeaderMatch) -> HeaderMatcher {
    let test = match &header.test {
        HeaderTest::Range { start, end } => HeaderMatchSpecifier::RangeMatch(Int64Range {
            start: *start,
            end: *end,
        }),
        HeaderTest::Present => HeaderMatchSpecifier::PresentMatch(true),
        HeaderTest::Value(test) => HeaderMatchSpecifier::StringMatch(string_match(test)),
    };
    HeaderMatcher {
        name: header.subject.to_string(),
        invert_match: header.invert,
        treat_missing_header_as_empty: header.missing_is_empty,
        header_match_specifier: Some(test),
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
    regex_of(pattern.as_str())
}

pub(super) fn regex_of(source: &str) -> RegexMatcher {
    RegexMatcher {
        regex: source.into(),
        engine_type: None,
    }
}
