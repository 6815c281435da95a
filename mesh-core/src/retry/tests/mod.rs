//! The table of ends and verdicts, and the pauses.

mod pauses;
mod storms;

use http::{HeaderName, HeaderValue};

use super::*;
use crate::config::{HeaderMatch, HeaderTest, RetryBudget, RoutingPriority, StringMatch, Subject};
use crate::entropy::Entropy;

fn answered(status: u16, grpc: Option<u8>) -> TryEnd {
    TryEnd::Answered {
        status: StatusCode::from_u16(status).unwrap(),
        grpc,
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    pairs.collect()
}

fn begin(policy: &RetryPolicy, headers: &HeaderMap, retried_above: bool) -> RetryState {
    let head = RequestHead {
        method: &Method::PUT,
        uri: &http::Uri::from_static("/a"),
        headers,
        target: "t",
    };
    RetryState::begin(policy, &head, retried_above)
}

fn ask(
    state: &mut RetryState,
    rules: &Rules<'_>,
    method: &Method,
    end: TryEnd,
    answer: &HeaderMap,
    budget: &Budget,
) -> Verdict {
    let mut world = World {
        budget,
        places: budget,
        priority: RoutingPriority::Default,
        limits: RetryLimits::default(),
        calls: 1,
        draw: &mut Entropy::seeded(1).draw(),
        unix_seconds: Some(1_000),
    };
    state.judge(rules, method, end, Some(answer), &mut world)
}

/// What a fresh call with a fresh budget is told.
fn verdict(policy: &RetryPolicy, method: &Method, end: TryEnd, answer: &HeaderMap) -> Verdict {
    let mut state = begin(policy, &HeaderMap::new(), false);
    ask(
        &mut state,
        &Rules::new(policy, None),
        method,
        end,
        answer,
        &Budget::default(),
    )
}

fn retries(policy: &RetryPolicy, method: &Method, end: TryEnd) -> bool {
    matches!(verdict(policy, method, end, &HeaderMap::new()), Verdict::Again(_))
}

fn written(words: &str) -> RetryPolicy {
    RetryPolicy {
        explicit: true,
        on: RetryOn::parse(words),
        ..RetryPolicy::default()
    }
}

#[test]
fn rs_4_the_default_policy_never_repeats_what_may_have_run() {
    let policy = RetryPolicy::default();
    for (method, end, expected) in [
        (Method::POST, TryEnd::ConnectFailed, true),
        (Method::POST, TryEnd::NotProcessed, true),
        (Method::POST, TryEnd::Reset, false),
        (Method::GET, TryEnd::Reset, false), // `reset` is not in the default list
        (Method::POST, TryEnd::Lost, false),
        (Method::GET, TryEnd::Lost, true),
        (Method::POST, TryEnd::PerTryTimeout, false),
        (Method::POST, answered(200, Some(14)), false), // a handler that says so has run
        (Method::GET, answered(200, Some(14)), true),
        (Method::POST, answered(200, Some(13)), false),
        (Method::POST, answered(200, Some(1)), false),
        (Method::GET, answered(503, None), false),
        (Method::POST, answered(200, None), false),
    ] {
        assert_eq!(retries(&policy, &method, end), expected, "{method} {end:?}");
    }
}

#[test]
fn what_a_user_wrote_is_obeyed() {
    let policy = written("5xx");
    for end in [
        TryEnd::ConnectFailed,
        TryEnd::Reset,
        TryEnd::Lost,
        TryEnd::PerTryTimeout,
        answered(500, None),
    ] {
        assert!(retries(&policy, &Method::POST, end), "{end:?}");
    }
    assert!(!retries(&policy, &Method::POST, answered(404, None)));
    // What they did not write is not done, to what may run twice either.
    assert!(!retries(&written("connect-failure"), &Method::GET, TryEnd::Lost));
    let gateway = written("gateway-error");
    assert!(retries(&gateway, &Method::GET, answered(503, None)));
    assert!(!retries(&gateway, &Method::GET, answered(500, None)));
}

/// Every word against every end that it names, and no other.
#[test]
fn every_word_names_what_envoy_says() {
    let limited = headers(&[("x-envoy-ratelimited", "true")]);
    let again = headers(&[("x-again", "yes, please")]);
    let none = HeaderMap::new();
    // The second NotProcessed: the first needs no word.
    let ends: [(&str, TryEnd, &HeaderMap); 19] = [
        ("connect", TryEnd::ConnectFailed, &none),
        ("refused", TryEnd::NotProcessed, &none),
        ("reset", TryEnd::Reset, &none),
        ("timeout", TryEnd::PerTryTimeout, &none),
        ("500", answered(500, None), &none),
        ("501", answered(501, None), &none),
        ("502", answered(502, None), &none),
        ("503", answered(503, None), &none),
        ("504", answered(504, None), &none),
        ("409", answered(409, None), &none),
        ("404", answered(404, None), &none),
        ("425", answered(425, None), &none),
        ("header", answered(200, None), &again),
        ("limited", answered(429, None), &limited),
        ("grpc 1", answered(200, Some(1)), &none),
        ("grpc 4", answered(200, Some(4)), &none),
        ("grpc 8", answered(200, Some(8)), &none),
        ("grpc 13", answered(200, Some(13)), &none),
        ("grpc 14", answered(200, Some(14)), &none),
    ];
    let no_answer = ["connect", "refused", "reset", "timeout"];
    let expected = |word: &str| -> Vec<&str> {
        match word {
            "connect-failure" => vec!["connect"],
            "refused-stream" => vec!["refused"],
            "reset" => no_answer.to_vec(),
            "reset-before-request" => vec!["connect", "refused"],
            "5xx" => [&no_answer[..], &["500", "501", "502", "503", "504"]].concat(),
            "gateway-error" => [&no_answer[..], &["502", "503", "504"]].concat(),
            "retriable-4xx" => vec!["409"],
            "retriable-status-codes" => vec!["425"],
            "retriable-headers" => vec!["header"],
            "envoy-ratelimited" => vec!["limited"],
            "http3-post-connect-failure" => vec![],
            "cancelled" => vec!["grpc 1"],
            "deadline-exceeded" => vec!["grpc 4"],
            "resource-exhausted" => vec!["grpc 8"],
            "internal" => vec!["grpc 13"],
            "unavailable" => vec!["grpc 14"],
            other => panic!("a word without a row: {other}"),
        }
    };
    for (word, on) in RetryOn::all() {
        let policy = RetryPolicy {
            on,
            statuses: [425].into(),
            headers: [HeaderMatch::new(
                HeaderName::from_static("x-again"),
                HeaderTest::Value(StringMatch::Prefix("yes".into())),
            )]
            .into(),
            explicit: true,
            ..RetryPolicy::default()
        };
        let named = ends.iter().filter(|(_, end, answer)| {
            let mut state = RetryState {
                transparent_used: true,
                ..RetryState::default()
            };
            let rules = Rules::new(&policy, None);
            let verdict = ask(&mut state, &rules, &Method::POST, *end, answer, &Budget::default());
            matches!(verdict, Verdict::Again(_))
        });
        let named: Vec<&str> = named.map(|(name, ..)| *name).collect();
        assert_eq!(named, expected(word), "{word}");
    }
}

#[test]
fn tries_are_bounded_and_the_transparent_one_happens_once() {
    let policy = RetryPolicy::never();
    let (mut state, budget) = (RetryState::default(), Budget::default());
    let rules = Rules::new(&policy, None);
    let mut judge = |end| ask(&mut state, &rules, &Method::POST, end, &HeaderMap::new(), &budget);
    let transparent = Again {
        pause: Duration::ZERO,
        paid: false,
        placed: false,
    };
    assert_eq!(judge(TryEnd::NotProcessed), Verdict::Again(transparent));
    assert_eq!(judge(TryEnd::NotProcessed), Verdict::GiveUp(Why::NotNamed));
}

#[test]
fn who_gives_up_says_why() {
    let policy = written("5xx");
    let rules = Rules::new(&policy, None);
    let (mut state, budget) = (RetryState::default(), Budget::default());
    let none = HeaderMap::new();
    let mut judge = |method: &Method, end| ask(&mut state, &rules, method, end, &none, &budget);
    for _ in 0..policy.retries {
        assert!(matches!(judge(&Method::GET, answered(500, None)), Verdict::Again(_)));
    }
    assert_eq!(
        judge(&Method::GET, answered(500, None)),
        Verdict::GiveUp(Why::Exhausted)
    );
    assert_eq!(judge(&Method::GET, answered(404, None)), Verdict::GiveUp(Why::NotNamed));
    let default = RetryPolicy::default();
    let unsafe_ = verdict(&default, &Method::POST, answered(200, Some(14)), &none);
    assert_eq!(unsafe_, Verdict::GiveUp(Why::Unsafe));
    let empty = Budget::default();
    while empty.withdraw() {}
    let over = ask(
        &mut RetryState::default(),
        &rules,
        &Method::GET,
        answered(500, None),
        &none,
        &empty,
    );
    assert_eq!((over, empty.retrying()), (Verdict::GiveUp(Why::OverBudget), 0));
}

/// A request can ask for another policy than its route's.
#[test]
fn a_request_overrides_its_route() {
    let never = RetryPolicy::never();
    let asked = Overrides {
        on: RetryOn::SERVER_ERROR,
        ..Overrides::default()
    };
    let rules = Rules::new(&never, Some(&asked));
    assert_eq!(rules.retries(), 1);
    let none = HeaderMap::new();
    let judge = |rules: &Rules<'_>, end| {
        ask(
            &mut RetryState::default(),
            rules,
            &Method::POST,
            end,
            &none,
            &Budget::default(),
        )
    };
    assert!(matches!(judge(&rules, answered(500, None)), Verdict::Again(_)));
    let more = Overrides {
        retries: Some(7),
        statuses: vec![425],
        on: RetryOn::RETRIABLE_STATUS_CODES,
        per_try_timeout: Some(Duration::ZERO),
        hedge: Some(true),
        ..Overrides::default()
    };
    let policy = RetryPolicy {
        per_try_timeout: Some(Duration::from_secs(1)),
        ..RetryPolicy::default()
    };
    let rules = Rules::new(&policy, Some(&more));
    assert_eq!((rules.retries(), rules.per_try_timeout()), (7, None));
    assert!(!rules.hedges(), "without a time per try there is nothing to be slow by");
    assert!(matches!(judge(&rules, answered(425, None)), Verdict::Again(_)));
    let none_at_all = Overrides {
        retries: Some(0),
        ..Overrides::default()
    };
    assert_eq!(Rules::new(&policy, Some(&none_at_all)).retries(), 0);
}

