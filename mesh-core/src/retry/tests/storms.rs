//! What retries do to a destination that fails, at any rate, on virtual time.

use super::*;

/// Attempts per call over `seconds` of total failure at `rate` calls a second, of which those of the first `skip` seconds do
/// not count, with up to three retries.
fn amplification(budget: &Budget, rate: u32, seconds: u32, skip: u32) -> f64 {
    let policy = RetryPolicy {
        retries: 3,
        ..written("5xx")
    };
    let rules = Rules::new(&policy, None);
    let (mut calls, mut attempts) = (0u32, 0u32);
    for second in 0..seconds {
        for _ in 0..rate {
            let counts = u32::from(second >= skip);
            let mut state = RetryState::default();
            budget.deposit();
            calls += counts;
            loop {
                attempts += counts;
                budget.failed();
                let end = answered(503, None);
                match ask(&mut state, &rules, &Method::GET, end, &HeaderMap::new(), budget) {
                    Verdict::Again(again) if again.placed => budget.end_retry(RoutingPriority::Default),
                    Verdict::Again(_) => {}
                    Verdict::GiveUp(_) => break,
                }
            }
        }
    }
    f64::from(attempts) / f64::from(calls)
}

#[test]
fn rs_1_total_failure_is_not_amplified_at_any_rate() {
    for (rate, bound) in [(1, 1.1), (5, 1.02), (50, 1.01), (500, 1.001), (5_000, 1.001)] {
        let whole = amplification(&Budget::default(), rate, 60, 0);
        assert!(whole <= bound, "{rate} calls a second: {whole}");
        // The documented bound, and the one of the fault table.
        let calls = f64::from(rate * 60);
        assert!(whole * calls <= calls * (1.0 + SHARE) + f64::from(MAX_SAVED));
        let later = amplification(&Budget::default(), rate, 60, 10);
        assert!(later <= if rate >= 500 { 1.2 } else { 1.5 }, "{rate}: {later}");
    }
}

#[test]
fn rs_1_a_fleet_of_slow_callers_does_not_storm() {
    let fleet = (0..200).map(|_| amplification(&Budget::default(), 5, 60, 0));
    let mean = fleet.sum::<f64>() / 200.0;
    assert!(mean <= 1.25, "{mean}");
}

/// An outage in which one call of ten still succeeds keeps gRPC's gate half open; the share holds then.
#[test]
fn rs_1_partial_failure_stays_within_the_share() {
    let budget = Budget::default();
    let (mut calls, mut retries) = (0u32, 0u32);
    for call in 0..100_000 {
        budget.deposit();
        calls += 1;
        if call % 5 == 0 {
            budget.failed();
            retries += u32::from(budget.withdraw());
        }
        for _ in 0..20 {
            budget.succeeded();
        }
    }
    assert!(f64::from(retries) <= f64::from(calls) * SHARE + f64::from(MAX_SAVED));
    assert!(
        f64::from(retries) >= f64::from(calls) * SHARE * 0.95,
        "{retries} of {calls}"
    );
}
