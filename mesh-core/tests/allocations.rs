//! Routing is done on every call, so it takes no memory. One test in a binary of its own: the allocator counts for all threads.

use std::alloc::System;
use std::hint::black_box;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, Request, StatusCode};
use mesh_core::Entropy;
use mesh_core::config::{
    AppendAction, Domain, Fraction, HeaderEdit, HeaderFormat, HeaderMatch, HeaderRules, HeaderTest, PathMatch, Pattern,
    QueryMatch, QueryTest, Route, RouteTree, Split, StringMatch, VirtualHost, WeightedCluster,
};
use mesh_core::route::{Edits, RequestHead, choose, first_match, virtual_host};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const HOSTS: usize = 100;
const ROUTES: usize = 10;

fn tree() -> RouteTree {
    let hosts = (0..HOSTS).map(|host| {
        let routes = (0..ROUTES).map(|route| Arc::new(self::route(route))).collect();
        let domains = ["h{}.shop.svc", "*.h{}.example", "h{}.*"].map(|form| form.replace("{}", &host.to_string()));
        VirtualHost::new(
            "h",
            domains.map(|text| Domain::parse(&text).expect("a domain")).to_vec(),
            routes,
        )
    });
    RouteTree::new("t", hosts.collect())
}

/// One of each way to match; the last takes everything.
fn route(number: usize) -> Route {
    let mut route = Route::to(Split::weighted([("v1".into(), 95), ("v2".into(), 5)]).expect("weights"));
    let matches = &mut route.matches;
    let text = |text: &str| StringMatch::Exact(text.into());
    matches.path = match number {
        0 => PathMatch::Exact("/other".into()),
        1 => PathMatch::Segments("/sh".into()),
        2 => PathMatch::Regex(Pattern::new("/[0-9]+").expect("a pattern")),
        _ => PathMatch::Prefix("/shop".into()),
    };
    let header = HeaderName::from_static("x-user");
    match number {
        3 => matches
            .headers
            .push(HeaderMatch::new(header, HeaderTest::Value(text("jason")))),
        4 => matches
            .headers
            .push(HeaderMatch::new(header, HeaderTest::Range { start: 0, end: 9 })),
        5 => {
            matches.query.push(QueryMatch {
                name: "debug".into(),
                test: QueryTest::Value(text("1")),
            });
        }
        6 => matches.grpc = true,
        7 => matches.fraction = Some(Fraction::percent(0)),
        8 => matches.ignore_case = true,
        _ => {}
    }
    if number == 8 {
        matches.path = PathMatch::Prefix("/SHIP".into());
    }
    route
}

#[test]
fn a_call_is_routed_without_an_allocation() {
    let tree = tree();
    let entropy = Entropy::seeded(1);
    let request = |authority: &str| {
        Request::get(format!("http://{authority}/shop/cart?a=b&debug=0"))
            .header("x-user", "someone")
            .body(())
            .unwrap()
    };
    // A target's host is found when its configuration comes, and not by its calls.
    let calls = ["h99.shop.svc:8080", "a.b.h42.example", "h7.elsewhere:80"].map(|target| {
        let found = virtual_host(&tree, target).unwrap();
        let place = tree.virtual_hosts.iter().position(|host| std::ptr::eq(host, found));
        (place.unwrap(), request(target))
    });
    let route = |(host, request): &(usize, Request<()>)| {
        let head = RequestHead::of(request, "target");
        let mut draw = entropy.draw();
        let found = first_match(&tree.virtual_hosts[*host].routes, &head, &mut draw).unwrap();
        let split = tree.virtual_hosts[*host].routes[found].split().unwrap();
        (*host, found, choose(split, &mut draw))
    };
    // A regular expression makes room for itself when it is first used.
    let places = calls.each_ref().map(&route);
    assert_eq!(places.map(|(host, found, _)| (host, found)), [(99, 9), (42, 9), (7, 9)]);
    let region = Region::new(ALLOCATOR);
    for call in calls.iter().cycle().take(3_000) {
        black_box(route(black_box(call)));
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));

    // Nor do rules of plain values take any, beyond room in the map.
    let edits = edits();
    let (mut parts, ()) = request("h1.shop.svc").into_parts();
    parts.headers.reserve(8);
    let mut response = HeaderMap::with_capacity(8);
    let region = Region::new(ALLOCATOR);
    for _ in 0..1_000 {
        let answer = edits
            .apply(&parts.method, &mut parts.uri, &mut parts.headers, "target")
            .expect("a path");
        answer
            .expect("the answer is edited")
            .apply(StatusCode::OK, black_box(&mut response));
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));
    assert_eq!(
        (&parts.headers["x-canary"], &response["x-canary"]),
        (&response["x-canary"], &parts.headers["x-canary"])
    );
}

/// A header in both directions, and another authority.
fn edits() -> Arc<Edits> {
    let value = HeaderFormat::parse("v2").expect("a value");
    let set = AppendAction::OverwriteIfExistsOrAdd;
    let edit = HeaderEdit::new(HeaderName::from_static("x-canary"), value, set).expect("a header to edit");
    let mut rules = HeaderRules::default();
    (rules.request.add, rules.response.add) = (vec![edit.clone()], vec![edit]);
    let mut route = Route::to(Split::all_to("c"));
    route.headers = rules.shared();
    let mut share = WeightedCluster::new("c", 1);
    share.host = Some(Authority::from_static("other:1"));
    let host = VirtualHost::new("h", vec![Domain::Any], Vec::new());
    Edits::of(&RouteTree::new("t", Vec::new()), &host, &route, Some(&share))
        .expect("there is something to edit")
        .into()
}
