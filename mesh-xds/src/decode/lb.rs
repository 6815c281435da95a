//! How an endpoint is chosen: the policy list of gRFC A52 wins over the older enum.

use mesh_core::config::LbPolicy;

use super::Fault;
use super::common::unpack;
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

pub(super) fn policy(cluster: &Cluster) -> Result<LbPolicy, Fault> {
    if let Some(list) = &cluster.load_balancing_policy {
        return listed(list, MAX_DEPTH).map_err(|fault| fault.within("load_balancing_policy"));
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
        Ok(other) => Err(Fault::new(
            "lb_policy",
            format!("{} is not supported", other.as_str_name()),
        )),
        Err(_) => Err(Fault::new(
            "lb_policy",
            format!("{} is not a policy", cluster.lb_policy),
        )),
    }
}

/// The first of the list that is known here.
fn listed(list: &LoadBalancingPolicy, depth: usize) -> Result<LbPolicy, Fault> {
    if depth == 0 {
        return Err(Fault::new("policies", "are nested too deeply"));
    }
    let configs = list
        .policies
        .iter()
        .filter_map(|policy| policy.typed_extension_config.as_ref()?.typed_config.as_ref());
    for (index, any) in configs.enumerate() {
        if let Some(known) = one(any, depth).map_err(|fault| fault.within(format_args!("policies[{index}]")))? {
            return Ok(known);
        }
    }
    Err(Fault::new("policies", "none of them is supported"))
}

fn one(any: &Any, depth: usize) -> Result<Option<LbPolicy>, Fault> {
    let is = |url: String| any.type_url == url;
    if is(RoundRobin::type_url()) {
        Ok(Some(LbPolicy::RoundRobin))
    } else if is(Random::type_url()) {
        Ok(Some(LbPolicy::Random))
    } else if is(LeastRequest::type_url()) {
        let config = unpack::<LeastRequest>("typed_config", any)?;
        least_request(config.choice_count.as_ref()).map(Some)
    } else if is(WrrLocality::type_url()) {
        // Localities are weighted through their endpoints here (`decode::endpoint`); what counts is the policy inside.
        let config = unpack::<WrrLocality>("typed_config", any)?;
        let Some(inner) = config.endpoint_picking_policy else {
            return Err(Fault::new("endpoint_picking_policy", "is missing"));
        };
        listed(&inner, depth - 1)
            .map(Some)
            .map_err(|fault| fault.within("endpoint_picking_policy"))
    } else {
        Ok(None)
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
