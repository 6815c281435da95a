//! The bound of ejections, and what must hold beside it, for every sequence of what can happen.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::tests::address;
use super::*;
use crate::config::{Consecutive, OutlierDetection, OutlierRules, Percent};
use crate::entropy::Entropy;

#[derive(Clone, Debug)]
enum Step {
    /// So many tries of a host, that end so.
    See(usize, Observation, usize),
    /// An interval ends, after so many milliseconds.
    Sweep(u64),
    /// The cluster has these hosts now.
    Have(Vec<usize>),
    /// Another percentage, and whether one may go always.
    Limit(u32, bool),
    /// Whether origins are counted apart.
    Split(bool),
}

const HOSTS: usize = 24;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let observation = prop::sample::select(vec![
        Observation::Success,
        Observation::ServerError,
        Observation::ServerError,
        Observation::GatewayFailure,
        Observation::LocalOriginFailure,
    ]);
    let step = prop_oneof![
        8 => (0..HOSTS, observation, 1usize..12).prop_map(|(host, what, times)| Step::See(host, what, times)),
        2 => (0u64..20_000).prop_map(Step::Sweep),
        1 => prop::collection::vec(0..HOSTS, 0..HOSTS).prop_map(Step::Have),
        1 => (0u32..=100, any::<bool>()).prop_map(|(percent, always)| Step::Limit(percent, always)),
        1 => any::<bool>().prop_map(Step::Split),
    ];
    prop::collection::vec(step, 1..120)
}

#[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn moment() -> Instant {
    Instant::now()
}

/// A configuration by which every algorithm has something to do.
fn config(rules: OutlierRules, percent: u32) -> OutlierDetection {
    let mut config = OutlierDetection {
        max_ejection_percent: Percent::new(percent).unwrap(),
        max_ejection_time_jitter: Duration::from_secs(1),
        base_ejection_time: Duration::from_secs(5),
        consecutive_5xx: Consecutive::enforced(3, Percent::ALL),
        consecutive_gateway_failure: Consecutive::enforced(2, Percent::new(50).unwrap()),
        consecutive_local_origin_failure: Consecutive::enforced(2, Percent::ALL),
        ..OutlierDetection::new(rules)
    };
    config.success_rate.request_volume = 3;
    config.success_rate.minimum_hosts = 2;
    config.success_rate.stdev_factor = 500;
    config.failure_percentage.request_volume = 3;
    config.failure_percentage.minimum_hosts = 1;
    config.failure_percentage.enforcing = Percent::ALL;
    config
}

/// What a reader of changes believes, against what monitors and counts say.
struct Believed {
    out: HashMap<SocketAddr, Cause>,
}

impl Believed {
    fn hear(&mut self, changes: &[Change]) {
        for change in changes {
            match change.event {
                Event::Ejected(_) => assert_eq!(self.out.insert(change.address, change.cause), None),
                Event::Returned => {
                    let _ = self.out.remove(&change.address);
                }
                Event::NotEnforced | Event::OverLimit => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn never_more_are_out_than_may_be(steps in steps(), by_grpc in any::<bool>(), percent in 0u32..=100, seed in any::<u64>()) {
        let rules = if by_grpc { OutlierRules::Grpc } else { OutlierRules::Envoy };
        let (mut config, entropy) = (config(rules, percent), Entropy::seeded(seed));
        let (mut detector, mut now) = (OutlierDetector::default(), moment());
        let mut members: Vec<usize> = (0..HOSTS / 2).collect();
        let mut believed = Believed { out: HashMap::new() };
        // Monitors live with the hosts and outlast their place in the cluster, as those of calls in flight do.
        let monitors: Vec<Arc<Monitor>> = (0..HOSTS).map(|_| Arc::default()).collect();
        let reconcile = |detector: &mut OutlierDetector, config: &OutlierDetection, members: &[usize], now| {
            let hosts = members.iter().map(|n| (address(*n), Some(Arc::clone(&monitors[*n]))));
            detector.reconcile(Some(config), hosts, now)
        };
        believed.hear(&reconcile(&mut detector, &config, &members, now));
        for step in steps {
            let mut draw = entropy.draw();
            match step {
                Step::See(host, what, times) => for _ in 0..times {
                    if monitors[host].observe(what, &config) {
                        believed.hear(&detector.suspect(&config, address(host), now, &mut draw));
                    }
                },
                Step::Sweep(millis) => {
                    now += Duration::from_millis(millis);
                    believed.hear(&detector.sweep(&config, now, &mut draw));
                    // Nobody whose time is over is kept.
                    prop_assert!(detector.ejections().all(|ejection| ejection.until > now));
                }
                Step::Have(next) => {
                    members = next;
                    believed.hear(&reconcile(&mut detector, &config, &members, now));
                }
                Step::Limit(percent, always) => {
                    config.max_ejection_percent = Percent::new(percent).unwrap();
                    config.always_eject_one_host = always;
                    believed.hear(&reconcile(&mut detector, &config, &members, now));
                }
                Step::Split(apart) => {
                    config.split_external_local_origin_errors = apart;
                    believed.hear(&reconcile(&mut detector, &config, &members, now));
                }
            }
            members.sort_unstable();
            members.dedup();
            let hosts = members.len();
            // By the text of each rule, and not by the function under test.
            let by_rule = match rules {
                OutlierRules::Grpc => (config.max_ejection_percent.get() as usize * hosts).div_ceil(100),
                OutlierRules::Envoy => config.max_ejection_percent.get() as usize * hosts / 100,
            };
            let most = by_rule.max(usize::from(config.always_eject_one_host && hosts > 0));
            prop_assert!(detector.ejected() <= most, "{} of {hosts} at {:?}", detector.ejected(), config.max_ejection_percent);
            let out: Vec<SocketAddr> = detector.ejections().map(|ejection| ejection.address).collect();
            prop_assert_eq!(out.len(), detector.ejected());
            for n in &members {
                // What a pick looks at is what the detector means, and what its changes told.
                prop_assert_eq!(monitors[*n].is_ejected(), out.contains(&address(*n)), "host {}", n);
            }
            for ejection in detector.ejections() {
                prop_assert_eq!(believed.out.get(&ejection.address), Some(&ejection.cause));
            }
        }
        let changes = detector.reconcile(None, [], now);
        believed.hear(&changes);
        prop_assert!(members.iter().all(|n| !monitors[*n].is_ejected()));
    }
}
