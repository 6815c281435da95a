//! A request's authority and path become others.

use std::fmt;

use http::header::HeaderName;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Uri};

use super::RequestHead;
use crate::config::{HostRewrite, PathMatch, PathRewrite, Rewrite, RouteMatch};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// What a rewrite made of a path is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRewrite;

impl fmt::Display for InvalidRewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what the route rewrites its path to is not a path")
    }
}

impl std::error::Error for InvalidRewrite {}

/// The authority that a rewrite gives, if it gives one.
pub(super) fn host(rule: &HostRewrite, head: &RequestHead<'_>) -> Option<Authority> {
    match rule {
        HostRewrite::Literal(authority) => Some(authority.clone()),
        HostRewrite::Header(name) => {
            let value = head.headers.get(name)?;
            Authority::try_from(value.as_bytes()).ok()
        }
        HostRewrite::PathRegex(substitution) => Authority::try_from(substitution.apply(head.path())).ok(),
        // Which it is, each try finds out.
        HostRewrite::Endpoint => None,
    }
}

/// Path and query as the rule makes them. `matches` is what the route took the path by.
pub(super) fn path(rule: &PathRewrite, matches: &RouteMatch, path_and_query: &str) -> String {
    let end = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    match rule {
        PathRewrite::Regex(substitution) => substitution.apply(path) + query,
        PathRewrite::Template(new) => {
            let made = match &matches.path {
                PathMatch::Template(template) => new.apply(template, path),
                _ => None,
            };
            made.unwrap_or_else(|| path.to_owned()) + query
        }
        PathRewrite::Prefix(new) => {
            let matched = match &matches.path {
                PathMatch::Prefix(prefix) | PathMatch::Segments(prefix) => prefix.len(),
                PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Template(_) => path.len(),
            };
            let rest = path.get(matched..).unwrap_or_default();
            format!("{new}{rest}{query}")
        }
    }
}

/// Gives the request what a route's rewrite and the host of a share say.
pub(super) fn apply(
    rewrite: Option<&Rewrite>,
    share_host: Option<&Authority>,
    matches: &RouteMatch,
    head: RequestHead<'_>,
) -> Result<Rewritten, InvalidRewrite> {
    // The route's comes after the share's and has the last word (Envoy).
    let of_route = rewrite.and_then(|rewrite| host(rewrite.host.as_ref()?, &head));
    let authority = of_route.or_else(|| share_host.cloned());
    let forwarded_host = match &authority {
        Some(_) if rewrite.is_some_and(|rewrite| rewrite.append_forwarded_host) => Some(head.authority().to_owned()),
        _ => None,
    };
    let new_path = rewrite.and_then(|rewrite| rewrite.path.as_ref());
    let new_path = new_path.map(|rule| path(rule, matches, head.path_and_query()));
    let path = new_path.map(|text| {
        // HTTP asks for the slash (RFC 9113 8.3.1), and a URI would be read without it too.
        let text = Some(text).filter(|text| text.starts_with('/')).ok_or(InvalidRewrite)?;
        let original = HeaderValue::from_str(head.path_and_query()).map_err(|_| InvalidRewrite)?;
        Ok((PathAndQuery::try_from(text).map_err(|_| InvalidRewrite)?, original))
    });
    Ok(Rewritten {
        authority,
        forwarded_host,
        path: path.transpose()?,
    })
}

/// Gives the request the authority of the endpoint that it goes to.
pub(super) fn to_endpoint(
    name: Authority,
    append_forwarded_host: bool,
    uri: &mut Uri,
    headers: &mut HeaderMap,
    asked: String,
) {
    let rewritten = Rewritten {
        forwarded_host: append_forwarded_host.then_some(asked),
        authority: Some(name),
        path: None,
    };
    rewritten.write(uri, headers);
}

/// What is to become of a request's URI.
pub(super) struct Rewritten {
    authority: Option<Authority>,
    forwarded_host: Option<String>,
    path: Option<(PathAndQuery, HeaderValue)>,
}

impl Rewritten {
    pub(super) fn write(self, uri: &mut Uri, headers: &mut HeaderMap) {
        if self.authority.is_none() && self.path.is_none() {
            return;
        }
        if let Some(host) = self.forwarded_host
            && last_of_list(headers, &FORWARDED_HOST) != Some(&host)
            && let Ok(host) = HeaderValue::try_from(host)
        {
            headers.append(FORWARDED_HOST, host);
        }
        let mut parts = std::mem::take(uri).into_parts();
        if let Some((path, original)) = self.path {
            parts.path_and_query = Some(path);
            headers.insert(ORIGINAL_PATH, original);
        }
        if let Some(authority) = self.authority {
            parts.authority = Some(authority);
        }
        if parts.authority.is_some() {
            parts.scheme.get_or_insert(Scheme::HTTP);
            parts
                .path_and_query
                .get_or_insert_with(|| PathAndQuery::from_static("/"));
        }
        *uri = Uri::from_parts(parts).expect("a URI with a scheme, an authority and a path, or with a path alone");
    }
}

/// The last element of a list that may stand in several headers.
fn last_of_list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let last = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next().map(str::trim)
}