/// Of others not even a call that found no connection (Envoy); what provably was not processed is sent once more, as ever (gRFC A6).
#[test]
fn only_requests_with_the_policys_headers_are_tried_again() {
    let named = |name: &'static str| HeaderMatch::new(HeaderName::from_static(name), HeaderTest::Present);
    let put = HeaderMatch {
        subject: Subject::Method,
        ..HeaderMatch::new(
            HeaderName::from_static("x"),
            HeaderTest::Value(StringMatch::Exact("PUT".into())),
        )
    };
    let failures = [answered(500, None), TryEnd::ConnectFailed];
    let cases = [
        (named("x-may"), headers(&[("x-may", "1")]), true),
        (named("x-may"), headers(&[]), false),
        (put, headers(&[]), true),
    ];
    for (listed, request, expected) in cases {
        let policy = RetryPolicy {
            request_headers: [listed].into(),
            ..written("5xx,connect-failure")
        };
        let rules = Rules::new(&policy, None);
        let again = |end| {
            let mut state = begin(&policy, &request, false);
            let verdict = ask(
                &mut state,
                &rules,
                &Method::GET,
                end,
                &HeaderMap::new(),
                &Budget::default(),
            );
            matches!(verdict, Verdict::Again(_))
        };
        for end in failures {
            assert_eq!(again(end), expected, "{end:?} {:?}", policy.request_headers);
        }
        assert!(again(TryEnd::NotProcessed));
    }
}

