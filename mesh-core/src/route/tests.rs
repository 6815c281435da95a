//! Tables of cases for matching, and the shares of the weighted choice.

use http::HeaderValue;

use super::*;
use crate::config::{Pattern, StringMatch};
use crate::entropy::Entropy;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs
        .iter()
        .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)));
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name, value);
    }
    map
}

#[test]
fn paths() {
    let regex = PathMatch::Regex(Pattern::new("/a/[0-9]+").unwrap());
    let cases = [
        (PathMatch::Exact("/a".into()), "/a", true),
        (PathMatch::Exact("/a".into()), "/a/", false),
        (PathMatch::Prefix("/a".into()), "/ab", true),
        (PathMatch::Prefix("".into()), "/anything", true),
        (regex.clone(), "/a/12", true),
        (regex, "/a/12/b", false),
    ];
    for (path, request, expected) in cases {
        let matches = RouteMatch {
            path,
            headers: Vec::new(),
        };
        assert_eq!(
            takes(&matches, request, &HeaderMap::new()),
            expected,
            "{matches:?} on {request}"
        );
    }
}

#[test]
fn header_tests() {
    let exact = |value: &str| HeaderTest::Value(StringMatch::Exact(value.into()));
    let cases = [
        (HeaderTest::Present, false, headers(&[("x-user", "")]), true),
        (HeaderTest::Present, true, headers(&[]), true),
        (exact("jason"), false, headers(&[("x-user", "jason")]), true),
        (exact("jason"), false, headers(&[]), false),
        (exact("jason"), true, headers(&[]), true),
        (exact("a,b"), false, headers(&[("x-user", "a"), ("x-user", "b")]), true),
    ];
    for (test, invert, headers, expected) in cases {
        let header = HeaderMatch {
            name: HeaderName::from_static("x-user"),
            test,
            invert,
        };
        assert_eq!(header_passes(&header, &headers), expected, "{header:?} on {headers:?}");
    }
}

#[test]
fn the_first_match_wins() {
    let route = |prefix: &str| {
        let mut route = Route::to(Split::all_to("c"));
        route.matches.path = PathMatch::Prefix(prefix.into());
        Arc::new(route)
    };
    let routes = [route("/a"), route("/"), route("/a/b")];
    let first = |path| first_match(&routes, path, &HeaderMap::new());
    assert_eq!((first("/a/b"), first("/z"), first("z")), (Some(0), Some(1), None));
}

#[test]
fn shares_lie_in_the_exact_binomial_interval() {
    let split = Split::weighted([("v1".into(), 95), ("v2".into(), 5)]).unwrap();
    let entropy = Entropy::seeded(95);
    let v2 = (0..10_000).filter(|_| choose(&split, &mut entropy.draw()) == 1).count();
    // The central 99.9 % of Binomial(10000, 0.05), by its exact distribution function.
    assert!((430..=573).contains(&v2), "{v2}");
}
