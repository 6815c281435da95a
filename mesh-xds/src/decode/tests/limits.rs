//! Circuit breakers and outlier detection: what is said, what is not, by whose rules; and that either survives the wire.

use std::time::Duration;

use mesh_core::config::{
    CircuitBreakers, Cluster, Consecutive, FailurePercentage, OutlierDetection, OutlierRules, Percent, RetryBudget,
    RetryLimits, SuccessRate, Thresholds, TlsMode,
};
use proptest::prelude::*;

use super::*;
use crate::encode::{self, Dialect, EGRESS_ADDRESS};
use crate::proto::cluster::{
    CircuitBreakers as BreakersProto, Cluster as Proto, OutlierDetection as OutlierProto,
    circuit_breakers::Thresholds as ThresholdsProto,
};
use crate::proto::protobuf::{BoolValue, Duration as DurationProto, UInt32Value};
use crate::resource::ClusterSpec;

fn base() -> Proto {
    let cluster = Cluster::new("c", TlsMode::Plaintext, Vec::new());
    Proto::decode(&*encode::cluster(&cluster, Dialect::Mesh)).unwrap()
}

fn read_as(context: &Context, change: impl FnOnce(&mut Proto)) -> Cluster {
    let mut proto = base();
    change(&mut proto);
    let decoded = decode::<ClusterSpec>(&raw(&proto), context).unwrap();
    decoded.value.unwrap().cluster
}

fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn time(millis: i32) -> Option<DurationProto> {
    Some(DurationProto {
        seconds: i64::from(millis / 1_000),
        nanos: millis % 1_000 * 1_000_000,
    })
}

#[test]
fn an_empty_message_means_what_its_documentation_says() {
    let detection = |context: &Context| {
        let cluster = read_as(context, |proto| proto.outlier_detection = Some(OutlierProto::default()));
        cluster.outlier.unwrap()
    };
    let (grpc, envoys) = (detection(&context()), detection(&envoy()));
    assert_eq!(grpc, OutlierDetection::new(OutlierRules::Grpc));
    assert_eq!(envoys, OutlierDetection::new(OutlierRules::Envoy));
    let common = |one: &OutlierDetection| {
        assert_eq!(one.interval, Duration::from_secs(10));
        assert_eq!(one.base_ejection_time, Duration::from_secs(30));
        assert_eq!(one.max_ejection_time, Duration::from_secs(300));
        assert_eq!((one.max_ejection_percent.get(), one.always_eject_one_host), (10, false));
        let rate = one.success_rate;
        assert_eq!(
            (rate.minimum_hosts, rate.request_volume, rate.stdev_factor),
            (5, 100, 1900)
        );
        assert_eq!(rate.enforcing, Percent::ALL);
        let share = one.failure_percentage;
        assert_eq!(
            (share.threshold.get(), share.minimum_hosts, share.request_volume),
            (85, 5, 50)
        );
        assert_eq!(share.enforcing, Percent::ZERO);
    };
    common(&grpc);
    common(&envoys);
    assert_eq!((grpc.consecutive_5xx.count, envoys.consecutive_5xx.count), (0, 5));
    assert_eq!(envoys.consecutive_5xx.enforcing, Percent::ALL);
    assert_eq!(
        (
            envoys.consecutive_gateway_failure.count,
            envoys.consecutive_gateway_failure.enforcing
        ),
        (5, Percent::ZERO)
    );
    assert!(read_as(&envoy(), |_| {}).outlier.is_none());
}

#[test]
fn what_istiod_writes_is_honoured_in_either_profile() {
    // A DestinationRule with consecutive5xxErrors 7, consecutiveGatewayErrors 3, interval 1s, and the split of origins.
    let istio = OutlierProto {
        consecutive_5xx: uint(7),
        enforcing_consecutive_5xx: uint(100),
        consecutive_gateway_failure: uint(3),
        enforcing_consecutive_gateway_failure: uint(100),
        interval: time(1_000),
        base_ejection_time: time(180_000),
        max_ejection_percent: uint(100),
        enforcing_success_rate: uint(0),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: uint(4),
        enforcing_consecutive_local_origin_failure: uint(100),
        enforcing_local_origin_success_rate: uint(0),
        ..Default::default()
    };
    for context in [context(), envoy()] {
        let found = read_as(&context, |proto| proto.outlier_detection = Some(istio.clone()))
            .outlier
            .unwrap();
        let counts = [
            found.consecutive_5xx,
            found.consecutive_gateway_failure,
            found.consecutive_local_origin_failure,
        ];
        assert_eq!(
            counts.map(|one| (one.count, one.enforcing.get())),
            [(7, 100), (3, 100), (4, 100)]
        );
        assert!(found.split_external_local_origin_errors);
        assert_eq!(found.success_rate.enforcing, Percent::ZERO);
        assert_eq!(found.max_ejection_time, Duration::from_secs(300));
    }
}

