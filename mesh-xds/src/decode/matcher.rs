//! `RouteMatch`, `HeaderMatcher` and `StringMatcher` (gRFCs A28 and A63).

use http::HeaderName;
use mesh_core::config::{HeaderMatch, HeaderTest, PathMatch, Pattern, RouteMatch, StringMatch};

use super::Fault;
use crate::proto::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::proto::route::{
    HeaderMatcher, RouteMatch as Proto, header_matcher::HeaderMatchSpecifier, route_match::PathSpecifier,
};

/// Reads what a route takes. The inner error is why the route is to be dropped: it asks for something that is not
/// looked at here, and taking more than was meant would send calls astray.
pub(super) fn route_match(proto: &Proto) -> Result<Result<RouteMatch, String>, Fault> {
    let path = path(proto)?;
    let mut headers = Vec::with_capacity(proto.headers.len());
    for (index, header) in proto.headers.iter().enumerate() {
        match header_match(header).map_err(|fault| fault.within(format_args!("headers[{index}]")))? {
            Ok(header) => headers.push(header),
            Err(why) => return Ok(Err(why)),
        }
    }
    if proto.runtime_fraction.is_some() {
        return Err(Fault::new("runtime_fraction", "is not supported"));
    }
    let unseen = [
        ("query_parameters", proto.query_parameters.is_empty()),
        ("cookies", proto.cookies.is_empty()),
        ("tls_context", proto.tls_context.is_none()),
        ("dynamic_metadata", proto.dynamic_metadata.is_empty()),
        ("filter_state", proto.filter_state.is_empty()),
    ];
    if let Some((field, _)) = unseen.iter().find(|(_, absent)| !absent) {
        return Ok(Err(format!("it matches on {field}")));
    }
    if proto.grpc.is_some() {
        headers.push(HeaderMatch {
            name: http::header::CONTENT_TYPE,
            test: HeaderTest::Value(StringMatch::Prefix("application/grpc".into())),
            invert: false,
        });
    }
    Ok(Ok(RouteMatch { path, headers }))
}

fn path(proto: &Proto) -> Result<PathMatch, Fault> {
    let any_case = proto.case_sensitive.as_ref().is_some_and(|flag| !flag.value);
    let folded = |field: &str, text: &str, tail: &str| {
        let pattern = format!("(?is-u:{}{tail})", regex::escape(text));
        Pattern::new(&pattern)
            .map(PathMatch::Regex)
            .map_err(|error| Fault::new(field, error))
    };
    match &proto.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) if any_case => folded("prefix", prefix, ".*"),
        Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatch::Prefix(prefix.as_str().into())),
        Some(PathSpecifier::Path(path)) if any_case => folded("path", path, ""),
        Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact(path.as_str().into())),
        // The whole path, or followed by a slash (Envoy).
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                let reason = "must begin with a slash, not end with one, and hold no query";
                return Err(Fault::new("path_separated_prefix", reason));
            }
            let flags = if any_case { "is-u" } else { "s-u" };
            Pattern::new(&format!("(?{flags}:{}(?:/.*)?)", regex::escape(prefix)))
                .map(PathMatch::Regex)
                .map_err(|error| Fault::new("path_separated_prefix", error))
        }
        // case_sensitive does not apply to expressions (Envoy).
        Some(PathSpecifier::SafeRegex(regex)) => pattern("safe_regex", regex).map(PathMatch::Regex),
        Some(_) => Err(Fault::new("path_specifier", "is of a kind that is not supported")),
        None => Err(Fault::new("path_specifier", "is missing")),
    }
}

