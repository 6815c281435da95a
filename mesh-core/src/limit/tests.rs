//! Tables of requests and what is left for them; and what becomes of buckets when the configuration changes.

use http::Request;

use super::*;
use crate::Entropy;
use crate::config::{
    DescribeBy, Describing, Fraction, HeaderMatch, HeaderTest, Instead, InvalidBucket, LimitFilter, LimitHost,
    LimitRoute, LocalDescriptor, PathMatch, RateLimits, Subject, VirtualHostLimits,
};

const SECOND: Duration = Duration::from_secs(1);

fn bucket(max: u32, per_fill: u32) -> TokenBucket {
    TokenBucket::new(max, per_fill, SECOND).unwrap()
}

/// A process, its one connection, and a clock.
struct Rig {
    origin: Instant,
    shared: Buckets,
    connection: Buckets,
    entropy: Entropy,
}

impl Rig {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods, reason = "some instant is needed to count from")]
        let origin = Instant::now();
        Self {
            origin,
            shared: Buckets::new(origin),
            connection: Buckets::new(origin),
            entropy: Entropy::seeded(7),
        }
    }

    fn limiter(&self, limits: RateLimits) -> Limiter {
        self.on(&self.connection, limits)
    }

    fn on(&self, connection: &Buckets, limits: RateLimits) -> Limiter {
        let places = Places {
            shared: &self.shared,
            connection,
        };
        Limiter::new(&Arc::new(limits), &Scope::default(), places, self.origin)
    }

    fn judge(&self, limiter: &Limiter, uri: &str, headers: &[(&str, &str)], after: Duration) -> Judged {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let asked = Asked {
            head: RequestHead::of(&request, ""),
            source: Some([10, 1, 2, 3].into()),
        };
        limiter.judge(&asked, false, self.origin + after, &mut self.entropy.draw())
    }

    fn passes(&self, limiter: &Limiter, uri: &str, headers: &[(&str, &str)]) -> bool {
        self.judge(limiter, uri, headers, Duration::ZERO).limited.is_none()
    }

    /// How many of `calls` pass at one moment.
    fn pass(&self, limiter: &Limiter, calls: usize, after: Duration) -> usize {
        let judged = (0..calls).map(|_| self.judge(limiter, "http://a.test/", &[], after));
        judged.filter(|judged| judged.limited.is_none()).count()
    }
}

fn one(limit: LocalRateLimit) -> RateLimits {
    RateLimits::of(limit).unwrap()
}

fn generic(value: &str) -> DescriptorEntry {
    DescriptorEntry::new("generic_key", value)
}

fn described(entries: Vec<DescriptorEntry>, bucket: TokenBucket) -> LocalDescriptor {
    LocalDescriptor {
        entries,
        bucket,
        shadow: false,
    }
}

fn by(by: Vec<DescribeBy>) -> Vec<Describing> {
    vec![Describing { stage: 0, by }]
}

#[test]
fn a_bucket_begins_full_and_fills_evenly_and_never_over() {
    let rig = Rig::new();
    let limiter = rig.limiter(one(LocalRateLimit::new(bucket(5, 3))));
    for (after_ms, calls, passes) in [
        (0, 8, 5),
        (0, 1, 0),
        (333, 1, 0),
        (334, 2, 1),
        (1_334, 9, 3),
        (60_000, 9, 5),
        (60_999, 3, 2),
    ] {
        let after = Duration::from_millis(after_ms);
        assert_eq!(rig.pass(&limiter, calls, after), passes, "after {after:?}");
    }
}

#[test]
fn a_bucket_of_nothing_limits_everybody() {
    let rig = Rig::new();
    let limiter = rig.limiter(one(LocalRateLimit::new(bucket(0, 1))));
    assert_eq!(rig.pass(&limiter, 3, Duration::from_secs(3600)), 0);
}

#[test]
fn hs_5_a_push_gives_nobody_a_token() {
    let rig = Rig::new();
    let pushed = |max| rig.limiter(one(LocalRateLimit::new(bucket(max, 1))));
    assert_eq!(rig.pass(&pushed(10), 100, Duration::ZERO), 10);
    // The same again, and again with more: what was taken stays taken.
    let again = (0..50).map(|push| rig.pass(&pushed(10 + push % 2), 1, Duration::ZERO));
    assert_eq!(again.sum::<usize>(), 0);
    assert_eq!(rig.pass(&pushed(10), 100, 2 * SECOND), 2);
    assert_eq!(rig.shared.len(), 1);
}

