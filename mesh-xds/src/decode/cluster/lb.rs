//! How an endpoint is chosen: the policy list of gRFC A52 wins over the older enum.
//!
//! A policy that the data plane does not have is no reason to refuse a cluster: its calls would fail for want of a preference.
//! Least request takes its place, with a note, unless the list holds one that is had. What a policy is told and is not done
//! is noted too.

use std::num::NonZeroU32;

use mesh_core::config::{LbPolicy, LeastRequest, Maglev, RingFunction, RingHash, SlowStart};
use prost::Name;

use super::{client_weights, slow_start};
use crate::decode::common::unpack;
use crate::decode::{Fault, Notes};
use crate::proto::cluster::{
    Cluster, LoadBalancingPolicy,
    cluster::{CommonLbConfig, LbConfig, LbPolicy as LbEnum, ring_hash_lb_config::HashFunction as RingHashEnum},
};
use crate::proto::core::RuntimeDouble;
use crate::proto::lb::{
    client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin,
    common::v3::ConsistentHashingLbConfig,
    least_request::v3::{LeastRequest as LeastRequestProto, least_request::SelectionMethod},
    maglev::v3::Maglev as MaglevProto,
    pick_first::v3::PickFirst,
    random::v3::Random,
    random_subsetting::v3::RandomSubsetting,
    ring_hash::v3::{RingHash as RingHashProto, ring_hash::HashFunction},
    round_robin::v3::RoundRobin,
    wrr_locality::v3::WrrLocality,
};
use crate::proto::protobuf::{Any, UInt32Value, UInt64Value};

/// How deep policies may nest (gRFC A52).
const MAX_DEPTH: usize = 16;
/// What stands in for a policy that is not had: Istio's default, and the best of those that look at nothing but load.
pub(super) const FALLBACK: LbPolicy = LbPolicy::LEAST_REQUEST;

/// Policies that are known and not had, by the last part of their type's URL.
const NOT_HAD: [&str; 3] = [
    "envoy.extensions.load_balancing_policies.subset.v3.Subset",
    "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
    "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
];

/// What is said of the choice among all endpoints by the policies around the one that chooses one, and by that one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// A locality is chosen first.
    pub(super) by_locality: bool,
    /// A process calls so many of them.
    pub(super) subset_size: Option<NonZeroU32>,
    /// New ones get their share bit by bit.
    pub(super) slow_start: Option<SlowStart>,
}

/// What an entry of a list is.
enum Entry {
    Had(LbPolicy, Around),
    NotHad(String),
    Unknown,
}

pub(super) fn policy(cluster: &Cluster, notes: &mut Notes) -> Result<(LbPolicy, Around), Fault> {
    if let Some(list) = &cluster.load_balancing_policy {
        let outer = |fault: Fault| fault.within("load_balancing_policy");
        return match listed(list, MAX_DEPTH, notes).map_err(outer)? {
            Entry::Had(policy, around) => Ok((policy, around)),
            Entry::NotHad(name) => Ok((instead_of(&name, notes), Around::default())),
            Entry::Unknown => Err(outer(Fault::new("policies", "none of them is supported"))),
        };
    }
    let around = Around {
        slow_start: slow_start::of_enum(cluster)?,
        ..Around::default()
    };
    by_enum(cluster, notes).map(|policy| (policy, around))
}

/// The older way to say it.
fn by_enum(cluster: &Cluster, notes: &mut Notes) -> Result<LbPolicy, Fault> {
    let config = cluster.lb_config.as_ref();
    match LbEnum::try_from(cluster.lb_policy) {
        Ok(LbEnum::RoundRobin) => Ok(LbPolicy::RoundRobin),
        Ok(LbEnum::Random) => Ok(LbPolicy::Random),
        Ok(LbEnum::LeastRequest) => {
            let (count, bias) = match config {
                Some(LbConfig::LeastRequestLbConfig(config)) => {
                    (config.choice_count.as_ref(), config.active_request_bias.as_ref())
                }
                _ => (None, None),
            };
            least_request(count, bias).map_err(|fault| fault.within("least_request_lb_config"))
        }
        Ok(LbEnum::RingHash) => {
            hashing(cluster.common_lb_config.as_ref(), notes);
            let Some(LbConfig::RingHashLbConfig(config)) = config else {
                return Ok(LbPolicy::RingHash(RingHash::DEFAULT));
            };
            let function = match RingHashEnum::try_from(config.hash_function) {
                Ok(RingHashEnum::MurmurHash2) => RingFunction::Murmur2,
                _ => RingFunction::XxHash,
            };
            let sizes = (config.minimum_ring_size.as_ref(), config.maximum_ring_size.as_ref());
            ring_hash(sizes, function).map_err(|fault| fault.within("ring_hash_lb_config"))
        }
        Ok(LbEnum::Maglev) => {
            hashing(cluster.common_lb_config.as_ref(), notes);
            let size = match config {
                Some(LbConfig::MaglevLbConfig(config)) => config.table_size.as_ref(),
                _ => None,
            };
            maglev(size).map_err(|fault| fault.within("maglev_lb_config"))
        }
        // The only one that an ORIGINAL_DST cluster may have: it has no endpoints to choose among.
        Ok(LbEnum::ClusterProvided) => Ok(FALLBACK),
        Ok(other) => Ok(instead_of(other.as_str_name(), notes)),
        Err(_) => Err(Fault::new(
            "lb_policy",
            format!("{} is not a policy", cluster.lb_policy),
        )),
    }
}

