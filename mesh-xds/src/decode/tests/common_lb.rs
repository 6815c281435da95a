//! Among which endpoints one is chosen: by whose rules, in both shapes (Envoy `common_lb_config`, the policies around a policy).

use std::num::NonZeroU32;
use std::time::Duration;

use mesh_core::config::{CommonLb, LbPolicy, Percent, SlowStart};

use super::*;
use crate::proto::cluster::{
    Cluster as Proto, LoadBalancingPolicy,
    cluster::{
        CommonLbConfig, LbConfig, LbPolicy as LbEnum, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
        common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig},
    },
    load_balancing_policy::Policy,
};
use crate::proto::core::{RuntimeDouble, TypedExtensionConfig};
use crate::proto::lb::{
    common::v3::SlowStartConfig as ListedSlowStart, least_request::v3::LeastRequest,
    random_subsetting::v3::RandomSubsetting, round_robin::v3::RoundRobin, wrr_locality::v3::WrrLocality,
};
use crate::proto::percent::Percent as PercentProto;
use crate::proto::protobuf::{Duration as DurationProto, UInt32Value};
use crate::resource::ClusterSpec;

fn read_by(context: &Context, edit: impl FnOnce(&mut Proto)) -> Result<(CommonLb, LbPolicy), Rejected> {
    let mut proto = cluster::cluster_proto();
    (proto.common_lb_config, proto.transport_socket) = (None, None);
    edit(&mut proto);
    let decoded = decode::<ClusterSpec>(&raw(&proto), context).unwrap();
    decoded.value.map(|spec| (spec.cluster.common_lb, spec.cluster.lb))
}

fn common(edit: impl FnOnce(&mut Proto)) -> CommonLb {
    read_by(&envoy(), edit).unwrap().0
}

fn threshold(proto: &mut Proto, value: f64) -> &mut CommonLbConfig {
    let config = proto.common_lb_config.get_or_insert_default();
    config.healthy_panic_threshold = Some(PercentProto { value });
    config
}

fn list<M: Message + Name>(config: &M) -> Option<LoadBalancingPolicy> {
    Some(LoadBalancingPolicy {
        policies: vec![Policy {
            typed_extension_config: Some(TypedExtensionConfig {
                name: String::new(),
                typed_config: Some(crate::proto::pack(config)),
            }),
        }],
    })
}

#[test]
fn envoys_rules_hold_for_an_envoy_and_where_they_are_asked_for() {
    assert_eq!(common(|_| {}), CommonLb::ENVOY);
    let of_grpc = |edit: fn(&mut Proto)| read_by(&context(), edit).unwrap().0;
    assert_eq!(of_grpc(|_| {}), CommonLb::GRPC);
    // What else stands there does not make it Envoy's.
    let override_only: fn(&mut Proto) = |proto| proto.common_lb_config = Some(CommonLbConfig::default());
    assert_eq!(of_grpc(override_only), CommonLb::GRPC);
    let off: fn(&mut Proto) = |proto| {
        threshold(proto, 0.0);
    };
    let no_panic = CommonLb {
        panic_threshold: Percent::ZERO,
        ..CommonLb::ENVOY
    };
    assert_eq!([common(off), of_grpc(off)], [no_panic; 2]);
    // Less than a percent is cut off.
    let almost = common(|proto| {
        threshold(proto, 33.9);
    });
    assert_eq!(almost.panic_threshold.get(), 33);
}

#[test]
fn localities_are_chosen_first_where_that_is_said() {
    let by_locality = CommonLb {
        by_locality: true,
        ..CommonLb::ENVOY
    };
    let weighted = common(|proto| {
        let config = proto.common_lb_config.get_or_insert_default();
        let specifier = LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig::default());
        config.locality_config_specifier = Some(specifier);
    });
    assert_eq!(weighted, by_locality);
    let around = WrrLocality {
        endpoint_picking_policy: list(&RoundRobin::default()),
    };
    assert_eq!(common(|proto| proto.load_balancing_policy = list(&around)), by_locality);
    let zones = |zones: ZoneAwareLbConfig| {
        common(|proto| {
            let config = proto.common_lb_config.get_or_insert_default();
            config.locality_config_specifier = Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones));
        })
    };
    let failing = CommonLb {
        fail_on_panic: true,
        ..CommonLb::ENVOY
    };
    let fails = ZoneAwareLbConfig {
        fail_traffic_on_panic: true,
        ..ZoneAwareLbConfig::default()
    };
    assert_eq!(zones(fails), failing);
    assert_eq!(zones(ZoneAwareLbConfig::default()), CommonLb::ENVOY);
}