/// Inside a retry nothing is repeated that may have run; what provably did not, is.
#[test]
fn rs_2_inside_a_retry_only_what_was_not_processed_is_repeated() {
    let policy = written("5xx,connect-failure");
    let rules = Rules::new(&policy, None);
    for (end, expected) in [
        (answered(503, None), false),
        (TryEnd::Reset, false),
        (TryEnd::ConnectFailed, true),
        (TryEnd::NotProcessed, true),
    ] {
        let mut state = begin(&policy, &HeaderMap::new(), true);
        let verdict = ask(
            &mut state,
            &rules,
            &Method::GET,
            end,
            &HeaderMap::new(),
            &Budget::default(),
        );
        assert_eq!(matches!(verdict, Verdict::Again(_)), expected, "{end:?}");
    }
}

#[test]
fn limits_of_retries_in_flight_hold_and_are_given_back() {
    let budget = Budget::default();
    let two = RetryLimits {
        max: Some(2),
        ..RetryLimits::default()
    };
    assert!(
        budget.begin_retry(RoutingPriority::Default, &two, 1_000)
            && budget.begin_retry(RoutingPriority::Default, &two, 1_000)
    );
    assert!(!budget.begin_retry(RoutingPriority::Default, &two, 1_000));
    budget.end_retry(RoutingPriority::Default);
    assert!(budget.begin_retry(RoutingPriority::Default, &two, 1_000));
    let share = RetryLimits {
        budget: Some(RetryBudget {
            share: 1_000,
            min_retry_concurrency: 2,
        }),
        max: Some(1),
    };
    // Two are in flight: a tenth of 20 calls is no more, of 30 it is.
    assert!(
        !budget.begin_retry(RoutingPriority::Default, &share, 20)
            && budget.begin_retry(RoutingPriority::Default, &share, 30)
    );
    assert_eq!(budget.retrying(), 3);
    // High priority has places of its own.
    let high = RoutingPriority::High;
    assert!(
        budget.begin_retry(high, &two, 1) && budget.begin_retry(high, &two, 1) && !budget.begin_retry(high, &two, 1)
    );
    budget.end_retry(high);
    assert!(!budget.begin_retry(RoutingPriority::Default, &two, 1) && budget.begin_retry(high, &two, 1));
}

#[test]
fn a_hedge_asks_who_may_run_twice_and_pays() {
    let mut hedged = RetryPolicy {
        hedge: true,
        per_try_timeout: Some(Duration::from_millis(10)),
        ..RetryPolicy::default()
    };
    let budget = Budget::default();
    let saved = budget.saved();
    let ask = |policy: &RetryPolicy, method: &Method| {
        let mut world = World {
            budget: &budget,
            places: &budget,
            priority: RoutingPriority::Default,
            limits: RetryLimits::default(),
            calls: 1,
            draw: &mut Entropy::seeded(1).draw(),
            unix_seconds: None,
        };
        RetryState::default().hedge(&Rules::new(policy, None), method, &mut world)
    };
    assert_eq!(ask(&hedged, &Method::POST), Verdict::GiveUp(Why::Unsafe));
    assert!(matches!(
        ask(&hedged, &Method::GET),
        Verdict::Again(Again { paid: true, .. })
    ));
    hedged.explicit = true;
    assert!(matches!(ask(&hedged, &Method::POST), Verdict::Again(_)));
    assert_eq!(budget.saved(), saved - 2);
}
