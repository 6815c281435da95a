//! How long is waited before another try.

use super::*;
use crate::config::{Backoff, RateLimitedBackoff, ResetFormat, ResetHeader};

fn pause(verdict: Verdict) -> Option<Duration> {
    match verdict {
        Verdict::Again(again) => Some(again.pause),
        Verdict::GiveUp(_) => None,
    }
}

/// Kolmogorov and Smirnov's test against the uniform distribution below each bound.
#[test]
fn rs_7_pauses_are_uniform_below_a_doubling_bound() {
    const DRAWS: usize = 5_000;
    // Of one that is uniform, one in a thousand samples is as far off.
    let critical = 1.949 / (DRAWS as f64).sqrt();
    let entropy = Entropy::seeded(3);
    for (retry, bound) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
        let bound = Duration::from_millis(bound);
        let mut shares: Vec<f64> = (0..DRAWS)
            .map(|_| pause::jittered(Backoff::DEFAULT, retry, &mut entropy.draw()))
            .inspect(|pause| assert!(!pause.is_zero() && *pause < bound))
            .map(|pause| pause.as_secs_f64() / bound.as_secs_f64())
            .collect();
        shares.sort_by(f64::total_cmp);
        let distance = shares.iter().enumerate().map(|(index, share)| {
            let (below, above) = (index as f64 / DRAWS as f64, (index + 1) as f64 / DRAWS as f64);
            (share - below).abs().max((above - share).abs())
        });
        let distance = distance.fold(0.0, f64::max);
        assert!(distance < critical, "retry {retry}: {distance} of {critical}");
    }
}

#[test]
fn rs_5_pushback_is_honoured_exactly_and_a_negative_one_stops() {
    let policy = written("unavailable");
    let ms = Duration::from_millis;
    for (pushback, expected) in [
        ("0", Some(ms(0))),
        ("1500", Some(ms(1_500))),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("99999999999", None),
    ] {
        let answer = headers(&[("grpc-retry-pushback-ms", pushback)]);
        let verdict = verdict(&policy, &Method::POST, answered(200, Some(14)), &answer);
        assert_eq!(pause(verdict), expected, "{pushback:?}");
    }
}

#[test]
fn rs_5_a_pushback_begins_the_pauses_anew() {
    let policy = RetryPolicy {
        retries: 5,
        backoff: Backoff::new(Duration::from_secs(1), Some(Duration::from_secs(1_000))).unwrap(),
        ..written("unavailable")
    };
    let rules = Rules::new(&policy, None);
    let (mut state, budget) = (RetryState::default(), Budget::default());
    for _ in 0..100 {
        budget.deposit();
    }
    let end = answered(200, Some(14));
    let mut told = |answer| ask(&mut state, &rules, &Method::GET, end, &answer, &budget);
    for _ in 0..3 {
        pause(told(headers(&[]))).unwrap();
    }
    pause(told(headers(&[("grpc-retry-pushback-ms", "7")]))).unwrap();
    // Without the pushback it would be below 31 s.
    assert!(pause(told(headers(&[]))).unwrap() < Duration::from_secs(1));
}

#[test]
fn rs_5_answers_that_say_so_are_not_tried_again() {
    let policy = written("5xx,retriable-4xx");
    for (status, answer) in [
        (503, headers(&[("x-envoy-overloaded", "true")])),
        (503, headers(&[("x-envoy-ratelimited", "true")])),
        (503, DO_NOT_RETRY.into_iter().collect()),
    ] {
        let verdict = verdict(&policy, &Method::GET, answered(status, None), &answer);
        assert_eq!(verdict, Verdict::GiveUp(Why::Told), "{answer:?}");
    }
}

#[test]
fn rs_5_a_rate_limit_says_when_to_come_again() {
    let header = |name: &'static str, format| ResetHeader {
        name: HeaderName::from_static(name),
        format,
    };
    let policy = RetryPolicy {
        statuses: [429].into(),
        rate_limited: Some(RateLimitedBackoff {
            headers: [
                header("retry-after", ResetFormat::Seconds),
                header("x-ratelimit-reset", ResetFormat::UnixTimestamp),
            ]
            .into(),
            max: Duration::from_secs(300),
        }),
        ..written("retriable-status-codes")
    };
    let seconds = |answer: &[(&'static str, &'static str)]| {
        let verdict = verdict(&policy, &Method::GET, answered(429, None), &headers(answer));
        pause(verdict).unwrap().as_secs_f64()
    };
    let least = |answer, least: f64| {
        let found = seconds(answer);
        assert!((least..least * 1.5).contains(&found), "{answer:?}: {found}");
    };
    least(&[("retry-after", "4")], 4.0);
    // The clock stands at 1,000.
    least(&[("x-ratelimit-reset", "1010")], 10.0);
    least(&[("retry-after", "4"), ("x-ratelimit-reset", "1010")], 4.0);
    least(&[("retry-after", "400"), ("x-ratelimit-reset", "1010")], 10.0);
    for nothing in [
        &[("retry-after", "301")][..],
        &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")],
        &[("x-ratelimit-reset", "999")],
        &[],
    ] {
        assert!(seconds(nothing) < 0.025, "{nothing:?}");
    }
}