fn window(seconds: i64) -> Option<DurationProto> {
    Some(DurationProto { seconds, nanos: 0 })
}

#[test]
fn slow_start_in_both_shapes() {
    let plain = SlowStart::new(Duration::from_secs(60));
    let whole = SlowStart {
        aggression_per_mille: 1_500,
        min_weight: Percent::new(25).unwrap(),
        ..plain
    };
    let aggression = || {
        Some(RuntimeDouble {
            default_value: 1.5,
            ..RuntimeDouble::default()
        })
    };
    let min_weight_percent = Some(PercentProto { value: 25.0 });
    let old = |is_whole: bool| {
        Some(SlowStartConfig {
            slow_start_window: window(60),
            aggression: aggression().filter(|_| is_whole),
            min_weight_percent: min_weight_percent.filter(|_| is_whole),
        })
    };
    let new = |is_whole: bool| {
        Some(ListedSlowStart {
            slow_start_window: window(60),
            aggression: aggression().filter(|_| is_whole),
            min_weight_percent: min_weight_percent.filter(|_| is_whole),
        })
    };
    for (is_whole, expected) in [(false, plain), (true, whole)] {
        let turns = common(|proto| {
            proto.lb_policy = LbEnum::RoundRobin as i32;
            let slow_start_config = old(is_whole);
            proto.lb_config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config }));
        });
        let least = common(|proto| {
            proto.lb_policy = LbEnum::LeastRequest as i32;
            proto.lb_config = Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                slow_start_config: old(is_whole),
                ..LeastRequestLbConfig::default()
            }));
        });
        let listed_turns = common(|proto| {
            proto.load_balancing_policy = list(&RoundRobin {
                slow_start_config: new(is_whole),
                ..RoundRobin::default()
            });
        });
        let listed_least = common(|proto| {
            proto.load_balancing_policy = list(&LeastRequest {
                slow_start_config: new(is_whole),
                ..LeastRequest::default()
            });
        });
        for read in [turns, least, listed_turns, listed_least] {
            assert_eq!(read.slow_start, Some(expected));
        }
    }
    // That of another policy than the one chosen says nothing.
    let other = common(|proto| {
        proto.lb_policy = LbEnum::Random as i32;
        let slow_start_config = old(true);
        proto.lb_config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config }));
    });
    assert_eq!(other.slow_start, None);
}

#[test]
fn a_process_may_be_told_to_call_its_own_few() {
    let subsetting = |size: u32| RandomSubsetting {
        subset_size: Some(UInt32Value { value: size }),
        child_policy: list(&WrrLocality {
            endpoint_picking_policy: list(&RoundRobin::default()),
        }),
    };
    for by in [context(), envoy()] {
        let (common, lb) = read_by(&by, |proto| proto.load_balancing_policy = list(&subsetting(20))).unwrap();
        assert_eq!(common.subset_size, NonZeroU32::new(20));
        assert!(common.by_locality);
        assert_eq!(lb, LbPolicy::RoundRobin);
    }
    let refused = |config: RandomSubsetting, field: &str| {
        let rejected = read_by(&context(), |proto| proto.load_balancing_policy = list(&config)).unwrap_err();
        assert_eq!(rejected.field(), format!("load_balancing_policy.policies[0].{field}"));
    };
    refused(subsetting(0), "subset_size");
    let alone = RandomSubsetting {
        child_policy: None,
        ..subsetting(1)
    };
    refused(alone, "child_policy");
}

