//! Tables: what counts as what, and failures in a row.

mod judged;
mod memory;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::*;
use crate::config::{Consecutive, OutlierDetection, OutlierRules, Percent};
use crate::entropy::{Draw, Entropy};

#[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn moment() -> Instant {
    Instant::now()
}

fn draw() -> Draw {
    Entropy::seeded(7).draw()
}

pub(super) fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80))
}

fn percent(value: u32) -> Percent {
    Percent::new(value).unwrap()
}

/// Everything may go, by Envoy's rules.
fn envoy() -> OutlierDetection {
    OutlierDetection {
        max_ejection_percent: Percent::ALL,
        ..OutlierDetection::new(OutlierRules::Envoy)
    }
}

/// A detector of `count` hosts.
struct Cluster {
    detector: OutlierDetector,
    config: OutlierDetection,
    now: Instant,
    draw: Draw,
}

impl Cluster {
    fn new(count: usize, config: OutlierDetection) -> Self {
        let mut cluster = Self {
            detector: OutlierDetector::default(),
            config,
            now: moment(),
            draw: draw(),
        };
        assert_eq!(cluster.has(0..count), []);
        cluster
    }

    fn has(&mut self, hosts: impl IntoIterator<Item = usize>) -> Vec<Change> {
        let hosts = hosts.into_iter().map(|n| (address(n), None));
        self.detector.reconcile(Some(&self.config), hosts, self.now)
    }

    fn monitor(&self, n: usize) -> &Arc<Monitor> {
        self.detector.monitor(address(n)).unwrap()
    }

    /// What a data plane does with each try.
    fn see(&mut self, n: usize, observation: Observation) -> Vec<Change> {
        match self.monitor(n).observe(observation, &self.config) {
            true => self
                .detector
                .suspect(&self.config, address(n), self.now, &mut self.draw),
            false => Vec::new(),
        }
    }

    fn fill(&self, n: usize, successes: usize, failures: usize) {
        let monitor = self.monitor(n);
        for _ in 0..failures {
            let _ = monitor.observe(Observation::ServerError, &self.config);
        }
        for _ in 0..successes {
            monitor.succeeded();
        }
    }

    fn after(&mut self, time: Duration) -> Vec<Change> {
        self.now += time;
        self.detector.sweep(&self.config, self.now, &mut self.draw)
    }

    fn out(&self) -> Vec<SocketAddr> {
        let mut out: Vec<_> = self.detector.ejections().map(|ejection| ejection.address).collect();
        out.sort_unstable();
        assert_eq!(out.len(), self.detector.ejected());
        out
    }
}

const INTERVAL: Duration = Duration::from_secs(10);

fn causes(changes: &[Change]) -> Vec<(SocketAddr, Cause)> {
    let ejected = |change: &&Change| matches!(change.event, Event::Ejected(_));
    changes
        .iter()
        .filter(ejected)
        .map(|change| (change.address, change.cause))
        .collect()
}

#[test]
fn what_an_answer_tells() {
    use Observation::{GatewayFailure, ServerError, Success};
    for (status, grpc, expected) in [
        (200, None, Success),
        (404, None, Success),
        (429, None, Success),
        (499, None, Success),
        (500, None, ServerError),
        (501, None, ServerError),
        (502, None, GatewayFailure),
        (503, None, GatewayFailure),
        (504, None, GatewayFailure),
        (505, None, ServerError),
        (599, None, ServerError),
        // gRPC's word counts where there is one.
        (503, Some(0), Success),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(Observation::of_answer(status, grpc), expected, "{status} {grpc:?}");
    }
    let expected = |code| match code {
        4 | 14 => GatewayFailure,
        2 | 12 | 13 | 15 | 17.. => ServerError,
        _ => Success,
    };
    for code in 0..=20 {
        assert_eq!(
            Observation::of_answer(StatusCode::OK, Some(code)),
            expected(code),
            "{code}"
        );
    }
}

