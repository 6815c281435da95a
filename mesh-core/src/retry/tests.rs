//! The table of ends and verdicts, and the pauses.

use super::*;
use crate::entropy::Entropy;

fn answered(status: u16, grpc: Option<u8>) -> TryEnd {
    TryEnd::Answered {
        status: StatusCode::from_u16(status).unwrap(),
        grpc,
    }
}

fn retries(policy: &RetryPolicy, method: &Method, end: TryEnd) -> bool {
    let verdict = RetryState::default().judge(policy, method, end, &Budget::default(), &mut Entropy::seeded(1).draw());
    verdict != Verdict::GiveUp
}

#[test]
fn the_default_policy_never_repeats_what_may_have_run() {
    let policy = RetryPolicy::default();
    for (method, end, expected) in [
        (Method::POST, TryEnd::ConnectFailed, true),
        (Method::POST, TryEnd::NotProcessed, true),
        (Method::POST, TryEnd::Reset, false),
        (Method::GET, TryEnd::Reset, false), // `reset` is not in the default list
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
    let policy = RetryPolicy {
        explicit: true,
        on: RetryOn::parse("5xx"),
        ..RetryPolicy::default()
    };
    for end in [
        TryEnd::ConnectFailed,
        TryEnd::Reset,
        TryEnd::PerTryTimeout,
        answered(500, None),
    ] {
        assert!(retries(&policy, &Method::POST, end), "{end:?}");
    }
    assert!(!retries(&policy, &Method::POST, answered(404, None)));
    let gateway = RetryPolicy {
        on: RetryOn::parse("gateway-error"),
        ..policy
    };
    assert!(retries(&gateway, &Method::GET, answered(503, None)));
    assert!(!retries(&gateway, &Method::GET, answered(500, None)));
}

#[test]
fn tries_are_bounded_and_the_transparent_one_happens_once() {
    let policy = RetryPolicy {
        retries: 0,
        ..RetryPolicy::default()
    };
    let (mut state, budget) = (RetryState::default(), Budget::default());
    let mut draw = Entropy::seeded(1).draw();
    let mut judge = |end| state.judge(&policy, &Method::POST, end, &budget, &mut draw);
    assert_eq!(judge(TryEnd::NotProcessed), Verdict::After(Duration::ZERO));
    assert_eq!(judge(TryEnd::NotProcessed), Verdict::GiveUp);
}

#[test]
fn pauses_are_uniform_below_a_doubling_bound() {
    let entropy = Entropy::seeded(3);
    for (retry, bound) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
        let pauses: Vec<Duration> = (0..2_000)
            .map(|_| pause(Backoff::DEFAULT, retry, &mut entropy.draw()))
            .collect();
        let bound = Duration::from_millis(bound);
        assert!(pauses.iter().all(|p| *p < bound), "{retry}");
        let mean = pauses.iter().sum::<Duration>() / 2_000;
        assert!(
            mean > bound.mul_f64(0.47) && mean < bound.mul_f64(0.53),
            "{retry}: {mean:?} of {bound:?}"
        );
    }
}
