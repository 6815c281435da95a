//! `RouteMatch`, `HeaderMatcher` and `StringMatcher` (gRFCs A28 and A63; Envoy for what gRPC has not).
//!
//! Queries and pseudo headers are matched by both profiles' rules: a gRPC call has no query, so a route that asks for one never
//! takes it, as in a client that drops such routes.

use mesh_core::config::{
    HeaderMatch, HeaderTest, PathMatch, PathTemplate, Pattern, QueryMatch, QueryTest, RouteMatch, StringMatch, Subject,
};

use prost::Name as _;

use super::Fault;
use super::common::{runtime_fraction, unpack};
use crate::bootstrap::Profile;
use crate::proto::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::proto::path::r#match::UriTemplateMatchConfig;
use crate::proto::protobuf::BoolValue;
use crate::proto::route::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch as Proto, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
};

/// Reads what a route takes. The inner error is why the route is to be dropped: it asks for something that is not
/// looked at here, and taking more than was meant would send calls astray.
pub(super) fn route_match(proto: &Proto, profile: Profile) -> Result<Result<RouteMatch, String>, Fault> {
    let path = path(proto)?;
    let headers = match header_matches(&proto.headers, profile)? {
        Ok(headers) => headers,
        Err(why) => return Ok(Err(why)),
    };
    let mut query = Vec::with_capacity(proto.query_parameters.len());
    for (index, parameter) in proto.query_parameters.iter().enumerate() {
        query.push(query_match(parameter).map_err(|fault| fault.within(format_args!("query_parameters[{index}]")))?);
    }
    let fraction = proto.runtime_fraction.as_ref().map(runtime_fraction);
    let fraction = fraction.transpose().map_err(|fault| fault.within("runtime_fraction"))?;
    // A call that begins in the process came over no connection, so no certificate was presented with it.
    let is_asked = |flag: &Option<BoolValue>| flag.as_ref().is_some_and(|flag| flag.value);
    let tls = proto.tls_context.as_ref();
    let asks_for_tls = tls.is_some_and(|tls| is_asked(&tls.presented) || is_asked(&tls.validated));
    let unseen = [
        ("cookies", proto.cookies.is_empty()),
        ("tls_context", !asks_for_tls),
        ("dynamic_metadata", proto.dynamic_metadata.is_empty()),
        ("filter_state", proto.filter_state.is_empty()),
    ];
    if let Some((field, _)) = unseen.iter().find(|(_, absent)| !absent) {
        return Ok(Err(format!("it matches on {field}")));
    }
    Ok(Ok(RouteMatch {
        path,
        ignore_case: proto.case_sensitive.as_ref().is_some_and(|flag| !flag.value),
        headers,
        query,
        grpc: proto.grpc.is_some(),
        fraction,
    }))
}

