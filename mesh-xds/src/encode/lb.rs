//! How an endpoint is chosen. The enum says it where it can, since every reader knows it; what is newer is a list of which the
//! first policy that a reader knows holds (gRFC A52), with round robin at its end; and so is what stands [around](super::around) it.

use mesh_core::config::{ClientWeights, LbPolicy, LeastRequest, Maglev, RingFunction, RingHash, SlowStart};
use prost::{Message, Name};

use super::Dialect;
use super::common::{duration, uint};
use crate::proto::cluster::{
    LoadBalancingPolicy,
    cluster::{
        LbConfig, LbPolicy as LbEnum, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
        SlowStartConfig, ring_hash_lb_config::HashFunction,
    },
    load_balancing_policy::Policy,
};
use crate::proto::core::{RuntimeDouble, TypedExtensionConfig};
use crate::proto::lb::{
    client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin, pick_first::v3::PickFirst,
    round_robin::v3::RoundRobin, wrr_locality::v3::WrrLocality,
};
use crate::proto::pack;
use crate::proto::percent::Percent;
use crate::proto::protobuf::{BoolValue, FloatValue, UInt64Value};

/// The three places of a cluster that say it.
#[derive(Default)]
pub(super) struct Lb {
    pub(super) policy: LbEnum,
    pub(super) config: Option<LbConfig>,
    pub(super) list: Option<LoadBalancingPolicy>,
}

impl Lb {
    /// With new endpoints getting their share bit by bit, where the policy can say so.
    pub(super) fn starting(mut self, slow_start: Option<SlowStart>) -> Self {
        let slow_start_config = slow_start.map(slow_start_proto);
        match &mut self.config {
            None if slow_start_config.is_some() && self.policy == LbEnum::RoundRobin && self.list.is_none() => {
                self.config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config }));
            }
            Some(LbConfig::LeastRequestLbConfig(config)) => config.slow_start_config = slow_start_config,
            _ => {}
        }
        self
    }
}

fn slow_start_proto(config: SlowStart) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(duration(config.window)),
        aggression: Some(RuntimeDouble {
            default_value: f64::from(config.aggression_per_mille) / 1_000.0,
            // Envoy asks for a key; nobody sets it.
            runtime_key: "upstream.slow_start.aggression".into(),
        }),
        min_weight_percent: Some(Percent {
            value: config.min_weight.get().into(),
        }),
    }
}

pub(super) fn lb(policy: &LbPolicy, dialect: Dialect) -> Lb {
    match (dialect, told(policy, dialect)) {
        (_, LbPolicy::RoundRobin) => named(LbEnum::RoundRobin, None),
        (_, LbPolicy::Random) => named(LbEnum::Random, None),
        (_, LbPolicy::LeastRequest(config)) => named(LbEnum::LeastRequest, Some(least_request(config))),
        (_, LbPolicy::RingHash(config)) => named(LbEnum::RingHash, Some(ring_hash(config))),
        (_, LbPolicy::Maglev(config)) => named(LbEnum::Maglev, Some(maglev(config))),
        (_, LbPolicy::PickFirst { shuffle }) => {
            let config = PickFirst {
                shuffle_address_list: shuffle,
            };
            listed(list(&config))
        }
        // Their localities are weighted by the policy around it; elsewhere by the endpoints' own shares.
        (Dialect::Grpc, LbPolicy::ClientSideWeightedRoundRobin(config)) => listed(LoadBalancingPolicy {
            policies: vec![entry(&WrrLocality {
                endpoint_picking_policy: Some(list(&client_weights(&config))),
            })],
        }),
        (_, LbPolicy::ClientSideWeightedRoundRobin(config)) => listed(list(&client_weights(&config))),
    }
}

/// What a reader is told in the place of a policy that it would refuse the cluster for.
pub(super) fn told(policy: &LbPolicy, dialect: Dialect) -> LbPolicy {
    match (dialect, policy) {
        // C-core refuses LEAST_REQUEST by its number; none of them knows RANDOM.
        (Dialect::Grpc, LbPolicy::LeastRequest(_) | LbPolicy::Random) => LbPolicy::RoundRobin,
        // They have one of the two policies that keep calls to their endpoints, one hash for it, and no bound on a host's share.
        (Dialect::Grpc, LbPolicy::Maglev(_)) => LbPolicy::RingHash(RingHash::DEFAULT),
        (Dialect::Grpc, LbPolicy::RingHash(config)) => LbPolicy::RingHash(RingHash {
            function: RingFunction::XxHash,
            balance: None,
            ..*config
        }),
        _ => policy.clone(),
    }
}

fn named(policy: LbEnum, config: Option<LbConfig>) -> Lb {
    Lb {
        policy,
        config,
        list: None,
    }
}

fn listed(list: LoadBalancingPolicy) -> Lb {
    Lb {
        list: Some(list),
        ..Lb::default()
    }
}

/// That policy, and round robin for who does not know it.
fn list<M: Message + Name>(first: &M) -> LoadBalancingPolicy {
    LoadBalancingPolicy {
        policies: vec![entry(first), entry(&RoundRobin::default())],
    }
}

pub(super) fn entry<M: Message + Name>(config: &M) -> Policy {
    Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: M::full_name(),
            typed_config: Some(pack(config)),
        }),
    }
}

fn least_request(config: LeastRequest) -> LbConfig {
    LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
        choice_count: uint(config.choices),
        active_request_bias: least_request_bias(config),
        ..LeastRequestLbConfig::default()
    })
}

pub(super) fn least_request_bias(config: LeastRequest) -> Option<RuntimeDouble> {
    (config.bias_per_mille != LeastRequest::DEFAULT.bias_per_mille).then(|| RuntimeDouble {
        default_value: f64::from(config.bias_per_mille) / 1_000.0,
        // Envoy asks for a key; nobody sets it.
        runtime_key: "upstream.least_request.active_request_bias".into(),
    })
}

fn ring_hash(config: RingHash) -> LbConfig {
    let function = match config.function {
        RingFunction::XxHash => HashFunction::XxHash,
        RingFunction::Murmur2 => HashFunction::MurmurHash2,
    };
    LbConfig::RingHashLbConfig(RingHashLbConfig {
        minimum_ring_size: long(config.min_size),
        maximum_ring_size: long(config.max_size),
        hash_function: function as i32,
    })
}

fn maglev(config: Maglev) -> LbConfig {
    LbConfig::MaglevLbConfig(MaglevLbConfig {
        table_size: long(config.size()),
    })
}

pub(super) fn client_weights(config: &ClientWeights) -> ClientSideWeightedRoundRobin {
    let penalty = config.error_penalty_per_mille as f32 / 1_000.0;
    ClientSideWeightedRoundRobin {
        enable_oob_load_report: Some(BoolValue {
            value: config.out_of_band.is_some(),
        }),
        oob_reporting_period: config.out_of_band.map(duration),
        blackout_period: Some(duration(config.blackout)),
        weight_expiration_period: Some(duration(config.expiration)),
        weight_update_period: Some(duration(config.update)),
        error_utilization_penalty: Some(FloatValue { value: penalty }),
        metric_names_for_computing_utilization: config.metrics.iter().map(ToString::to_string).collect(),
        ..ClientSideWeightedRoundRobin::default()
    }
}

pub(super) fn long(value: u32) -> Option<UInt64Value> {
    Some(UInt64Value {
        value: u64::from(value),
    })
}