fn instead_of(name: &str, notes: &mut Notes) -> LbPolicy {
    notes.add(format_args!(
        "load balancing policy {name} is not had: endpoints are chosen by least request"
    ));
    FALLBACK
}

/// The first of the list that is had; else the first that is known.
fn listed(list: &LoadBalancingPolicy, depth: usize, notes: &mut Notes) -> Result<Entry, Fault> {
    if depth == 0 {
        return Err(Fault::new("policies", "are nested too deeply"));
    }
    let configs = list
        .policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref()?.typed_config.as_ref());
    let mut found = Entry::Unknown;
    for (index, any) in configs.enumerate() {
        match one(any, depth, notes).map_err(|fault| fault.within(format_args!("policies[{index}]")))? {
            had @ Entry::Had(..) => return Ok(had),
            not_had @ Entry::NotHad(_) if matches!(found, Entry::Unknown) => found = not_had,
            Entry::NotHad(_) | Entry::Unknown => {}
        }
    }
    Ok(found)
}

fn one(any: &Any, depth: usize, notes: &mut Notes) -> Result<Entry, Fault> {
    let is = |url: String| any.type_url == url;
    let mut around = Around::default();
    let policy = if is(RoundRobin::type_url()) {
        let config = unpack::<RoundRobin>("typed_config", any)?;
        around.slow_start = config.slow_start_config.map(slow_start::listed).transpose()?;
        LbPolicy::RoundRobin
    } else if is(Random::type_url()) {
        LbPolicy::Random
    } else if is(LeastRequestProto::type_url()) {
        let config = unpack::<LeastRequestProto>("typed_config", any)?;
        if config.selection_method() == SelectionMethod::FullScan {
            notes.add("selection_method FULL_SCAN is not had: as many endpoints are compared as choice_count says");
        }
        let policy = least_request(config.choice_count.as_ref(), config.active_request_bias.as_ref())?;
        around.slow_start = config.slow_start_config.map(slow_start::listed).transpose()?;
        policy
    } else if is(RingHashProto::type_url()) {
        let config = unpack::<RingHashProto>("typed_config", any)?;
        consistent(config.consistent_hashing_lb_config.as_ref(), notes);
        let function = match config.hash_function() {
            HashFunction::DefaultHash | HashFunction::XxHash => RingFunction::XxHash,
            HashFunction::MurmurHash2 => RingFunction::Murmur2,
        };
        let sizes = (config.minimum_ring_size.as_ref(), config.maximum_ring_size.as_ref());
        ring_hash(sizes, function)?
    } else if is(MaglevProto::type_url()) {
        let config = unpack::<MaglevProto>("typed_config", any)?;
        consistent(config.consistent_hashing_lb_config.as_ref(), notes);
        maglev(config.table_size.as_ref())?
    } else if is(ClientSideWeightedRoundRobin::type_url()) {
        let config = unpack::<ClientSideWeightedRoundRobin>("typed_config", any)?;
        LbPolicy::ClientSideWeightedRoundRobin(client_weights::settings(&config, notes)?)
    } else if is(PickFirst::type_url()) {
        let config = unpack::<PickFirst>("typed_config", any)?;
        LbPolicy::PickFirst {
            shuffle: config.shuffle_address_list,
        }
    } else if is(WrrLocality::type_url()) {
        return wrr_locality(any, depth, notes);
    } else if is(RandomSubsetting::type_url()) {
        return random_subsetting(any, depth, notes);
    } else {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        return Ok(match NOT_HAD.contains(&name) {
            true => Entry::NotHad(name.into()),
            false => Entry::Unknown,
        });
    };
    Ok(Entry::Had(policy, around))
}

/// A locality is chosen first, and by the policy inside an endpoint of it.
fn wrr_locality(any: &Any, depth: usize, notes: &mut Notes) -> Result<Entry, Fault> {
    let config = unpack::<WrrLocality>("typed_config", any)?;
    let Some(inner) = config.endpoint_picking_policy else {
        return Err(Fault::new("endpoint_picking_policy", "is missing"));
    };
    inside("endpoint_picking_policy", &inner, depth, notes, |around| {
        around.by_locality = true
    })
}

