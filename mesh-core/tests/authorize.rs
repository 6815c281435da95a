//! Authorization is asked on every request, so it takes no memory. One test in a binary of its own: the allocator counts for all
//! threads.

use std::alloc::System;
use std::hint::black_box;

use http::Request;
use mesh_core::authorize::Facts;
use mesh_core::canonical::{PathNormalization, Rewrite};
use mesh_core::config::{
    Authorization, FilterRules, HeaderMatch, HeaderTest, IpPrefix, Pattern, PermissionTest, PrincipalTest, Rbac,
    RbacAction, RbacFilter, RbacPolicy, Rule, StringMatch, Subject,
};
use mesh_core::identity::SpiffeId;
use mesh_core::route::RequestHead;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A hundred rules of each kind of test, none of which is about the request but the last.
fn authorization() -> Authorization {
    let text = |text: String| StringMatch::Prefix(text.into());
    let policies = (0..100).map(|number| {
        let header = |name: &str| {
            HeaderMatch::new(
                Subject::parse(name).expect("a name"),
                HeaderTest::Value(text("x".into())),
            )
        };
        let permission = match number {
            99 => PermissionTest::Path(text("/mesh.test".into())),
            _ if number % 3 == 0 => PermissionTest::Header(header(":authority")),
            _ if number % 3 == 1 => PermissionTest::Header(header("x-tenant")),
            _ => PermissionTest::Path(StringMatch::Regex(Pattern::new("/admin/.*").expect("a pattern"))),
        };
        let principal = match number % 4 {
            0 => PrincipalTest::Source(IpPrefix::new([10, 0, 0, 0].into(), 8).expect("a range")),
            _ => PrincipalTest::Peer(Some(text("spiffe://mesh.test/ns/shop/".into()))),
        };
        RbacPolicy {
            name: format!("ns[shop]-policy[p{number}]-rule[0]").into(),
            permissions: vec![Rule::All(vec![Rule::Is(permission)])],
            principals: vec![Rule::Any(vec![Rule::Is(principal)])],
        }
    });
    let rules = FilterRules {
        enforced: Some(Rbac {
            action: RbacAction::Allow,
            policies: policies.collect(),
        }),
        shadow: None,
    };
    let filter = RbacFilter {
        name: "rbac".into(),
        rules,
    };
    Authorization::new(Vec::new(), vec![filter], Vec::new()).expect("few rules")
}

#[test]
fn a_request_is_made_canonical_and_judged_without_an_allocation() {
    let authorization = authorization();
    let peer = SpiffeId::parse("spiffe://mesh.test/ns/shop/sa/checkout").expect("an id");
    let mut request = Request::post("https://payment.shop:8080/mesh.test.Payments/Pay?x=1")
        .header("content-type", "application/grpc")
        .header("x-tenant", "blue")
        .header("cookie", "a=1")
        .body(())
        .expect("a request");
    let mut judge = || {
        let rewrite = Rewrite::of(&request, PathNormalization::default()).expect("a canonical request");
        rewrite.apply(&mut request);
        let facts = Facts {
            source: Some([10, 0, 0, 7].into()),
            destination: Some(([10, 0, 0, 1], 8080).into()),
            server_name: Some("payment.shop"),
            peer: Some(&peer),
            claims: None,
            head: Some(RequestHead::of(&request, "")),
        };
        authorization.request_passes(&facts, &mut |_| ()).is_ok()
    };
    // A regular expression makes room for itself when it is first used.
    assert!(judge());
    let region = Region::new(ALLOCATOR);
    for _ in 0..1_000 {
        assert!(black_box(judge()));
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));
}
