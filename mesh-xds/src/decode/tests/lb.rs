//! How an endpoint is chosen, in both shapes (gRFC A52, Envoy): what each policy is told, by default and at its bounds.

use super::*;
use crate::proto::cluster::{
    Cluster as Proto, LoadBalancingPolicy,
    cluster::{
        CommonLbConfig, LbConfig, LbPolicy as LbEnum, MaglevLbConfig, RingHashLbConfig,
        common_lb_config::ConsistentHashingLbConfig as Older,
    },
    load_balancing_policy::Policy,
};
use crate::proto::core::{RuntimeDouble, TypedExtensionConfig};
use crate::proto::lb::{
    client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin, common::v3::ConsistentHashingLbConfig,
    least_request::v3 as least_request, maglev::v3::Maglev as MaglevProto, pick_first::v3::PickFirst,
    random::v3::Random, ring_hash::v3 as ring_hash, round_robin::v3::RoundRobin, wrr_locality::v3::WrrLocality,
};
use crate::proto::protobuf::{BoolValue, Duration as DurationProto, FloatValue, UInt32Value, UInt64Value};
use crate::resource::ClusterSpec;
use mesh_core::config::{BalanceFactor, ClientWeights, LbPolicy, LeastRequest, Maglev, RingFunction, RingHash};

fn list(policies: Vec<Policy>) -> LoadBalancingPolicy {
    LoadBalancingPolicy { policies }
}

fn entry<M: Message + Name>(config: &M) -> Policy {
    Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: String::new(),
            typed_config: Some(crate::proto::pack(config)),
        }),
    }
}

fn read(edit: impl FnOnce(&mut Proto)) -> Result<(LbPolicy, usize), Rejected> {
    let mut proto = cluster::cluster_proto();
    edit(&mut proto);
    let decoded = decode::<ClusterSpec>(&raw(&proto), &context()).unwrap();
    let notes = decoded.notes.len();
    decoded.value.map(|spec| (spec.cluster.lb, notes))
}

fn listed<M: Message + Name>(config: &M) -> Result<(LbPolicy, usize), Rejected> {
    read(|proto| proto.load_balancing_policy = Some(list(vec![entry(config)])))
}

fn long(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

#[test]
fn every_policy_is_had_in_the_newer_shape() {
    let told = |config: Result<(LbPolicy, usize), Rejected>| config.unwrap();
    let ring = LbPolicy::RingHash(RingHash::DEFAULT);
    let weights = LbPolicy::ClientSideWeightedRoundRobin(ClientWeights::default());
    assert_eq!(told(listed(&RoundRobin::default())), (LbPolicy::RoundRobin, 0));
    assert_eq!(told(listed(&Random::default())), (LbPolicy::Random, 0));
    let least = least_request::LeastRequest::default();
    assert_eq!(told(listed(&least)), (LbPolicy::LEAST_REQUEST, 0));
    assert_eq!(told(listed(&ring_hash::RingHash::default())), (ring.clone(), 0));
    let table = LbPolicy::Maglev(Maglev::DEFAULT);
    assert_eq!(told(listed(&MaglevProto::default())), (table, 0));
    assert_eq!(
        told(listed(&ClientSideWeightedRoundRobin::default())),
        (weights.clone(), 0)
    );
    let first = PickFirst {
        shuffle_address_list: true,
    };
    assert_eq!(told(listed(&first)), (LbPolicy::PickFirst { shuffle: true }, 0));
    let within = WrrLocality {
        endpoint_picking_policy: Some(list(vec![
            entry(&ClientSideWeightedRoundRobin::default()),
            entry(&RoundRobin::default()),
        ])),
    };
    assert_eq!(told(listed(&within)), (weights, 0));
    // The list wins over the enum, and the first that is had over the rest.
    let both = read(|proto| {
        proto.lb_policy = LbEnum::Random as i32;
        let policies = vec![entry(&ring_hash::RingHash::default()), entry(&RoundRobin::default())];
        proto.load_balancing_policy = Some(list(policies));
    });
    assert_eq!(told(both), (ring, 0));
}

#[test]
fn and_those_with_a_number_in_the_older() {
    let number = |policy: LbEnum, config: Option<LbConfig>| {
        read(|proto| {
            proto.lb_policy = policy as i32;
            proto.lb_config = config;
        })
    };
    let ring = |least, most, function| {
        Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
            minimum_ring_size: least,
            maximum_ring_size: most,
            hash_function: function,
        }))
    };
    let table = |size| Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: long(size) }));
    let ring_of = |min_size, max_size, function| {
        LbPolicy::RingHash(RingHash {
            min_size,
            max_size,
            function,
            balance: None,
        })
    };
    let default = LbPolicy::RingHash(RingHash::DEFAULT);
    let cases = [
        (LbEnum::RingHash, None, default.clone()),
        (LbEnum::RingHash, ring(None, None, 0), default),
        (
            LbEnum::RingHash,
            ring(long(8), long(16), 1),
            ring_of(8, 16, RingFunction::Murmur2),
        ),
        (
            LbEnum::RingHash,
            ring(long(8_388_608), long(8_388_608), 0),
            ring_of(8_388_608, 8_388_608, RingFunction::XxHash),
        ),
        (LbEnum::Maglev, None, LbPolicy::Maglev(Maglev::DEFAULT)),
        (LbEnum::Maglev, table(251), LbPolicy::Maglev(Maglev::new(251).unwrap())),
    ];
    for (policy, config, expected) in cases {
        assert_eq!(number(policy, config.clone()).unwrap(), (expected, 0), "{config:?}");
    }
    let refused = [
        // More than eight million, and a least that is more than the most (gRFC A42).
        (
            LbEnum::RingHash,
            ring(long(8_388_609), None, 0),
            "ring_hash_lb_config.minimum_ring_size",
        ),
        (
            LbEnum::RingHash,
            ring(None, long(8_388_609), 0),
            "ring_hash_lb_config.maximum_ring_size",
        ),
        (
            LbEnum::RingHash,
            ring(long(17), long(16), 0),
            "ring_hash_lb_config.minimum_ring_size",
        ),
        // No prime, and more than Envoy takes.
        (LbEnum::Maglev, table(65_536), "maglev_lb_config.table_size"),
        (LbEnum::Maglev, table(5_000_077), "maglev_lb_config.table_size"),
    ];
    for (policy, config, field) in refused {
        assert_eq!(number(policy, config.clone()).unwrap_err().field(), field, "{config:?}");
    }
}

