//! What it costs to ask whether a request may pass: one authorization of a hundred rules, as Istio's policies become, of which the last
//! is about the request; and what it costs to see that a request is canonical.
//!
//! Neither may allocate (`--check`); times are told, beside the microsecond that is wanted, and fail the check only when they
//! miss it by far.
//!
//! `cargo run --release -p benches --bin authorize -- --check`

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;

use http::Request;
use mesh_core::authorize::Facts;
use mesh_core::canonical::{PathNormalization, Rewrite};
use mesh_core::config::{
    Authorization, FilterRules, HeaderMatch, HeaderTest, PermissionTest, PrincipalTest, Rbac, RbacAction, RbacFilter,
    RbacPolicy, Rule, StringMatch, Subject,
};
use mesh_core::identity::SpiffeId;
use mesh_core::route::RequestHead;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RULES: usize = 100;
const REQUESTS: u32 = 200_000;
/// What is wanted of a hundred rules, and by how much that must be missed to fail the check on a busy machine.
const WANTED_NANOS: f64 = 1_000.0;
const NOISE: f64 = 10.0;

type Failure = Box<dyn std::error::Error>;

/// Rules of one workload, each for another caller, method and path.
fn authorization() -> Result<Authorization, Failure> {
    let exact = |text: String| StringMatch::Exact(text.into());
    let policies = (0..RULES).map(|number| {
        let method = HeaderMatch::new(Subject::Method, HeaderTest::Value(exact("POST".to_owned())));
        let path = StringMatch::Prefix(format!("/mesh.test.Payments/Pay{number}").into());
        let peer = exact(format!("spiffe://mesh.test/ns/shop/sa/caller-{number}"));
        let is = |test| Rule::Any(vec![Rule::Is(test)]);
        RbacPolicy {
            name: format!("ns[shop]-policy[p{number}]-rule[0]").into(),
            permissions: vec![Rule::All(vec![
                is(PermissionTest::Header(method)),
                is(PermissionTest::Path(path)),
            ])],
            principals: vec![Rule::All(vec![Rule::Any(vec![Rule::Is(PrincipalTest::Peer(Some(
                peer,
            )))])])],
        }
    });
    let enforced = Some(Rbac {
        action: RbacAction::Allow,
        policies: policies.collect(),
    });
    let filter = RbacFilter {
        name: "rbac".into(),
        rules: FilterRules { enforced, shadow: None },
    };
    Ok(Authorization::new(Vec::new(), vec![filter], Vec::new())?)
}

fn main() -> Result<(), Failure> {
    if mesh_core::TESTING {
        return Err("built with the feature `testing`: build with -p benches alone".into());
    }
    let authorization = authorization()?;
    let last = RULES - 1;
    let peer = SpiffeId::parse(&format!("spiffe://mesh.test/ns/shop/sa/caller-{last}"))?;
    let request = Request::post(format!("https://payment.shop:8080/mesh.test.Payments/Pay{last}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "bench")
        .header("grpc-timeout", "1S")
        .body(())?;
    let facts = Facts {
        source: Some([10, 0, 0, 7].into()),
        destination: Some(([10, 0, 0, 1], 8080).into()),
        server_name: Some("payment.shop"),
        peer: Some(&peer),
        claims: None,
        head: Some(RequestHead::of(&request, "")),
    };
    let judge = || authorization.request_passes(black_box(&facts), &mut |_| ()).is_ok();
    let look =
        || Rewrite::of(black_box(&request), PathNormalization::default()).is_ok_and(|rewrite| rewrite.is_empty());
    if !judge() || !look() {
        return Err("the request must pass as it is".into());
    }
    let (rules, rules_allocate) = measure(judge);
    let (canonical, canonical_allocates) = measure(look);
    println!(
        "{}",
        json!({
            "rules": RULES,
            "nanoseconds_to_judge": rules,
            "nanoseconds_to_see_that_it_is_canonical": canonical,
            "allocations": rules_allocate + canonical_allocates,
        })
    );
    if std::env::args().any(|argument| argument == "--check") {
        if rules_allocate + canonical_allocates > 0 {
            return Err("judging a request allocates".into());
        }
        if rules > WANTED_NANOS * NOISE {
            return Err(format!("{rules:.0} ns for {RULES} rules").into());
        }
    }
    Ok(())
}

/// Nanoseconds and allocations of one time.
fn measure(what: impl Fn() -> bool) -> (f64, usize) {
    for _ in 0..REQUESTS / 10 {
        black_box(what());
    }
    let region = Region::new(ALLOCATOR);
    let begin = Instant::now();
    for _ in 0..REQUESTS {
        black_box(what());
    }
    let nanos = begin.elapsed().as_nanos() as f64 / f64::from(REQUESTS);
    (nanos, region.change().allocations)
}
