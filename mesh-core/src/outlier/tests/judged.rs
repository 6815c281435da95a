//! Hosts compared with one another, and with what may be.

use super::*;

#[test]
fn hosts_below_the_mean_by_so_many_deviations_go() {
    // Successes of 100 by host; the volume, hosts and factor asked for; who goes. Of five hosts one can be at most two
    // deviations below the mean.
    type Case = (&'static [usize], u32, u32, u32, &'static [usize]);
    let cases: [Case; 7] = [
        (&[100, 100, 100, 100, 0], 100, 5, 1_900, &[4]),
        (&[100, 100, 100, 100, 0], 101, 5, 1_900, &[]),
        (&[100, 100, 100, 100, 0], 100, 6, 1_900, &[]),
        (&[100, 100, 100, 100, 0], 100, 5, 2_001, &[]),
        (&[50, 50, 50, 50, 50], 100, 5, 0, &[]),
        // Mean 80, deviation 12.65: below 58.5 is none, below 67.4 is one.
        (&[60, 80, 80, 100, 80], 1, 1, 1_700, &[]),
        (&[60, 80, 80, 100, 80], 1, 1, 1_000, &[0]),
    ];
    for (successes, volume, hosts, factor, expected) in cases {
        let mut config = envoy();
        config.consecutive_5xx.count = 0;
        config.success_rate.request_volume = volume;
        config.success_rate.minimum_hosts = hosts;
        config.success_rate.stdev_factor = factor;
        let mut cluster = Cluster::new(successes.len(), config);
        for (n, successes) in successes.iter().enumerate() {
            cluster.fill(n, *successes, 100 - successes);
        }
        let changes = cluster.after(INTERVAL);
        let expected: Vec<_> = expected.iter().map(|n| (address(*n), Cause::SuccessRate)).collect();
        assert_eq!(causes(&changes), expected, "{successes:?} {volume} {hosts} {factor}");
        // An interval's figures are its own.
        assert_eq!(causes(&cluster.after(INTERVAL)), []);
    }
}

#[test]
fn hosts_that_fail_too_often_go_and_the_threshold_itself_is_enough_for_envoy_alone() {
    for (rules, at_threshold) in [(OutlierRules::Grpc, false), (OutlierRules::Envoy, true)] {
        let mut config = OutlierDetection {
            max_ejection_percent: Percent::ALL,
            ..OutlierDetection::new(rules)
        };
        config.consecutive_5xx.count = 0;
        config.success_rate.enforcing = Percent::ZERO;
        config.failure_percentage.enforcing = Percent::ALL;
        let mut cluster = Cluster::new(5, config);
        for (n, failures) in [50, 43, 42, 0, 0].into_iter().enumerate() {
            // 85 % of 50 are 42.5.
            cluster.fill(n, 50 - failures, failures);
        }
        let changes = cluster.after(INTERVAL);
        let share = Cause::FailurePercentage;
        assert_eq!(
            causes(&changes),
            [(address(0), share), (address(1), share)],
            "{rules:?}"
        );
        cluster.config.failure_percentage.threshold = percent(50);
        for n in 2..5 {
            cluster.fill(n, 25, 25);
        }
        cluster.config.failure_percentage.minimum_hosts = 3;
        assert_eq!(
            causes(&cluster.after(INTERVAL)).len(),
            if at_threshold { 3 } else { 0 },
            "{rules:?}"
        );
    }
}

#[test]
fn the_worst_go_first_where_not_all_may() {
    let mut config = envoy();
    config.max_ejection_percent = percent(40);
    config.consecutive_5xx.count = 0;
    config.success_rate.enforcing = Percent::ZERO;
    config.failure_percentage.enforcing = Percent::ALL;
    let mut cluster = Cluster::new(5, config);
    for (n, failures) in [90, 100, 95, 88, 0].into_iter().enumerate() {
        cluster.fill(n, 100 - failures, failures);
    }
    let changes = cluster.after(INTERVAL);
    assert_eq!(cluster.out(), [address(1), address(2)]);
    let over: Vec<_> = changes
        .iter()
        .filter(|change| change.event == Event::OverLimit)
        .collect();
    assert_eq!(
        over.iter().map(|change| change.address).collect::<Vec<_>>(),
        [address(0), address(3)]
    );
}