/// Reads a list of header matchers. The inner error is what cannot be looked at.
pub(super) fn header_matches(
    protos: &[HeaderMatcher],
    profile: Profile,
) -> Result<Result<Vec<HeaderMatch>, String>, Fault> {
    let mut headers = Vec::with_capacity(protos.len());
    for (index, header) in protos.iter().enumerate() {
        match header_match(header, profile).map_err(|fault| fault.within(format_args!("headers[{index}]")))? {
            Ok(header) => headers.push(header),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(headers))
}

fn query_match(proto: &QueryParameterMatcher) -> Result<QueryMatch, Fault> {
    use QueryParameterMatchSpecifier as Spec;
    let test = match &proto.query_parameter_match_specifier {
        Some(Spec::StringMatch(matcher)) => {
            QueryTest::Value(string_match(matcher).map_err(|fault| fault.within("string_match"))?)
        }
        Some(Spec::PresentMatch(present)) => QueryTest::Present(*present),
        None => QueryTest::Present(true),
    };
    Ok(QueryMatch {
        name: non_empty("name", &proto.name)?,
        test,
    })
}

fn path(proto: &Proto) -> Result<PathMatch, Fault> {
    match &proto.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatch::Prefix(prefix.as_str().into())),
        Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact(path.as_str().into())),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                let reason = "must begin with a slash, not end with one, and hold no query";
                return Err(Fault::new("path_separated_prefix", reason));
            }
            Ok(PathMatch::Segments(prefix.as_str().into()))
        }
        Some(PathSpecifier::SafeRegex(regex)) => pattern("safe_regex", regex).map(PathMatch::Regex),
        Some(PathSpecifier::PathMatchPolicy(policy)) => {
            let field = "path_match_policy.typed_config";
            let any = policy
                .typed_config
                .as_ref()
                .ok_or_else(|| Fault::new(field, "is missing"))?;
            if any.type_url != UriTemplateMatchConfig::type_url() {
                return Err(Fault::new(field, format!("type {:?} is not supported", any.type_url)));
            }
            let config: UriTemplateMatchConfig = unpack(field, any)?;
            PathTemplate::parse(&config.path_template)
                .map(PathMatch::Template)
                .map_err(|error| Fault::new(format!("{field}.path_template"), error))
        }
        Some(_) => Err(Fault::new("path_specifier", "is of a kind that is not supported")),
        None => Err(Fault::new("path_specifier", "is missing")),
    }
}

/// Reads what a name stands for.
pub(super) fn subject(field: &str, name: &str, profile: Profile) -> Result<Subject, Fault> {
    match Subject::parse(name) {
        // gRFCs A28 and A42: what is binary is as absent.
        Some(Subject::Header(name)) if profile == Profile::Grpc && name.as_str().ends_with("-bin") => {
            Ok(Subject::Unseen(name))
        }
        Some(subject) => Ok(subject),
        None => Err(Fault::new(field, format!("is not a header name: {name:?}"))),
    }
}

/// Reads a test of a header. The inner error is why it cannot be made here.
pub(super) fn header_match(proto: &HeaderMatcher, profile: Profile) -> Result<Result<HeaderMatch, String>, Fault> {
    if proto.name.starts_with(':') && Subject::parse(&proto.name).is_none() {
        return Ok(Err(format!("it matches on the pseudo header {:?}", proto.name)));
    }
    let subject = subject("name", &proto.name, profile)?;
    let mut invert = proto.invert_match;
    let test = header_test(proto, &mut invert)?;
    Ok(Ok(HeaderMatch {
        subject,
        test,
        invert,
        missing_is_empty: proto.treat_missing_header_as_empty,
    }))
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
        Some(Spec::RangeMatch(range)) => {
            return Ok(HeaderTest::Range {
                start: range.start,
                end: range.end,
            });
        }
    };
    Ok(HeaderTest::Value(test))
}

/// Reads a string matcher. An empty prefix, suffix or part is refused (gRFC A63): it would match everything.
pub(crate) fn string_match(proto: &StringMatcher) -> Result<StringMatch, Fault> {
    let fold = |text: &str, open| {
        Pattern::any_case(text, open)
            .map(StringMatch::Regex)
            .map_err(|error| Fault::new("", error))
    };
    let any_case = proto.ignore_case;
    match &proto.match_pattern {
        Some(MatchPattern::Exact(text)) if any_case => fold(text, (false, false)),
        Some(MatchPattern::Exact(text)) => Ok(StringMatch::Exact(text.as_str().into())),
        Some(MatchPattern::Prefix(text)) => match non_empty("prefix", text)? {
            text if any_case => fold(&text, (false, true)),
            text => Ok(StringMatch::Prefix(text)),
        },
        Some(MatchPattern::Suffix(text)) => match non_empty("suffix", text)? {
            text if any_case => fold(&text, (true, false)),
            text => Ok(StringMatch::Suffix(text)),
        },
        Some(MatchPattern::Contains(text)) => match non_empty("contains", text)? {
            text if any_case => fold(&text, (true, true)),
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