#[test]
fn the_profiles_differ_about_times_of_nothing_and_times_that_contradict() {
    let times = |context: &Context, interval, base, max| {
        let outlier = OutlierProto {
            interval: time(interval),
            base_ejection_time: time(base),
            max_ejection_time: max,
            ..Default::default()
        };
        let mut proto = base_with(outlier);
        proto.name = "c".into();
        decode::<ClusterSpec>(&raw(&proto), context).unwrap().value.map(|spec| {
            let found = spec.cluster.outlier.unwrap();
            (found.interval.as_millis(), found.max_ejection_time.as_millis())
        })
    };
    assert_eq!(times(&context(), 0, 0, time(0)).unwrap(), (10, 0));
    assert_eq!(times(&context(), 50, 400_000, None).unwrap(), (50, 400_000));
    assert_eq!(times(&context(), 50, 100, time(7)).unwrap(), (50, 100));
    assert_eq!(times(&envoy(), 50, 400_000, None).unwrap(), (50, 400_000));
    for (interval, base, max, field) in [
        (0, 100, None, "interval"),
        (50, 0, None, "base_ejection_time"),
        (50, 100, time(99), "max_ejection_time"),
    ] {
        let refused = times(&envoy(), interval, base, max).unwrap_err();
        assert_eq!(refused.field(), format!("outlier_detection.{field}"));
    }
}

fn base_with(outlier: OutlierProto) -> Proto {
    Proto {
        outlier_detection: Some(outlier),
        ..base()
    }
}

#[test]
fn limits_that_are_not_said_follow_whose_rules_they_are() {
    let of =
        |context: &Context, proto: Option<BreakersProto>| read_as(context, |c| c.circuit_breakers = proto).breakers;
    assert_eq!(of(&context(), None), CircuitBreakers::same(Thresholds::GRPC));
    assert_eq!(of(&envoy(), None), CircuitBreakers::same(Thresholds::ENVOY));
    let of_default = |max_requests| ThresholdsProto {
        max_requests: uint(max_requests),
        ..Default::default()
    };
    let high = ThresholdsProto {
        priority: 1,
        max_connections: uint(2),
        max_pending_requests: uint(3),
        max_retries: uint(5),
        track_remaining: true,
        ..Default::default()
    };
    // Of two for one priority the first counts; per host only connections are limited.
    let said = BreakersProto {
        thresholds: vec![high, of_default(9), of_default(7)],
        per_host_thresholds: vec![ThresholdsProto {
            max_connections: uint(1),
            ..Default::default()
        }],
    };
    let grpc = of(&context(), Some(said.clone()));
    assert_eq!(
        grpc.default,
        Thresholds {
            max_requests: 9,
            max_connections_per_host: Some(1),
            ..Thresholds::GRPC
        }
    );
    assert_eq!(
        of(&envoy(), Some(said)).high,
        Thresholds {
            max_connections: 2,
            max_pending_requests: 3,
            retries: RetryLimits {
                max: Some(5),
                ..RetryLimits::NONE
            },
            track_remaining: true,
            ..Thresholds::ENVOY
        }
    );
}

pub(super) fn breakers() -> impl Strategy<Value = CircuitBreakers> {
    let one = || {
        let limits = (any::<u32>(), any::<u32>(), any::<u32>());
        let rest = (prop::option::of(any::<u32>()), any::<bool>());
        (limits, retry_limits(), rest).prop_map(
            |((max_connections, max_pending_requests, max_requests), retries, (per_host, track_remaining))| {
                Thresholds {
                    max_connections,
                    max_connections_per_host: per_host,
                    max_pending_requests,
                    max_requests,
                    retries,
                    track_remaining,
                }
            },
        )
    };
    (one(), one()).prop_map(|(default, high)| CircuitBreakers { default, high })
}