/// Envoy takes no factor of less than 100 percent.
#[test]
fn how_much_more_than_its_share_an_endpoint_takes() {
    let older = |factor| {
        read(|proto| {
            proto.lb_policy = LbEnum::Maglev as i32;
            proto.common_lb_config = Some(CommonLbConfig {
                consistent_hashing_lb_config: Some(Older {
                    hash_balance_factor: factor,
                    ..Default::default()
                }),
                ..Default::default()
            });
        })
    };
    let newer = |factor| {
        listed(&ring_hash::RingHash {
            consistent_hashing_lb_config: Some(ConsistentHashingLbConfig {
                hash_balance_factor: factor,
                ..Default::default()
            }),
            ..Default::default()
        })
    };
    let factor = |value| Some(UInt32Value { value });
    for (told, balance) in [
        (None, None),
        (factor(100), BalanceFactor::new(100)),
        (factor(150), BalanceFactor::new(150)),
    ] {
        let table = Maglev::DEFAULT.balanced(balance);
        assert_eq!(older(told).unwrap(), (LbPolicy::Maglev(table), 0), "{told:?}");
        let ring = RingHash {
            balance,
            ..RingHash::DEFAULT
        };
        assert_eq!(newer(told).unwrap(), (LbPolicy::RingHash(ring), 0), "{told:?}");
    }
    for few in [0, 99] {
        let field = "consistent_hashing_lb_config.hash_balance_factor";
        assert_eq!(
            older(factor(few)).unwrap_err().field(),
            format!("common_lb_config.{field}")
        );
        assert_eq!(
            newer(factor(few)).unwrap_err().field(),
            format!("load_balancing_policy.policies[0].{field}")
        );
    }
}

#[test]
fn settings_of_least_request_and_of_reported_weights() {
    let bias = |default_value| least_request::LeastRequest {
        choice_count: Some(UInt32Value { value: 11 }),
        active_request_bias: Some(RuntimeDouble {
            default_value,
            runtime_key: String::new(),
        }),
        ..Default::default()
    };
    let least = LeastRequest {
        choices: 10,
        bias_per_mille: 1_500,
    };
    assert_eq!(listed(&bias(1.5)).unwrap(), (LbPolicy::LeastRequest(least), 0));
    for wrong in [-0.5, f64::NAN] {
        let field = "load_balancing_policy.policies[0].active_request_bias.default_value";
        assert_eq!(listed(&bias(wrong)).unwrap_err().field(), field, "{wrong}");
    }
    let seconds = |seconds| Some(DurationProto { seconds, nanos: 0 });
    let proto = ClientSideWeightedRoundRobin {
        enable_oob_load_report: Some(BoolValue { value: true }),
        blackout_period: seconds(0),
        weight_expiration_period: seconds(60),
        weight_update_period: Some(DurationProto { seconds: 0, nanos: 1 }),
        error_utilization_penalty: Some(FloatValue { value: 0.5 }),
        metric_names_for_computing_utilization: vec!["cpu_utilization".into(), "what.is.this".into()],
        ..Default::default()
    };
    let (LbPolicy::ClientSideWeightedRoundRobin(read), notes) = listed(&proto).unwrap() else {
        panic!("weighted by reports")
    };
    // One for the figure that nobody knows.
    assert_eq!((read.out_of_band, notes), (Some(Duration::from_secs(10)), 1));
    assert_eq!(
        (read.blackout, read.expiration),
        (Duration::ZERO, Duration::from_secs(60))
    );
    assert_eq!(
        (read.update, read.error_penalty_per_mille),
        (Duration::from_millis(100), 500)
    );
    assert_eq!(read.metrics.len(), 1);
    let negative = ClientSideWeightedRoundRobin {
        error_utilization_penalty: Some(FloatValue { value: -1.0 }),
        ..Default::default()
    };
    let field = "load_balancing_policy.policies[0].error_utilization_penalty";
    assert_eq!(listed(&negative).unwrap_err().field(), field);
}
