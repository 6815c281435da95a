//! When a host is taken out of a cluster for how it behaves, as configured (Envoy `OutlierDetection`, gRFC A50, Istio
//! `outlierDetection`). [`crate::outlier`] decides by it.
//!
//! Envoy and gRPC read the same message and differ in three things, which [`OutlierRules`] names. Everything else is honoured
//! by whoever it was written: Istio's users expect the consecutive errors, which gRPC's other clients pass over.

use std::time::Duration;

/// A share in whole percent, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    /// None of it.
    pub const ZERO: Self = Self(0);
    /// All of it.
    pub const ALL: Self = Self(100);

    /// The share; `None` when it is more than the whole.
    pub const fn new(percent: u32) -> Option<Self> {
        if percent > 100 { None } else { Some(Self(percent as u8)) }
    }

    /// The number, 0 to 100.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }
}

/// By whose rules what both know is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutlierRules {
    /// gRFC A50. A host may be ejected while less than `max_ejection_percent` are, so one of three goes even at 10 %. A host
    /// fails too often when *more* than the threshold fails. Consecutive errors count only where they were asked for.
    Grpc,
    /// Envoy. A host may be ejected when no more than `max_ejection_percent` are *then*, so none of three goes at 10 % unless
    /// `always_eject_one_host`. A host fails too often when the threshold is reached. Five errors in a row count unless that
    /// was switched off.
    Envoy,
}

/// When a host is ejected, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutlierDetection {
    /// By whose rules.
    pub rules: OutlierRules,
    /// How often hosts are judged by what they did since the last time, and let back in.
    pub interval: Duration,
    /// How long the first ejection lasts; the second lasts twice as long, and so on.
    pub base_ejection_time: Duration,
    /// What no ejection is longer than, but for the jitter; at least `base_ejection_time`.
    pub max_ejection_time: Duration,
    /// The most that is added to an ejection, at random, so that not all clients come back at once.
    pub max_ejection_time_jitter: Duration,
    /// The most of a cluster's hosts that are ejected at once; see [`OutlierRules`] for how it is rounded.
    pub max_ejection_percent: Percent,
    /// Whether one host may be ejected whatever the percentage says.
    pub always_eject_one_host: bool,
    /// Whether failures that this side saw (no connection, no answer) are counted apart from answers that say so.
    pub split_external_local_origin_errors: bool,
    /// Answers of 5xx in a row.
    pub consecutive_5xx: Consecutive,
    /// Answers of 502, 503 and 504 in a row.
    pub consecutive_gateway_failure: Consecutive,
    /// Failures that this side saw, in a row; only where they are counted apart.
    pub consecutive_local_origin_failure: Consecutive,
    /// Hosts that succeed less often than the others.
    pub success_rate: SuccessRate,
    /// Hosts that fail too often, whatever the others do.
    pub failure_percentage: FailurePercentage,
}

/// So many failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Consecutive {
    /// How many; 0: never.
    pub count: u32,
    /// The chance that a host is ejected then.
    pub enforcing: Percent,
}

/// The success rate of a host against those of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SuccessRate {
    /// How many hosts must have had enough requests for any to be judged.
    pub minimum_hosts: u32,
    /// How many requests in an interval are enough.
    pub request_volume: u32,
    /// How many thousandths of a standard deviation below the mean are too few successes.
    pub stdev_factor: u32,
    /// The chance that a host is ejected then.
    pub enforcing: Percent,
    /// The same, of failures that this side saw; only where they are counted apart.
    pub enforcing_local_origin: Percent,
}

/// The failures of a host by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FailurePercentage {
    /// How many failures of a hundred are too many; see [`OutlierRules`] for whether this many are.
    pub threshold: Percent,
    /// How many hosts must have had enough requests for any to be judged.
    pub minimum_hosts: u32,
    /// How many requests in an interval are enough.
    pub request_volume: u32,
    /// The chance that a host is ejected then.
    pub enforcing: Percent,
    /// The same, of failures that this side saw; only where they are counted apart.
    pub enforcing_local_origin: Percent,
}

