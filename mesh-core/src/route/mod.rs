//! Which cluster: virtual host, route, and the weighted choice, once per request.
//!
//! Pure: the same request and the same random number give the same answer, so `explain` and the data plane share one engine.

mod host;

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::config::{HeaderMatch, HeaderTest, PathMatch, Route, RouteMatch, Split};
use crate::entropy::Draw;

pub use host::virtual_host;

/// The index of the first route that takes the request (Envoy and gRFC A28: first match wins).
pub fn first_match(routes: &[Arc<Route>], path: &str, headers: &HeaderMap) -> Option<usize> {
    routes.iter().position(|route| takes(&route.matches, path, headers))
}

/// The index of the share that this request falls into. Random and independent for each request (gRFC A28; Istio), never a
/// rotation, so that shares hold for every slice of the traffic.
pub fn choose(split: &Split, draw: &mut Draw) -> usize {
    if split.clusters().len() == 1 {
        return 0;
    }
    split.at(draw.below(u64::from(split.total())) as u32)
}

fn takes(matches: &RouteMatch, path: &str, headers: &HeaderMap) -> bool {
    let path_taken = match &matches.path {
        PathMatch::Exact(exact) => path == &**exact,
        PathMatch::Prefix(prefix) => path.starts_with(&**prefix),
        PathMatch::Regex(pattern) => pattern.is_match(path.as_bytes()),
    };
    path_taken && matches.headers.iter().all(|test| header_passes(test, headers))
}

pub(crate) fn header_passes(header: &HeaderMatch, headers: &HeaderMap) -> bool {
    let passes = match &header.test {
        HeaderTest::Present => headers.contains_key(&header.name),
        HeaderTest::Value(test) => match joined(headers, &header.name) {
            Some(value) => test.is_match(&value),
            // A value test on an absent header fails before it is inverted (Envoy: inverted, absence passes).
            None => false,
        },
    };
    passes != header.invert
}

/// The header's value; several are joined with `,` (Envoy, gRFC A28). Borrowed unless there are several.
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<std::borrow::Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return Some(first.into());
    };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(all.into())
}

#[cfg(test)]
mod tests;