fn retry_limits() -> impl Strategy<Value = RetryLimits> {
    let budget = (0u32..=10_000, any::<u32>()).prop_map(|(share, min_retry_concurrency)| RetryBudget {
        share,
        min_retry_concurrency,
    });
    let limits = (prop::option::of(budget), prop::option::of(any::<u32>()));
    limits.prop_map(|(budget, max)| RetryLimits { budget, max })
}

pub(super) fn outliers(rules: OutlierRules) -> impl Strategy<Value = OutlierDetection> {
    let percent = || (0u32..=100).prop_map(|value| Percent::new(value).unwrap());
    let consecutive = || (any::<u32>(), percent()).prop_map(|(count, enforcing)| Consecutive { count, enforcing });
    let times = (10u64..100_000, 1u64..100_000, 0u64..100_000, 0u64..10_000);
    let bounds = (percent(), any::<bool>(), any::<bool>());
    let rate = (any::<u32>(), any::<u32>(), any::<u32>(), percent(), percent());
    let share = (percent(), any::<u32>(), any::<u32>(), percent(), percent());
    (
        times,
        bounds,
        (consecutive(), consecutive(), consecutive()),
        rate,
        share,
    )
        .prop_map(
            move |((interval, base, more, jitter), (most, always, split), (server, gateway, local), rate, share)| {
                OutlierDetection {
                    rules,
                    interval: Duration::from_millis(interval),
                    base_ejection_time: Duration::from_millis(base),
                    max_ejection_time: Duration::from_millis(base + more),
                    max_ejection_time_jitter: Duration::from_millis(jitter),
                    max_ejection_percent: most,
                    always_eject_one_host: always,
                    split_external_local_origin_errors: split,
                    consecutive_5xx: server,
                    consecutive_gateway_failure: gateway,
                    consecutive_local_origin_failure: local,
                    success_rate: SuccessRate {
                        minimum_hosts: rate.0,
                        request_volume: rate.1,
                        stdev_factor: rate.2,
                        enforcing: rate.3,
                        enforcing_local_origin: rate.4,
                    },
                    failure_percentage: FailurePercentage {
                        threshold: share.0,
                        minimum_hosts: share.1,
                        request_volume: share.2,
                        enforcing: share.3,
                        enforcing_local_origin: share.4,
                    },
                }
            },
        )
}

proptest! {
    /// What an Envoy is told is what it was configured with; and where that is gRPC's rule, that one host may go.
    #[test]
    fn an_envoy_is_told_the_same(ours in outliers(OutlierRules::Envoy), limits in breakers()) {
        let told = |outlier: &OutlierDetection| {
            let cluster = Cluster {
                outlier: Some(outlier.clone()),
                breakers: limits,
                ..Cluster::new("c", TlsMode::Plaintext, Vec::new())
            };
            let proto = Proto::decode(&*encode::cluster(&cluster, Dialect::Envoy(EGRESS_ADDRESS))).unwrap();
            decode::<ClusterSpec>(&raw(&proto), &envoy()).unwrap().value.unwrap().cluster
        };
        let read = told(&ours);
        prop_assert_eq!(read.outlier.as_ref(), Some(&ours));
        // Where no limit of retries is said, as many are let in as calls.
        let mut limits = limits;
        for of in [&mut limits.default, &mut limits.high] {
            of.retries.max = Some(of.retries.max.unwrap_or(of.max_requests));
        }
        prop_assert_eq!(read.breakers, limits);
        let grpc = OutlierDetection { rules: OutlierRules::Grpc, ..ours };
        let read = told(&grpc).outlier.unwrap();
        prop_assert!(read.max_ejected(3) >= grpc.max_ejected(3).min(1));
    }
}

#[test]
fn what_has_no_effect_is_noted() {
    let outlier = OutlierProto {
        monitors: vec![Default::default()],
        detect_degraded_hosts: Some(BoolValue { value: true }),
        interval: time(1),
        ..Default::default()
    };
    let mut proto = base_with(outlier);
    proto.circuit_breakers.as_mut().unwrap().thresholds[0].max_connection_pools = uint(3);
    let notes = decode::<ClusterSpec>(&raw(&proto), &context()).unwrap().notes;
    for word in ["monitors", "detect_degraded_hosts", "interval", "max_connection_pools"] {
        assert!(notes.iter().any(|note| note.contains(word)), "{word}: {notes:?}");
    }
}