#[test]
fn buckets_that_nobody_names_are_let_go_of_once_they_are_full() {
    let rig = Rig::new();
    for index in 0..10_000u32 {
        let limit = LocalRateLimit {
            descriptors: vec![described(vec![generic(&index.to_string())], bucket(1, 1))],
            ..LocalRateLimit::new(bucket(1, 1))
        };
        rig.limiter(one(limit));
    }
    assert!(rig.shared.len() <= 2 * FEW, "{}", rig.shared.len());
}

#[test]
fn each_connection_has_its_own_where_that_is_asked_for() {
    let rig = Rig::new();
    for (per_connection, second) in [(false, 0), (true, 2)] {
        let limit = LocalRateLimit {
            per_connection,
            ..LocalRateLimit::new(bucket(2, 1))
        };
        let first = rig.limiter(one(limit.clone()));
        assert_eq!(rig.pass(&first, 5, Duration::ZERO), 2);
        let other = Buckets::new(rig.origin);
        let other = rig.on(&other, one(limit));
        assert_eq!(rig.pass(&other, 5, Duration::ZERO), second, "{per_connection}");
    }
}

#[test]
fn fractions_say_whom_it_concerns_and_whom_it_stops() {
    let rig = Rig::new();
    let counts = |enabled, enforced| {
        let limit = LocalRateLimit {
            enabled,
            enforced,
            ..LocalRateLimit::new(bucket(0, 1))
        };
        let limiter = rig.limiter(one(limit));
        let judged: Vec<Judged> = (0..10_000)
            .map(|_| rig.judge(&limiter, "http://a.test/", &[], Duration::ZERO))
            .collect();
        let limited = judged.iter().filter(|judged| judged.limited.is_some()).count();
        let passed_over = judged.iter().filter(|judged| !judged.passed_over.is_empty()).count();
        (limited, passed_over)
    };
    assert_eq!(counts(Fraction::ALL, Fraction::percent(0)), (0, 10_000));
    assert_eq!(counts(Fraction::percent(0), Fraction::ALL), (0, 0));
    // 2,500 of each are expected; the standard deviation is 43.
    let (limited, passed_over) = counts(Fraction::percent(50), Fraction::percent(50));
    assert!((2_285..=2_715).contains(&limited), "{limited}");
    assert!((2_285..=2_715).contains(&passed_over), "{passed_over}");
}

/// Envoy's order: the slowest of those that fit says no first, and the default is asked besides unless it is told not to be.
#[test]
fn descriptors_have_buckets_of_their_own() {
    let tier = |key: &str| DescribeBy::Header {
        subject: Subject::Header(http::HeaderName::from_static("x-tier")),
        key: key.into(),
        skip_if_absent: false,
    };
    let limit = |always_consume_default| LocalRateLimit {
        descriptors: vec![
            described(vec![DescriptorEntry::new("tier", "free")], bucket(1, 1)),
            described(vec![DescriptorEntry::new("tier", "paid")], bucket(3, 3)),
        ],
        describing: by(vec![tier("tier")]),
        always_consume_default,
        ..LocalRateLimit::new(bucket(4, 1))
    };
    let count = |rig: &Rig, limiter: &Limiter, tier: &str, calls: usize| {
        (0..calls)
            .filter(|_| rig.passes(limiter, "http://a.test/", &[("x-tier", tier)]))
            .count()
    };
    let rig = Rig::new();
    let limiter = rig.limiter(one(limit(true)));
    assert_eq!(count(&rig, &limiter, "free", 3), 1);
    assert_eq!(count(&rig, &limiter, "paid", 5), 3, "of the default, four were there");
    assert_eq!(count(&rig, &limiter, "other", 2), 0, "and none is left");
    let rig = Rig::new();
    let limiter = rig.limiter(one(limit(false)));
    assert_eq!(count(&rig, &limiter, "paid", 5), 3);
    assert_eq!(count(&rig, &limiter, "other", 9), 4);
}

