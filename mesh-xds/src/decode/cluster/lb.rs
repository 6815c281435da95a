//! How an endpoint is chosen: the policy list of gRFC A52 wins over the older enum.
//!
//! A policy that the data plane does not have is no reason to refuse a cluster: its calls would fail for want of a preference.
//! Least request takes its place, with a note, unless the list holds one that is had.

use mesh_core::config::LbPolicy;

use crate::decode::common::unpack;
use crate::decode::{Fault, Notes};
use crate::proto::cluster::{
    Cluster, LoadBalancingPolicy,
    cluster::{LbConfig, LbPolicy as LbEnum},
};
use crate::proto::lb::{
    least_request::v3::LeastRequest, random::v3::Random, round_robin::v3::RoundRobin, wrr_locality::v3::WrrLocality,
};
use crate::proto::protobuf::{Any, UInt32Value};
use prost::Name;

/// How deep policies may nest (gRFC A52).
const MAX_DEPTH: usize = 16;
/// Comparing more endpoints than this gains nothing (gRFC A48).
const MAX_CHOICES: u32 = 10;
/// Envoy's default.
const DEFAULT_CHOICES: u32 = 2;
/// What stands in for a policy that is not had: Istio's default, and the best of those that look at nothing but load.
const FALLBACK: LbPolicy = LbPolicy::LeastRequest {
    choices: DEFAULT_CHOICES,
};

/// Policies that are known and not had, by the last part of their type's URL.
const NOT_HAD: [&str; 8] = [
    "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
    "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
    "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
    "envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst",
    "envoy.extensions.load_balancing_policies.random_subsetting.v3.RandomSubsetting",
    "envoy.extensions.load_balancing_policies.subset.v3.Subset",
    "envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
    "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
];

/// What an entry of a list is.
enum Entry {
    Had(LbPolicy),
    NotHad(String),
    Unknown,
}

pub(super) fn policy(cluster: &Cluster, notes: &mut Notes) -> Result<LbPolicy, Fault> {
    if let Some(list) = &cluster.load_balancing_policy {
        let outer = |fault: Fault| fault.within("load_balancing_policy");
        return match listed(list, MAX_DEPTH).map_err(outer)? {
            Entry::Had(policy) => Ok(policy),
            Entry::NotHad(name) => Ok(instead_of(&name, notes)),
            Entry::Unknown => Err(outer(Fault::new("policies", "none of them is supported"))),
        };
    }
    match LbEnum::try_from(cluster.lb_policy) {
        Ok(LbEnum::RoundRobin) => Ok(LbPolicy::RoundRobin),
        Ok(LbEnum::Random) => Ok(LbPolicy::Random),
        Ok(LbEnum::LeastRequest) => {
            let count = match &cluster.lb_config {
                Some(LbConfig::LeastRequestLbConfig(config)) => config.choice_count.as_ref(),
                _ => None,
            };
            least_request(count).map_err(|fault| fault.within("least_request_lb_config"))
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
fn listed(list: &LoadBalancingPolicy, depth: usize) -> Result<Entry, Fault> {
    if depth == 0 {
        return Err(Fault::new("policies", "are nested too deeply"));
    }
    let configs = list
        .policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref()?.typed_config.as_ref());
    let mut found = Entry::Unknown;
    for (index, any) in configs.enumerate() {
        match one(any, depth).map_err(|fault| fault.within(format_args!("policies[{index}]")))? {
            had @ Entry::Had(_) => return Ok(had),
            not_had @ Entry::NotHad(_) if matches!(found, Entry::Unknown) => found = not_had,
            Entry::NotHad(_) | Entry::Unknown => {}
        }
    }
    Ok(found)
}

fn one(any: &Any, depth: usize) -> Result<Entry, Fault> {
    let is = |url: String| any.type_url == url;
    if is(RoundRobin::type_url()) {
        Ok(Entry::Had(LbPolicy::RoundRobin))
    } else if is(Random::type_url()) {
        Ok(Entry::Had(LbPolicy::Random))
    } else if is(LeastRequest::type_url()) {
        let config = unpack::<LeastRequest>("typed_config", any)?;
        least_request(config.choice_count.as_ref()).map(Entry::Had)
    } else if is(WrrLocality::type_url()) {
        // Localities are weighted through their endpoints here (`decode::endpoint`); what counts is the policy inside.
        let config = unpack::<WrrLocality>("typed_config", any)?;
        let Some(inner) = config.endpoint_picking_policy else {
            return Err(Fault::new("endpoint_picking_policy", "is missing"));
        };
        match listed(&inner, depth - 1).map_err(|fault| fault.within("endpoint_picking_policy"))? {
            Entry::Unknown => Err(Fault::new(
                "endpoint_picking_policy.policies",
                "none of them is supported",
            )),
            known => Ok(known),
        }
    } else {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        Ok(match NOT_HAD.contains(&name) {
            true => Entry::NotHad(name.into()),
            false => Entry::Unknown,
        })
    }
}

fn least_request(count: Option<&UInt32Value>) -> Result<LbPolicy, Fault> {
    match count.map_or(DEFAULT_CHOICES, |count| count.value) {
        few @ 0..2 => Err(Fault::new(
            "choice_count",
            format!("must be at least 2, not {few} (gRFC A48)"),
        )),
        choices => Ok(LbPolicy::LeastRequest {
            choices: choices.min(MAX_CHOICES),
        }),
    }
}