/// What the enum has no words for is said by a list, whatever the policy inside.
#[test]
fn what_is_said_around_a_policy_survives_the_wire() {
    use mesh_core::config::{BalanceFactor, ClientWeights, Cluster, Endpoint, LeastRequest, Maglev, RingHash, TlsMode};

    use crate::encode::{self, Dialect};
    let balance = BalanceFactor::new(150);
    let policies = [
        LbPolicy::RoundRobin,
        LbPolicy::Random,
        LbPolicy::LeastRequest(LeastRequest {
            choices: 3,
            bias_per_mille: 1_500,
        }),
        LbPolicy::RingHash(RingHash {
            balance,
            ..RingHash::DEFAULT
        }),
        LbPolicy::Maglev(Maglev::DEFAULT.balanced(balance)),
        LbPolicy::PickFirst { shuffle: true },
        LbPolicy::ClientSideWeightedRoundRobin(ClientWeights::default()),
    ];
    for lb in policies {
        let starts = matches!(lb, LbPolicy::RoundRobin | LbPolicy::LeastRequest(_));
        let slow_start = starts.then(|| SlowStart::new(Duration::from_secs(60)));
        for (size, by_locality, fail_on_panic) in [
            (20, false, false),
            (20, true, false),
            (20, false, true),
            (0, true, true),
            (1, true, true),
        ] {
            let common_lb = CommonLb {
                subset_size: NonZeroU32::new(size),
                by_locality,
                fail_on_panic,
                slow_start,
                ..CommonLb::ENVOY
            };
            let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
            let mut cluster = Cluster::new("c", TlsMode::Plaintext, vec![endpoint]);
            (cluster.lb, cluster.common_lb) = (lb.clone(), common_lb);
            let read = |cluster: &Cluster, dialect, by: &Context| {
                let bytes = encode::cluster(cluster, dialect);
                let raw = Raw {
                    type_url: ClusterSpec::KIND.type_url().into(),
                    bytes,
                };
                let spec = decode::<ClusterSpec>(&raw, by).unwrap().value.unwrap();
                (spec.cluster.common_lb, spec.cluster.lb)
            };
            for (dialect, by) in [(Dialect::Mesh, context()), (Dialect::Sidecar, envoy())] {
                assert_eq!(read(&cluster, dialect, &by), (common_lb, lb.clone()), "{dialect:?}");
            }
            // By gRPC's rules, with its own few of the endpoints.
            cluster.common_lb = CommonLb {
                subset_size: NonZeroU32::new(size),
                slow_start,
                ..CommonLb::GRPC
            };
            assert_eq!(read(&cluster, Dialect::Mesh, &context()).0, cluster.common_lb);
            assert_eq!(
                read(&cluster, Dialect::Grpc, &context()).0.subset_size,
                NonZeroU32::new(size)
            );
        }
    }
}

#[test]
fn what_is_refused() {
    let refused = |field: &str, edit: &dyn Fn(&mut Proto)| {
        let rejected = read_by(&envoy(), edit).expect_err(field);
        assert_eq!(rejected.field(), field, "{rejected}");
    };
    for value in [-1.0, 100.5, f64::NAN] {
        refused("common_lb_config.healthy_panic_threshold", &|proto| {
            threshold(proto, value);
        });
    }
    let slow = |config: &SlowStartConfig, field: &str| {
        refused(&format!("slow_start_config.{field}"), &|proto| {
            proto.lb_policy = LbEnum::RoundRobin as i32;
            proto.lb_config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
                slow_start_config: Some(config.clone()),
            }));
        });
    };
    let good = SlowStartConfig {
        slow_start_window: window(1),
        ..SlowStartConfig::default()
    };
    slow(&SlowStartConfig::default(), "slow_start_window");
    let none = SlowStartConfig {
        slow_start_window: window(0),
        ..good.clone()
    };
    slow(&none, "slow_start_window");
    for value in [0.0, -1.0, f64::NAN] {
        let aggression = Some(RuntimeDouble {
            default_value: value,
            ..RuntimeDouble::default()
        });
        slow(
            &SlowStartConfig {
                aggression,
                ..good.clone()
            },
            "aggression",
        );
    }
    let min_weight_percent = Some(PercentProto { value: 101.0 });
    slow(
        &SlowStartConfig {
            min_weight_percent,
            ..good
        },
        "min_weight_percent",
    );
    // What routes by zone is passed over, and said so.
    let mut proto = cluster::cluster_proto();
    let zones = ZoneAwareLbConfig {
        routing_enabled: Some(PercentProto { value: 100.0 }),
        ..ZoneAwareLbConfig::default()
    };
    proto.transport_socket = None;
    threshold(&mut proto, 50.0).locality_config_specifier = Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones));
    let decoded = decode::<ClusterSpec>(&raw(&proto), &envoy()).unwrap();
    assert!(
        decoded.notes.iter().any(|note| note.contains("zone_aware")),
        "{:?}",
        decoded.notes
    );
}