/// This process's few of the endpoints (gRFC A68), and by the policy inside one of them.
fn random_subsetting(any: &Any, depth: usize, notes: &mut Notes) -> Result<Entry, Fault> {
    let config = unpack::<RandomSubsetting>("typed_config", any)?;
    let size = config.subset_size.and_then(|size| NonZeroU32::new(size.value));
    let size = size.ok_or_else(|| Fault::new("subset_size", "must be at least 1 (gRFC A68)"))?;
    let Some(inner) = config.child_policy else {
        return Err(Fault::new("child_policy", "is missing"));
    };
    inside("child_policy", &inner, depth, notes, |around| {
        around.subset_size = Some(size)
    })
}

fn inside(
    field: &str,
    list: &LoadBalancingPolicy,
    depth: usize,
    notes: &mut Notes,
    tell: impl FnOnce(&mut Around),
) -> Result<Entry, Fault> {
    match listed(list, depth - 1, notes).map_err(|fault| fault.within(field))? {
        Entry::Unknown => Err(Fault::new(format!("{field}.policies"), "none of them is supported")),
        Entry::Had(policy, mut around) => {
            tell(&mut around);
            Ok(Entry::Had(policy, around))
        }
        not_had @ Entry::NotHad(_) => Ok(not_had),
    }
}

fn least_request(count: Option<&UInt32Value>, bias: Option<&RuntimeDouble>) -> Result<LbPolicy, Fault> {
    let choices = match count.map_or(LeastRequest::DEFAULT.choices, |count| count.value) {
        few @ 0..2 => {
            return Err(Fault::new(
                "choice_count",
                format!("must be at least 2, not {few} (gRFC A48)"),
            ));
        }
        choices => choices.min(LeastRequest::MAX_CHOICES),
    };
    let bias_per_mille = match bias.map(|bias| bias.default_value) {
        None => LeastRequest::DEFAULT.bias_per_mille,
        Some(bias) => per_mille("active_request_bias.default_value", bias)?,
    };
    Ok(LbPolicy::LeastRequest(LeastRequest {
        choices,
        bias_per_mille,
    }))
}

/// A number of zero or more, in thousandths; what is more than those hold is as good as endless.
pub(super) fn per_mille(field: &str, value: f64) -> Result<u32, Fault> {
    if value.is_nan() || value < 0.0 {
        return Err(Fault::new(field, format!("must be at least 0, not {value}")));
    }
    // Saturates.
    Ok((value * 1_000.0).round() as u32)
}

fn ring_hash(
    (least, most): (Option<&UInt64Value>, Option<&UInt64Value>),
    function: RingFunction,
) -> Result<LbPolicy, Fault> {
    let size = |field: &str, value: Option<&UInt64Value>, default: u32| match value.map(|value| value.value) {
        None => Ok(default),
        Some(size) if size > u64::from(RingHash::MAX_SIZE) => Err(Fault::new(
            field,
            format!("must be at most {}, not {size}", RingHash::MAX_SIZE),
        )),
        // An empty ring has no place for a call.
        Some(size) => Ok((size as u32).max(1)),
    };
    let min_size = size("minimum_ring_size", least, RingHash::DEFAULT.min_size)?;
    let max_size = size("maximum_ring_size", most, RingHash::DEFAULT.max_size)?;
    if min_size > max_size {
        let reason = format!("{min_size} is more than maximum_ring_size, {max_size}");
        return Err(Fault::new("minimum_ring_size", reason));
    }
    Ok(LbPolicy::RingHash(RingHash {
        min_size,
        max_size,
        function,
    }))
}

fn maglev(size: Option<&UInt64Value>) -> Result<LbPolicy, Fault> {
    let config = match size {
        None => Some(Maglev::DEFAULT),
        Some(size) => Maglev::new(size.value),
    };
    let reason = || format!("must be a prime of at most {}", Maglev::MAX_SIZE);
    config
        .map(LbPolicy::Maglev)
        .ok_or_else(|| Fault::new("table_size", reason()))
}

/// What the older shape asks of both policies that hash.
fn hashing(common: Option<&CommonLbConfig>, notes: &mut Notes) {
    let Some(config) = common.and_then(|common| common.consistent_hashing_lb_config.as_ref()) else {
        return;
    };
    by_address(config.use_hostname_for_hashing, notes);
    unbounded(config.hash_balance_factor.as_ref(), notes);
}

/// And the newer one.
fn consistent(config: Option<&ConsistentHashingLbConfig>, notes: &mut Notes) {
    let Some(config) = config else { return };
    by_address(config.use_hostname_for_hashing, notes);
    unbounded(config.hash_balance_factor.as_ref(), notes);
    if !config.hash_policy.is_empty() {
        notes.add("hash_policy of a load balancing policy is not had: the route's holds");
    }
}

fn by_address(by_hostname: bool, notes: &mut Notes) {
    if by_hostname {
        notes.add("use_hostname_for_hashing is not had: endpoints are hashed by address");
    }
}

fn unbounded(factor: Option<&UInt32Value>, notes: &mut Notes) {
    if factor.is_some_and(|factor| factor.value != 0) {
        notes.add("hash_balance_factor is not had: an endpoint takes all calls that hash to it");
    }
}
