//! What it costs to ask whether a request may pass: authorizations of a hundred rules, as Istio's policies become, of which the last is
//! about the request, by its caller, by the caller's namespace, or by its path alone; what it costs to see that a request is canonical; and
//! what it costs to take its tokens, of the default bucket, of one of sixteen descriptors, and of the caller's own.
//!
//! None may allocate (`--check`); times are told, beside the microsecond that is wanted, and fail the check only when they
//! miss it by far.
//!
//! `cargo run --release -p benches --bin authorize -- --check`

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

use std::alloc::System;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use mesh_core::Entropy;
use mesh_core::authorize::Facts;
use mesh_core::canonical::{PathNormalization, Rewrite};
use mesh_core::config::{
    Authorization, DescribeBy, Describing, DescriptorEntry, FilterRules, HeaderMatch, HeaderTest, LocalDescriptor,
    LocalRateLimit, Pattern, PermissionTest, PrincipalTest, RateLimits, Rbac, RbacAction, RbacFilter, RbacPolicy, Rule,
    StringMatch, Subject, TokenBucket,
};
use mesh_core::identity::SpiffeId;
use mesh_core::limit::{Asked, Buckets, Limiter, Places, Scope};
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

/// What tells one rule of a workload from another, beside the method.
#[derive(Clone, Copy)]
enum By {
    /// The caller and the path.
    Caller,
    /// The caller's namespace, which is a pattern.
    Namespace,
    /// How the path begins.
    Path,
    /// A template of the path, which is a pattern.
    Template,
}

/// Rules of one workload.
fn authorization(by: By) -> Result<Authorization, Failure> {
    let exact = |text: String| StringMatch::Exact(text.into());
    let policies = (0..RULES).map(|number| {
        let method = HeaderMatch::new(Subject::Method, HeaderTest::Value(exact("POST".to_owned())));
        let path = match by {
            By::Caller | By::Path => StringMatch::Prefix(format!("/mesh.test.Payments/Pay{number}").into()),
            By::Namespace => StringMatch::Prefix("/".into()),
            By::Template => pattern(&format!(r"\/mesh\.test\.Payments\/Pay{number}.*"))?,
        };
        let peer = match by {
            By::Caller => Some(exact(format!("spiffe://mesh.test/ns/shop{number}/sa/caller"))),
            By::Namespace => Some(pattern(&format!("spiffe://[^/]+/ns/shop{number}/sa/[^/]+"))?),
            By::Path | By::Template => None,
        };
        let is = |test| Rule::Any(vec![Rule::Is(test)]);
        Ok(RbacPolicy {
            name: format!("ns[shop]-policy[p{number}]-rule[0]").into(),
            permissions: vec![Rule::All(vec![
                is(PermissionTest::Header(method)),
                is(PermissionTest::Path(path)),
            ])],
            principals: vec![match peer {
                Some(peer) => Rule::All(vec![Rule::Any(vec![Rule::Is(PrincipalTest::Peer(Some(peer)))])]),
                None => Rule::Always,
            }],
        })
    });
    let policies = policies.collect::<Result<Vec<_>, Failure>>()?;
    let enforced = Some(Rbac {
        action: RbacAction::Allow,
        policies,
    });
    let filter = RbacFilter {
        name: "rbac".into(),
        rules: FilterRules { enforced, shadow: None },
    };
    Ok(Authorization::new(Vec::new(), vec![filter], Vec::new())?)
}

fn pattern(source: &str) -> Result<StringMatch, Failure> {
    Ok(StringMatch::Regex(Pattern::new(source)?))
}

/// A limit with buckets that do not run out.
fn limiter() -> Result<Limiter, Failure> {
    let bucket = TokenBucket::new(u32::MAX, u32::MAX, Duration::from_secs(1))?;
    let own = |entries| LocalDescriptor {
        entries,
        bucket,
        shadow: false,
    };
    let mut descriptors: Vec<LocalDescriptor> = (0..15)
        .map(|number| own(vec![DescriptorEntry::new("agent", format!("bench-{number}"))]))
        .collect();
    descriptors.push(own(vec![DescriptorEntry::new("agent", "bench")]));
    descriptors.push(own(vec![DescriptorEntry::new("remote_address", "")]));
    let by = |part| Describing {
        stage: 0,
        by: vec![part],
    };
    let agent = DescribeBy::Header {
        subject: http::header::USER_AGENT.into(),
        key: "agent".into(),
        skip_if_absent: false,
    };
    let limit = LocalRateLimit {
        descriptors,
        describing: vec![by(agent), by(DescribeBy::RemoteAddress)],
        ..LocalRateLimit::new(bucket)
    };
    let buckets = Buckets::new(Instant::now());
    let places = Places {
        shared: &buckets,
        connection: &buckets,
    };
    Ok(Limiter::new(
        &Arc::new(RateLimits::of(limit)?),
        &Scope::default(),
        places,
        Instant::now(),
    ))
}

fn main() -> Result<(), Failure> {
    if mesh_core::TESTING {
        return Err("built with the feature `testing`: build with -p benches alone".into());
    }
    let last = RULES - 1;
    let peer = SpiffeId::parse(&format!("spiffe://mesh.test/ns/shop{last}/sa/caller"))?;
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
    let look =
        || Rewrite::of(black_box(&request), PathNormalization::default()).is_ok_and(|rewrite| rewrite.is_empty());
    let mut judged = [0.0; 4];
    let mut rules_allocate = 0;
    for (nanos, by) in judged
        .iter_mut()
        .zip([By::Caller, By::Namespace, By::Path, By::Template])
    {
        let authorization = authorization(by)?;
        let judge = || authorization.request_passes(black_box(&facts), &mut |_| ()).is_ok();
        if !judge() || !look() {
            return Err("the request must pass as it is".into());
        }
        let allocations;
        (*nanos, allocations) = measure(judge);
        rules_allocate += allocations;
    }
    let limiter = limiter()?;
    let entropy = Entropy::seeded(1);
    let asked = Asked {
        head: RequestHead::of(&request, ""),
        source: Some([10, 0, 0, 7].into()),
    };
    let now = Instant::now();
    let take = || {
        let judged = limiter.judge(black_box(&asked), false, now, &mut entropy.draw());
        judged.limited.is_none()
    };
    if !take() {
        return Err("there must be a token".into());
    }
    let (limited, limit_allocates) = measure(take);
    let [by_caller, by_namespace, by_path, by_template] = judged;
    let (canonical, canonical_allocates) = measure(look);
    println!(
        "{}",
        json!({
            "rules": RULES,
            "nanoseconds_to_judge": by_caller,
            "nanoseconds_to_judge_by_namespace": by_namespace,
            "nanoseconds_to_judge_by_path": by_path,
            "nanoseconds_to_judge_by_template": by_template,
            "nanoseconds_to_see_that_it_is_canonical": canonical,
            "nanoseconds_to_take_tokens": limited,
            "allocations": rules_allocate + canonical_allocates + limit_allocates,
        })
    );
    if std::env::args().any(|argument| argument == "--check") {
        if rules_allocate + canonical_allocates + limit_allocates > 0 {
            return Err("judging a request allocates".into());
        }
        if let Some(nanos) = judged.iter().find(|nanos| **nanos > WANTED_NANOS * NOISE) {
            return Err(format!("{nanos:.0} ns for {RULES} rules").into());
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
