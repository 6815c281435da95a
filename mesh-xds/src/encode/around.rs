//! What is said around the policy that chooses an endpoint: that a process calls its own few of them (gRFC A68), and that a locality is
//! chosen first where what else stands in that place is said, too.
//!
//! The older enum has no words for it, so a cluster that needs them says its policy as a list (gRFC A52), all of it: whoever
//! reads a list does not look at the enum. Who does not know the first of a list takes the next one, which is the policy alone.
//! Envoy knows no policy of a process's own few, and is told nothing of it.

use mesh_core::config::{BalanceFactor, Cluster, CommonLb, Failover, LbPolicy, RingFunction, SlowStart};

use super::Dialect;
use super::common::{duration, uint};
use super::lb::{client_weights, entry, least_request_bias, long, told};
use crate::proto::cluster::{LoadBalancingPolicy, load_balancing_policy::Policy};
use crate::proto::core::RuntimeDouble;
use crate::proto::lb::{
    common::v3::{ConsistentHashingLbConfig, SlowStartConfig},
    least_request::v3::LeastRequest as LeastRequestProto,
    maglev::v3::Maglev as MaglevProto,
    pick_first::v3::PickFirst,
    random::v3::Random,
    random_subsetting::v3::RandomSubsetting,
    ring_hash::v3::{RingHash as RingHashProto, ring_hash::HashFunction},
    round_robin::v3::RoundRobin,
    wrr_locality::v3::WrrLocality,
};
use crate::proto::percent::Percent;

/// Whether the list says that a locality is chosen first: the place where a cluster says it otherwise is taken.
pub(super) fn says_locality(common: &CommonLb) -> bool {
    common.failover == Failover::Spill && common.by_locality && common.fail_on_panic
}

/// The list, where something is said around the policy.
pub(super) fn list(cluster: &Cluster, dialect: Dialect) -> Option<LoadBalancingPolicy> {
    let common = &cluster.common_lb;
    let few = common.subset_size.filter(|_| !matches!(dialect, Dialect::Envoy(_)));
    // gRPC's other clients have no panic.
    let by_locality = says_locality(common) && dialect != Dialect::Grpc;
    if cluster.by_authority || (few.is_none() && !by_locality) {
        return None;
    }
    let policy = told(&cluster.lb, dialect);
    let slow_start = common.slow_start.filter(|_| dialect != Dialect::Grpc);
    let inner = one(policy.clone(), slow_start);
    // What gRPC makes of the enum (A52): those that do not look at weights themselves stand in a policy that does.
    let weighs_localities =
        dialect == Dialect::Grpc && !matches!(policy, LbPolicy::RingHash(_) | LbPolicy::PickFirst { .. });
    let inner = match by_locality || weighs_localities {
        true => entry(&WrrLocality {
            endpoint_picking_policy: Some(alone(inner)),
        }),
        false => inner,
    };
    let few = few.map(|size| {
        entry(&RandomSubsetting {
            subset_size: uint(size.get()),
            child_policy: Some(alone(inner.clone())),
        })
    });
    let policies = few.into_iter().chain([inner, entry(&RoundRobin::default())]);
    Some(LoadBalancingPolicy {
        policies: policies.collect(),
    })
}

fn alone(policy: Policy) -> LoadBalancingPolicy {
    LoadBalancingPolicy { policies: vec![policy] }
}

fn one(policy: LbPolicy, slow_start: Option<SlowStart>) -> Policy {
    let slow_start_config = slow_start.map(slow_start_proto);
    match policy {
        LbPolicy::RoundRobin => entry(&RoundRobin {
            slow_start_config,
            ..RoundRobin::default()
        }),
        LbPolicy::Random => entry(&Random::default()),
        LbPolicy::LeastRequest(config) => entry(&LeastRequestProto {
            choice_count: uint(config.choices),
            active_request_bias: least_request_bias(config),
            slow_start_config,
            ..LeastRequestProto::default()
        }),
        LbPolicy::RingHash(config) => {
            let function = match config.function {
                RingFunction::XxHash => HashFunction::XxHash,
                RingFunction::Murmur2 => HashFunction::MurmurHash2,
            };
            entry(&RingHashProto {
                hash_function: function as i32,
                minimum_ring_size: long(config.min_size),
                maximum_ring_size: long(config.max_size),
                consistent_hashing_lb_config: consistent(config.balance),
                ..RingHashProto::default()
            })
        }
        LbPolicy::Maglev(config) => entry(&MaglevProto {
            table_size: long(config.size()),
            consistent_hashing_lb_config: consistent(config.balance),
            ..MaglevProto::default()
        }),
        LbPolicy::PickFirst { shuffle } => entry(&PickFirst {
            shuffle_address_list: shuffle,
        }),
        LbPolicy::ClientSideWeightedRoundRobin(config) => entry(&client_weights(&config)),
    }
}

fn consistent(balance: Option<BalanceFactor>) -> Option<ConsistentHashingLbConfig> {
    balance.map(|factor| ConsistentHashingLbConfig {
        hash_balance_factor: uint(factor.percent()),
        ..ConsistentHashingLbConfig::default()
    })
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
