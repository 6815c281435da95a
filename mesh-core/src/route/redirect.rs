//! Where a redirect sends its caller.

use super::{RequestHead, rewrite};
use crate::config::{Redirect, RedirectPath, RouteMatch};

/// The `location` of a redirect of this request, which `matches` took.
pub fn location(redirect: &Redirect, matches: &RouteMatch, head: &RequestHead<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or_else(|| head.scheme());
    let host = match &redirect.host {
        Some(host) => host,
        None => asked_host(redirect, scheme, head),
    };
    let port = redirect.port.map(|port| format!(":{port}")).unwrap_or_default();
    let asked = head.path_and_query();
    let query = asked.find('?').map_or("", |at| &asked[at..]);
    let mut has_query_of_its_own = false;
    let mut path = match &redirect.path {
        None => asked.to_owned(),
        Some(RedirectPath::Rewritten(rule)) => rewrite::path(rule, matches, asked),
        Some(RedirectPath::Whole(path)) if path.contains('?') => {
            has_query_of_its_own = true;
            path.to_string()
        }
        Some(RedirectPath::Whole(path)) => format!("{path}{query}"),
    };
    if redirect.strip_query && !has_query_of_its_own {
        path.truncate(path.find('?').unwrap_or(path.len()));
    }
    format!("{scheme}://{host}{port}{path}")
}

/// The request's own authority, without a port that another takes the place of, or that was the other scheme's.
fn asked_host<'a>(redirect: &Redirect, scheme: &str, head: &RequestHead<'a>) -> &'a str {
    let authority = head.authority();
    let Some(host) = super::host::without_port(authority) else {
        return authority;
    };
    let port = &authority[host.len()..];
    let asked = head.scheme();
    let was_default = scheme != asked && matches!((asked, port), ("http", ":80") | ("https", ":443"));
    if redirect.port.is_some() || was_default {
        host
    } else {
        authority
    }
}