#[test]
fn what_requests_are_described_by() {
    let entries = |key: &str, value: &str| vec![DescriptorEntry::new(key, value)];
    let header = |skip_if_absent| DescribeBy::Header {
        subject: Subject::Header(http::HeaderName::from_static("x-a")),
        key: "a".into(),
        skip_if_absent,
    };
    let query = DescribeBy::Query {
        name: "q".into(),
        key: "q".into(),
        skip_if_absent: false,
    };
    let matching = |expect| DescribeBy::HeaderValueMatch {
        entry: DescriptorEntry::new("header_match", "get"),
        headers: vec![HeaderMatch::new(Subject::Method, HeaderTest::Present)],
        expect,
    };
    let masked = DescribeBy::MaskedRemoteAddress { v4: 16, v6: 64 };
    let both = vec![generic("g"), DescriptorEntry::new("a", "1")];
    let turned = vec![DescriptorEntry::new("a", "1"), generic("g")];
    // What a request to `/?q=2` with `x-a: 1`, or without, is described by; and whether a bucket for that is for it.
    let cases: Vec<(Vec<DescribeBy>, Vec<DescriptorEntry>, bool, bool)> = vec![
        (vec![DescribeBy::Generic(generic("g"))], vec![generic("g")], true, true),
        (
            vec![DescribeBy::Generic(generic("g"))],
            vec![generic("h")],
            false,
            false,
        ),
        (vec![header(false)], entries("a", "1"), true, false),
        (vec![header(false)], entries("a", "2"), false, false),
        (vec![header(false)], entries("b", "1"), false, false),
        (vec![header(false)], entries("a", ""), true, false),
        (vec![query], entries("q", "2"), true, true),
        (
            vec![DescribeBy::RemoteAddress],
            entries("remote_address", "10.1.2.3"),
            true,
            true,
        ),
        (
            vec![masked],
            entries("masked_remote_address", "10.1.0.0/16"),
            true,
            true,
        ),
        (vec![matching(true)], entries("header_match", "get"), true, true),
        (vec![matching(false)], entries("header_match", "get"), false, false),
        (
            vec![DescribeBy::DestinationCluster],
            entries("destination_cluster", "c"),
            false,
            false,
        ),
        (
            vec![DescribeBy::Generic(generic("g")), header(false)],
            both.clone(),
            true,
            false,
        ),
        (vec![DescribeBy::Generic(generic("g")), header(true)], both, true, false),
        (
            vec![DescribeBy::Generic(generic("g")), header(true)],
            vec![generic("g")],
            false,
            true,
        ),
        (
            vec![DescribeBy::Generic(generic("g")), header(true)],
            turned,
            false,
            false,
        ),
    ];
    for (parts, wanted, with, without) in cases {
        let limit = LocalRateLimit {
            bucket: None,
            descriptors: vec![described(wanted.clone(), bucket(0, 1))],
            describing: by(parts.clone()),
            ..LocalRateLimit::new(bucket(1, 1))
        };
        let rig = Rig::new();
        let limiter = rig.limiter(one(limit));
        let limited = |headers: &[_]| !rig.passes(&limiter, "http://a.test/?q=2", headers);
        assert_eq!(
            (limited(&[("x-a", "1")]), limited(&[])),
            (with, without),
            "{parts:?} {wanted:?}"
        );
    }
}

#[test]
fn a_descriptor_without_a_value_has_a_bucket_for_each() {
    let rig = Rig::new();
    let limit = LocalRateLimit {
        bucket: None,
        descriptors: vec![described(vec![DescriptorEntry::new("a", "")], bucket(1, 1))],
        describing: by(vec![DescribeBy::Header {
            subject: Subject::Header(http::HeaderName::from_static("x-a")),
            key: "a".into(),
            skip_if_absent: false,
        }]),
        max_dynamic: 3,
        ..LocalRateLimit::new(bucket(1, 1))
    };
    let limiter = rig.limiter(one(limit));
    let ask = |value: &str, after| {
        rig.judge(&limiter, "http://a.test/", &[("x-a", value)], after)
            .limited
            .is_none()
    };
    let at = Duration::from_millis;
    assert!(ask("1", at(0)) && ask("2", at(1)) && ask("3", at(2)));
    assert!(!ask("1", at(3)) && !ask("2", at(4)) && !ask("3", at(5)));
    // The one that was asked for longest ago makes room, and is new when it comes again.
    assert!(ask("4", at(6)) && !ask("2", at(7)) && ask("1", at(8)));
}