#[test]
fn failures_in_a_row_eject_at_once_and_a_success_between_them_does_not() {
    use Observation::{GatewayFailure, LocalOriginFailure, ServerError, Success};
    let mut config = envoy();
    config.consecutive_gateway_failure = Consecutive::enforced(3, Percent::ALL);
    // What is seen, and what the last of it ejects for.
    let cases: [(&[Observation], Option<Cause>); 8] = [
        (&[ServerError; 4], None),
        (&[ServerError; 5], Some(Cause::Consecutive5xx)),
        (&[GatewayFailure; 2], None),
        (&[GatewayFailure; 3], Some(Cause::ConsecutiveGatewayFailure)),
        // Without a split what was not answered is a gateway failure.
        (&[LocalOriginFailure; 3], Some(Cause::ConsecutiveGatewayFailure)),
        (
            &[ServerError, ServerError, ServerError, ServerError, Success, ServerError],
            None,
        ),
        // Another 5xx ends a row of gateway failures and goes on with that of 5xx.
        (&[GatewayFailure, GatewayFailure, ServerError, GatewayFailure], None),
        (
            &[
                GatewayFailure,
                GatewayFailure,
                ServerError,
                GatewayFailure,
                GatewayFailure,
            ],
            Some(Cause::Consecutive5xx),
        ),
    ];
    for (seen, expected) in cases {
        let mut cluster = Cluster::new(2, config.clone());
        let mut changes = Vec::new();
        for (place, observation) in seen.iter().enumerate() {
            changes = cluster.see(0, *observation);
            assert!(changes.is_empty() || place + 1 == seen.len(), "{seen:?} at {place}");
        }
        assert_eq!(causes(&changes).first().map(|(_, cause)| *cause), expected, "{seen:?}");
        assert_eq!(cluster.monitor(0).is_ejected(), expected.is_some());
        assert!(!cluster.monitor(1).is_ejected());
    }
}

#[test]
fn with_origins_apart_only_the_own_count_is_moved() {
    let mut config = envoy();
    config.split_external_local_origin_errors = true;
    let mut cluster = Cluster::new(2, config);
    for _ in 0..4 {
        assert_eq!(cluster.see(0, Observation::LocalOriginFailure), []);
        assert_eq!(cluster.see(1, Observation::GatewayFailure), []);
    }
    // Any answer is a local success; no answer says nothing of the answers.
    assert_eq!(cluster.see(0, Observation::Success), []);
    assert_eq!(cluster.see(1, Observation::LocalOriginFailure), []);
    let changes = cluster.see(1, Observation::GatewayFailure);
    assert_eq!(causes(&changes), [(address(1), Cause::Consecutive5xx)]);
    for _ in 0..4 {
        assert_eq!(cluster.see(0, Observation::LocalOriginFailure), []);
    }
    let changes = cluster.see(0, Observation::LocalOriginFailure);
    assert_eq!(causes(&changes), [(address(0), Cause::ConsecutiveLocalOriginFailure)]);
}

#[test]
fn what_is_not_enforced_is_told_and_counted_anew() {
    let mut config = envoy();
    config.consecutive_5xx.enforcing = Percent::ZERO;
    let mut cluster = Cluster::new(2, config);
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(cluster.see(0, Observation::ServerError), []);
        }
        let [change] = cluster.see(0, Observation::ServerError)[..] else {
            panic!("one word of it")
        };
        assert_eq!(
            (change.cause, change.event),
            (Cause::Consecutive5xx, Event::NotEnforced)
        );
    }
    assert_eq!(cluster.out(), []);
    // Half of them go at 50 %: 2,000 draws, five standard deviations are 112.
    cluster.config.consecutive_5xx = Consecutive::enforced(1, percent(50));
    cluster.config.base_ejection_time = Duration::ZERO;
    let entropy = Entropy::seeded(3);
    let mut ejected = 0;
    for _ in 0..2_000 {
        cluster.draw = entropy.draw();
        ejected += causes(&cluster.see(0, Observation::ServerError)).len();
        cluster.after(INTERVAL);
    }
    assert!((888..=1_112).contains(&ejected), "{ejected}");
}
