//! Tables of cases for matching, edits, redirects, faults and sessions, and the shares of the weighted choice.

mod edits;
mod fault;
mod matching;
mod redirect;
mod session;

use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::*;
use crate::config::{Fraction, PathMatch, RouteMatch};
use crate::entropy::Entropy;

/// A request to target `payment`, with these headers.
fn request(uri: &str, pairs: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(uri).body(()).unwrap();
    *request.headers_mut() = headers(pairs);
    request
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            name.parse::<HeaderName>().unwrap(),
            value.parse::<HeaderValue>().unwrap(),
        );
    }
    map
}

fn head(request: &Request<()>) -> RequestHead<'_> {
    RequestHead::of(request, "payment")
}

fn matches(change: impl FnOnce(&mut RouteMatch)) -> RouteMatch {
    let mut matches = RouteMatch::any();
    change(&mut matches);
    matches
}

#[test]
fn the_first_match_wins() {
    let route = |prefix: &str| {
        let mut route = Route::to(Split::all_to("c"));
        route.matches.path = PathMatch::Prefix(prefix.into());
        Arc::new(route)
    };
    let routes = [route("/a"), route("/b"), route("/a/b")];
    let first = |path: &str| first_match(&routes, &head(&request(path, &[])), &mut Entropy::seeded(1).draw());
    assert_eq!((first("/a/b"), first("/b"), first("/z")), (Some(0), Some(1), None));
}

/// Both routes see one number: what the first leaves, the second divides as if it had seen all.
#[test]
fn fractions_take_their_part_of_the_calls() {
    let route = |percent| {
        let mut route = Route::to(Split::all_to("c"));
        route.matches.fraction = Some(Fraction::percent(percent));
        Arc::new(route)
    };
    let entropy = Entropy::seeded(7);
    let request = request("/", &[]);
    let mut taken = [0; 3];
    let routes = [route(10), route(30)];
    for _ in 0..10_000 {
        let found = first_match(&routes, &head(&request), &mut entropy.draw());
        taken[found.unwrap_or(2)] += 1;
    }
    // Five standard deviations around 1,000 (sd 30), 2,000 (sd 40) and 7,000 (sd 46).
    assert!((850..=1_150).contains(&taken[0]), "{taken:?}");
    assert!((1_800..=2_200).contains(&taken[1]), "{taken:?}");
    for (percent, expected) in [(0, Some(1)), (100, Some(0))] {
        let routes = [route(percent), route(100)];
        assert!((0..100).all(|_| first_match(&routes, &head(&request), &mut entropy.draw()) == expected));
    }
    assert!(
        Fraction {
            of: 1,
            per: crate::config::Per::Million
        }
        .holds(0)
    );
    assert!(
        !Fraction {
            of: 999_999,
            per: crate::config::Per::Million
        }
        .holds(u64::MAX)
    );
}

#[test]
fn shares_lie_in_the_exact_binomial_interval() {
    let split = Split::weighted([("v1".into(), 95), ("v2".into(), 5)]).unwrap();
    let entropy = Entropy::seeded(95);
    let v2 = (0..10_000).filter(|_| choose(&split, &mut entropy.draw()) == 1).count();
    // The central 99.9 % of Binomial(10000, 0.05), by its exact distribution function.
    assert!((430..=573).contains(&v2), "{v2}");
}