impl OutlierDetection {
    /// The longest ejection where nothing is said and the first one is shorter (Envoy, gRFC A50).
    pub const DEFAULT_MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
    /// The shortest interval: hosts of a cluster are gone through once in it.
    pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
    /// Failures in a row where nothing is said and they count (Envoy).
    pub const DEFAULT_CONSECUTIVE: u32 = 5;

    /// What the empty message means by these rules.
    pub const fn new(rules: OutlierRules) -> Self {
        let in_a_row = match rules {
            OutlierRules::Grpc => 0,
            OutlierRules::Envoy => Self::DEFAULT_CONSECUTIVE,
        };
        Self {
            rules,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Self::DEFAULT_MAX_EJECTION_TIME,
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: Percent(10),
            always_eject_one_host: false,
            split_external_local_origin_errors: false,
            consecutive_5xx: Consecutive::enforced(in_a_row, Percent::ALL),
            consecutive_gateway_failure: Consecutive::enforced(in_a_row, Percent::ZERO),
            consecutive_local_origin_failure: Consecutive::enforced(in_a_row, Percent::ALL),
            success_rate: SuccessRate {
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1900,
                enforcing: Percent::ALL,
                enforcing_local_origin: Percent::ALL,
            },
            failure_percentage: FailurePercentage {
                threshold: Percent(85),
                minimum_hosts: 5,
                request_volume: 50,
                enforcing: Percent::ZERO,
                enforcing_local_origin: Percent::ZERO,
            },
        }
    }

    /// The most hosts of `hosts` that may be ejected at once.
    ///
    /// By gRFC A50's rule the share is asked before a host goes, so the bound is rounded up; by Envoy's it is asked of what
    /// would be, so it is rounded down.
    pub fn max_ejected(&self, hosts: usize) -> usize {
        let hundredths = hosts.saturating_mul(self.max_ejection_percent.get() as usize);
        let most = match self.rules {
            OutlierRules::Grpc => hundredths.div_ceil(100),
            OutlierRules::Envoy => hundredths / 100,
        };
        most.max(usize::from(self.always_eject_one_host)).min(hosts)
    }
}

impl Consecutive {
    /// So many, with this chance of an ejection.
    pub const fn enforced(count: u32, enforcing: Percent) -> Self {
        Self { count, enforcing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_may_go_is_rounded_up_for_grpc_and_down_for_envoy() {
        // Hosts, percent, by gRFC A50, by Envoy, by Envoy with always_eject_one_host.
        let cases = [
            (0, 100, [0, 0, 0]),
            (3, 0, [0, 0, 1]),
            (3, 10, [1, 0, 1]),
            (9, 10, [1, 0, 1]),
            (10, 10, [1, 1, 1]),
            (11, 10, [2, 1, 1]),
            (3, 34, [2, 1, 1]),
            (3, 50, [2, 1, 1]),
            (5, 50, [3, 2, 2]),
            (5, 100, [5, 5, 5]),
        ];
        for (hosts, percent, expected) in cases {
            let of = |rules, always_eject_one_host| {
                let config = OutlierDetection {
                    max_ejection_percent: Percent::new(percent).unwrap(),
                    always_eject_one_host,
                    ..OutlierDetection::new(rules)
                };
                config.max_ejected(hosts)
            };
            let found = [
                of(OutlierRules::Grpc, false),
                of(OutlierRules::Envoy, false),
                of(OutlierRules::Envoy, true),
            ];
            assert_eq!(found, expected, "{hosts} hosts, {percent} %");
        }
    }

    #[test]
    fn a_percentage_is_at_most_a_hundred() {
        assert_eq!(Percent::new(100), Some(Percent::ALL));
        assert_eq!(Percent::new(101), None);
        assert_eq!(Percent::new(u32::MAX), None);
    }
}
