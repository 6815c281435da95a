//! Whether a request is what a route takes.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::HOST;

use super::RequestHead;
use super::head::joined;
use crate::config::{HeaderMatch, HeaderTest, PathMatch, QueryMatch, QueryTest, RouteMatch, Subject};

/// All but the fraction, for which something is drawn.
pub(crate) fn takes(matches: &RouteMatch, head: &RequestHead<'_>) -> bool {
    takes_path(matches, head.path()) && takes_otherwise(matches, head)
}

/// Whether what is asked besides the path passes.
pub(super) fn takes_otherwise(matches: &RouteMatch, head: &RequestHead<'_>) -> bool {
    (!matches.grpc || head.is_grpc())
        && matches.headers.iter().all(|test| header_passes(test, head))
        && (matches.query.is_empty() || {
            let query = head.uri.query().unwrap_or_default();
            matches.query.iter().all(|test| query_passes(test, query))
        })
}

/// Whether the path passes: what most routes are told apart by, and fail by. A call for each of them would be a third of it.
#[inline(always)]
pub(super) fn takes_path(matches: &RouteMatch, path: &str) -> bool {
    let begins_with = |prefix: &str| match matches.ignore_case {
        false => path.as_bytes().starts_with(prefix.as_bytes()),
        true => {
            let begin = path.as_bytes().get(..prefix.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix.as_bytes()))
        }
    };
    match &matches.path {
        PathMatch::Exact(exact) => path.len() == exact.len() && begins_with(exact),
        PathMatch::Prefix(prefix) => begins_with(prefix),
        PathMatch::Segments(prefix) => {
            begins_with(prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
        }
        PathMatch::Regex(pattern) => pattern.is_match(path.as_bytes()),
        PathMatch::Template(template) => template.is_match(path),
    }
}

/// Whether a header passes (Envoy `HeaderMatcher`).
pub(crate) fn header_passes(header: &HeaderMatch, head: &RequestHead<'_>) -> bool {
    header_passes_as(header, head.value(&header.subject))
}

/// The same where nothing but headers is to be looked at: an answer's, say. What else a head has counts as absent.
pub(crate) fn header_passes_in(header: &HeaderMatch, headers: &HeaderMap) -> bool {
    let value = match &header.subject {
        Subject::Header(name) => joined(headers, name),
        Subject::Authority => joined(headers, &HOST),
        Subject::Unseen(_) | Subject::Method | Subject::Scheme | Subject::Path => None,
    };
    header_passes_as(header, value)
}

/// The same of a value that was found somehow, or was not.
pub(crate) fn header_passes_as(header: &HeaderMatch, value: Option<Cow<'_, [u8]>>) -> bool {
    let value = match value {
        Some(value) => value,
        None if header.missing_is_empty => b"".as_slice().into(),
        // Only presence can be told of a header that is absent: a test of a value fails, inverted or not.
        None => return header.test == HeaderTest::Present && header.invert,
    };
    let passes = match &header.test {
        HeaderTest::Present => true,
        HeaderTest::Value(test) => test.is_match(&value),
        HeaderTest::Range { start, end } => whole_number(&value).is_some_and(|number| (*start..*end).contains(&number)),
    };
    passes != header.invert
}

/// A number with nothing but blanks around it.
fn whole_number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

/// The value of the first parameter of this name, as it is written; one without `=` is empty.
pub(crate) fn parameter<'a>(query: &'a str, wanted: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // An empty query has no parameter, not one without a name.
        (name == wanted && !pair.is_empty()).then_some(value)
    })
}

fn query_passes(parameter: &QueryMatch, query: &str) -> bool {
    let found = self::parameter(query, &parameter.name);
    match &parameter.test {
        QueryTest::Present(present) => found.is_some() == *present,
        QueryTest::Value(test) => found.is_some_and(|value| test.is_match(value.as_bytes())),
    }
}
