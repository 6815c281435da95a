//! The `match` of a rule to what a request must look like. What selects clients and ports is decided here and now; what
//! tests a request goes into the route.

use http::HeaderName;
use mesh_core::config::{
    HeaderMatch, HeaderTest, PathMatch, Pattern, QueryMatch, QueryTest, RouteMatch, StringMatch as CoreMatch, Subject,
};

use super::{Findings, View};
use crate::diagnostic::{Code, Severity};
use crate::istio::{At, HttpMatch, HttpRoute, Meta, Place, StringMatch};

/// Header names that Istio ignores in a match: they have fields of their own.
const IGNORED_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// The matches of a rule that can concern this client, with their names in logs (Istio: `rule.match`) and where they stand.
pub(super) fn applicable(
    view: &mut View<'_, '_>,
    meta: &Meta,
    http: &HttpRoute,
    port: Option<u32>,
) -> Vec<(String, RouteMatch, Place)> {
    let rule_name = http.name.as_ref().map_or("", |name| name.as_str());
    if http.matches.is_empty() {
        return vec![(rule_name.to_owned(), RouteMatch::any(), http.place.clone())];
    }
    let client = view.scope.namespace.clone();
    let mut all = Vec::new();
    for one in &http.matches {
        let built = build_match(meta, one, view.findings);
        // These three select clients and ports when the configuration is made; they are no tests of a request.
        let here = one.gateways.is_empty() || one.gateways.iter().any(|name| name.as_str() == "mesh");
        let from = one.source_namespace.as_ref().is_none_or(|name| *name.value == *client);
        let to = one
            .port
            .as_ref()
            .is_none_or(|number| port.is_none_or(|port| port == number.value));
        if let Some(matches) = built.filter(|_| here && from && to) {
            let name = one
                .name
                .as_ref()
                .map_or_else(|| rule_name.to_owned(), |name| format!("{rule_name}.{}", **name));
            all.push((name, matches, one.place.clone()));
        }
    }
    all
}

/// What a request must look like for one match; `None` when it is wrong.
pub(super) fn build_match(meta: &Meta, one: &HttpMatch, findings: &mut Findings) -> Option<RouteMatch> {
    let mut matches = RouteMatch::any();
    if let Some(uri) = &one.uri {
        matches.path = match &uri.value {
            StringMatch::Exact(text) => PathMatch::Exact(text.as_str().into()),
            StringMatch::Prefix(text) if one.segments => PathMatch::Segments(text.as_str().into()),
            StringMatch::Prefix(text) => PathMatch::Prefix(text.as_str().into()),
            StringMatch::Regex(text) => PathMatch::Regex(pattern(meta, text, &uri.place, findings)?),
            StringMatch::Present => return None,
        };
    }
    matches.ignore_case = one.ignore_uri_case;
    for (subject, test) in [
        (Subject::Method, &one.method),
        (Subject::Scheme, &one.scheme),
        (Subject::Authority, &one.authority),
    ] {
        if let Some(test) = test {
            let test = header_test(meta, test, findings)?;
            matches.headers.push(HeaderMatch::new(subject, test));
        }
    }
    for (name, test) in &one.query_params {
        let asked = match &test.value {
            // Protobuf's word for nothing written.
            StringMatch::Exact(text) if text.is_empty() => QueryTest::Present(true),
            _ => match header_test(meta, test, findings)? {
                HeaderTest::Value(test) => QueryTest::Value(test),
                _ => QueryTest::Present(true),
            },
        };
        matches.query.push(QueryMatch {
            name: name.as_str().into(),
            test: asked,
        });
    }
    let tests = one.headers.iter().map(|test| (test, false));
    for ((name, test), invert) in tests.chain(one.without_headers.iter().map(|test| (test, true))) {
        if IGNORED_HEADERS.contains(&name.as_str()) {
            let message = "Istio ignores this key in headers; it has a field of its own";
            findings.say(meta, Severity::Warning, Code::NotServed, &test.place, message);
            continue;
        }
        let Ok(header) = name.parse::<HeaderName>() else {
            let message = format!("{name:?} is not the name of a header");
            findings.say(meta, Severity::Error, Code::Schema, &test.place, message);
            return None;
        };
        let test = header_test(meta, test, findings)?;
        matches.headers.push(match invert {
            true => HeaderMatch::without(header, test),
            false => HeaderMatch::new(header, test),
        });
    }
    let selects = one.port.is_some() || one.source_namespace.is_some() || !one.gateways.is_empty();
    if one.uri.is_none() && matches.headers.is_empty() && matches.query.is_empty() && !selects {
        let message = "a match without a condition is invalid; leave match out to take every request";
        findings.say(meta, Severity::Error, Code::Schema, &one.place, message);
        return None;
    }
    Some(matches)
}

fn header_test(meta: &Meta, test: &At<StringMatch>, findings: &mut Findings) -> Option<HeaderTest> {
    Some(HeaderTest::Value(match &test.value {
        StringMatch::Present => return Some(HeaderTest::Present),
        StringMatch::Exact(text) => CoreMatch::Exact(text.as_str().into()),
        StringMatch::Prefix(text) => CoreMatch::Prefix(text.as_str().into()),
        StringMatch::Regex(text) => CoreMatch::Regex(pattern(meta, text, &test.place, findings)?),
    }))
}

/// Compiled here, so that a pattern that no client can compile is never published: one kills whole client processes.
fn pattern(meta: &Meta, text: &str, place: &Place, findings: &mut Findings) -> Option<Pattern> {
    match Pattern::new(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            findings.say(meta, Severity::Error, Code::Schema, place, error.to_string());
            None
        }
    }
}