/// Reads a test of a header. The inner error is why it cannot be made here.
pub(super) fn header_match(proto: &HeaderMatcher) -> Result<Result<HeaderMatch, String>, Fault> {
    if proto.name.starts_with(':') {
        return Ok(Err(format!("it matches on the pseudo header {:?}", proto.name)));
    }
    let name = HeaderName::from_bytes(proto.name.as_bytes())
        .map_err(|_| Fault::new("name", format!("is not a header name: {:?}", proto.name)))?;
    let mut invert = proto.invert_match;
    let test = header_test(proto, &mut invert)?;
    Ok(Ok(HeaderMatch { name, test, invert }))
}

#[allow(
    deprecated,
    reason = "Istio and older control planes still write the deprecated forms"
)]
fn header_test(proto: &HeaderMatcher, invert: &mut bool) -> Result<HeaderTest, Fault> {
    use HeaderMatchSpecifier as Spec;
    let text = |field: &str, text: &str, make: fn(Box<str>) -> StringMatch| non_empty(field, text).map(make);
    let test = match &proto.header_match_specifier {
        Some(Spec::PresentMatch(present)) => {
            *invert ^= !present;
            return Ok(HeaderTest::Present);
        }
        // Envoy: a matcher without a specifier asks for presence.
        None => return Ok(HeaderTest::Present),
        Some(Spec::ExactMatch(exact)) => StringMatch::Exact(exact.as_str().into()),
        Some(Spec::PrefixMatch(prefix)) => text("prefix_match", prefix, StringMatch::Prefix)?,
        Some(Spec::SuffixMatch(suffix)) => text("suffix_match", suffix, StringMatch::Suffix)?,
        Some(Spec::ContainsMatch(part)) => text("contains_match", part, StringMatch::Contains)?,
        Some(Spec::SafeRegexMatch(regex)) => StringMatch::Regex(pattern("safe_regex_match", regex)?),
        Some(Spec::StringMatch(matcher)) => string_match(matcher).map_err(|fault| fault.within("string_match"))?,
        Some(Spec::RangeMatch(_)) => return Err(Fault::new("range_match", "is not supported")),
    };
    Ok(HeaderTest::Value(test))
}

/// Reads a string matcher. An empty prefix, suffix or part is refused (gRFC A63): it would match everything.
pub(crate) fn string_match(proto: &StringMatcher) -> Result<StringMatch, Fault> {
    let fold = |text: &str, before: &str, after: &str| {
        let source = format!("(?is-u:{before}{}{after})", regex::escape(text));
        Pattern::new(&source)
            .map(StringMatch::Regex)
            .map_err(|error| Fault::new("", error))
    };
    let any_case = proto.ignore_case;
    match &proto.match_pattern {
        Some(MatchPattern::Exact(text)) if any_case => fold(text, "", ""),
        Some(MatchPattern::Exact(text)) => Ok(StringMatch::Exact(text.as_str().into())),
        Some(MatchPattern::Prefix(text)) => match non_empty("prefix", text)? {
            text if any_case => fold(&text, "", ".*"),
            text => Ok(StringMatch::Prefix(text)),
        },
        Some(MatchPattern::Suffix(text)) => match non_empty("suffix", text)? {
            text if any_case => fold(&text, ".*", ""),
            text => Ok(StringMatch::Suffix(text)),
        },
        Some(MatchPattern::Contains(text)) => match non_empty("contains", text)? {
            text if any_case => fold(&text, ".*", ".*"),
            text => Ok(StringMatch::Contains(text)),
        },
        Some(MatchPattern::SafeRegex(regex)) => pattern("safe_regex", regex).map(StringMatch::Regex),
        Some(MatchPattern::Custom(_)) => Err(Fault::new("custom", "is not supported")),
        None => Err(Fault::new("match_pattern", "is missing")),
    }
}

fn non_empty(field: &str, text: &str) -> Result<Box<str>, Fault> {
    match text {
        "" => Err(Fault::new(field, "is empty")),
        text => Ok(text.into()),
    }
}

fn pattern(field: &str, proto: &RegexMatcher) -> Result<Pattern, Fault> {
    Pattern::new(&proto.regex).map_err(|error| Fault::new(field, error))
}