/// A route's limit is in the place of its host's, and that in the place of the filter's; each has its own buckets.
#[test]
fn routes_put_others_in_their_place_and_describe_requests() {
    let limit = |max| Some(Arc::new(LocalRateLimit::new(bucket(max, 1))));
    let instead = |limit| {
        vec![Instead {
            filter: "local".into(),
            limit,
        }]
    };
    let route = |path: &str, said: Vec<Instead>, describing, includes_host| LimitRoute {
        matches: RouteMatch {
            path: PathMatch::Prefix(path.into()),
            ..RouteMatch::any()
        },
        cluster: Some("c".into()),
        describing,
        includes_host,
        instead: said,
    };
    let mut of_route = LocalRateLimit {
        descriptors: vec![
            described(vec![generic("host")], bucket(0, 1)),
            described(vec![DescriptorEntry::new("destination_cluster", "c")], bucket(1, 1)),
        ],
        ..LocalRateLimit::new(bucket(100, 1))
    };
    let own = by(vec![DescribeBy::DestinationCluster]);
    let described_route = |path: &str, limit: &LocalRateLimit, describing, includes| {
        route(path, instead(Some(Arc::new(limit.clone()))), describing, includes)
    };
    let mut routes = vec![
        route("/free", instead(None), Vec::new(), false),
        route("/two", instead(limit(2)), Vec::new(), false),
        described_route("/hosts", &of_route, Vec::new(), false),
        described_route("/own", &of_route, own.clone(), false),
        described_route("/both", &of_route, own.clone(), true),
    ];
    of_route.host = VirtualHostLimits::Include;
    routes.push(described_route("/included", &of_route, own.clone(), false));
    of_route.host = VirtualHostLimits::Ignore;
    routes.push(described_route("/ignored", &of_route, Vec::new(), false));
    of_route.stage = 1;
    routes.push(described_route("/stage", &of_route, own, false));
    let host = LimitHost {
        domains: vec![Domain::parse("a.test").unwrap()],
        describing: by(vec![DescribeBy::Generic(generic("host"))]),
        instead: instead(limit(1)),
        routes,
    };
    let filter = LimitFilter {
        name: "local".into(),
        limit: limit(3),
        after_guards: false,
    };
    let limits = RateLimits::new(vec![filter], vec![host]).unwrap();
    let rig = Rig::new();
    let limiter = rig.limiter(limits);
    for (uri, passes) in [
        ("http://a.test/free", 5),
        ("http://a.test/two", 2),
        ("http://a.test/other", 1),
        ("http://b.test/two", 3),
        ("http://a.test/hosts", 0),
        ("http://a.test/own", 1),
        ("http://a.test/both", 0),
        ("http://a.test/included", 0),
        ("http://a.test/ignored", 5),
        ("http://a.test/stage", 5),
    ] {
        let count = (0..5).filter(|_| rig.passes(&limiter, uri, &[])).count();
        assert_eq!(count, passes, "{uri}");
    }
}

#[test]
fn what_is_left_is_told_of_the_bucket_that_is_nearest_to_its_end() {
    let rig = Rig::new();
    let limit = LocalRateLimit {
        quota_headers: true,
        descriptors: vec![described(vec![generic("g")], bucket(2, 1))],
        describing: by(vec![DescribeBy::Generic(generic("g"))]),
        ..LocalRateLimit::new(bucket(10, 10))
    };
    let limiter = rig.limiter(one(limit));
    let quota = |after| rig.judge(&limiter, "http://a.test/", &[], after).quota.unwrap();
    let left = |remaining, reset| Quota {
        limit: 2,
        remaining,
        reset,
    };
    assert_eq!(quota(Duration::ZERO), left(1, SECOND));
    assert_eq!(quota(Duration::ZERO), left(0, 2 * SECOND));
    assert_eq!(quota(SECOND / 2), left(0, 3 * SECOND / 2));
}

#[test]
fn limits_are_bounded() {
    use crate::config::TooManyLimits;
    let descriptors = |count| LocalRateLimit {
        descriptors: vec![described(vec![generic("g")], bucket(1, 1)); count],
        ..LocalRateLimit::new(bucket(1, 1))
    };
    assert!(RateLimits::of(descriptors(LocalRateLimit::MAX_DESCRIPTORS)).is_ok());
    let over = RateLimits::of(descriptors(LocalRateLimit::MAX_DESCRIPTORS + 1));
    assert_eq!(over, Err(TooManyLimits::Descriptors));
    let filter = |index: usize| LimitFilter {
        name: index.to_string().into(),
        limit: Some(Arc::new(descriptors(200))),
        after_guards: false,
    };
    let filters = |count| (0..count).map(filter).collect::<Vec<_>>();
    assert!(RateLimits::new(filters(20), Vec::new()).is_ok());
    assert_eq!(RateLimits::new(filters(21), Vec::new()), Err(TooManyLimits::Buckets));
    assert_eq!(RateLimits::new(filters(33), Vec::new()), Err(TooManyLimits::Filters));
    for (per_fill, interval, invalid) in [
        (0, SECOND, InvalidBucket::NoTokens),
        (1, Duration::from_millis(49), InvalidBucket::TooOften),
        (1, 2 * TokenBucket::MAX_INTERVAL, InvalidBucket::TooSeldom),
    ] {
        assert_eq!(TokenBucket::new(1, per_fill, interval), Err(invalid));
    }
}
