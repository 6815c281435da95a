//! `slow_start_config`: of round robin and of least request, in the older fields or in the list of policies.

use mesh_core::config::{Percent, SlowStart};
use prost::Name;

use crate::decode::Fault;
use crate::decode::common::{duration, unpack};
use crate::proto::cluster::{
    Cluster, LoadBalancingPolicy,
    cluster::{LbConfig, LbPolicy as LbEnum},
};
use crate::proto::core::RuntimeDouble;
use crate::proto::lb::{least_request::v3::LeastRequest, round_robin::v3::RoundRobin, wrr_locality::v3::WrrLocality};
use crate::proto::percent::Percent as PercentProto;
use crate::proto::protobuf::Duration as DurationProto;

/// How deep policies may nest (gRFC A52).
const MAX_DEPTH: usize = 16;

/// The three fields that both messages of this name have.
type Fields = (Option<DurationProto>, Option<RuntimeDouble>, Option<PercentProto>);

/// Of the policies listed that of the first that has one counts: which of them is used is decided elsewhere, and a control plane
/// that writes several means the same by all.
pub(super) fn slow_start(cluster: &Cluster) -> Result<Option<SlowStart>, Fault> {
    let found = match &cluster.load_balancing_policy {
        Some(list) => listed(list, MAX_DEPTH).map_err(|fault| fault.within("load_balancing_policy"))?,
        None => match (LbEnum::try_from(cluster.lb_policy), &cluster.lb_config) {
            (Ok(LbEnum::RoundRobin), Some(LbConfig::RoundRobinLbConfig(config))) => config.slow_start_config.clone(),
            (Ok(LbEnum::LeastRequest), Some(LbConfig::LeastRequestLbConfig(config))) => {
                config.slow_start_config.clone()
            }
            _ => None,
        }
        .map(|config| (config.slow_start_window, config.aggression, config.min_weight_percent)),
    };
    found
        .map(|fields| read(&fields).map_err(|fault| fault.within("slow_start_config")))
        .transpose()
}

fn listed(list: &LoadBalancingPolicy, depth: usize) -> Result<Option<Fields>, Fault> {
    if depth == 0 {
        return Ok(None);
    }
    let policies = list.policies.iter();
    for any in policies.filter_map(|policy| policy.typed_extension_config.as_ref()?.typed_config.as_ref()) {
        let found = if any.type_url == RoundRobin::type_url() {
            unpack::<RoundRobin>("typed_config", any)?.slow_start_config
        } else if any.type_url == LeastRequest::type_url() {
            unpack::<LeastRequest>("typed_config", any)?.slow_start_config
        } else if any.type_url == WrrLocality::type_url() {
            let inner = unpack::<WrrLocality>("typed_config", any)?.endpoint_picking_policy;
            if let Some(found) = inner.map(|inner| listed(&inner, depth - 1)).transpose()?.flatten() {
                return Ok(Some(found));
            }
            None
        } else {
            None
        };
        if let Some(config) = found {
            return Ok(Some((
                config.slow_start_window,
                config.aggression,
                config.min_weight_percent,
            )));
        }
    }
    Ok(None)
}

fn read((window, aggression, min_weight): &Fields) -> Result<SlowStart, Fault> {
    let window = match window {
        None => return Err(Fault::new("slow_start_window", "is missing")),
        Some(window) => match duration("slow_start_window", window)? {
            zero if zero.is_zero() => return Err(Fault::new("slow_start_window", "must be more than 0")),
            window => window,
        },
    };
    let unsaid = SlowStart::new(window);
    Ok(SlowStart {
        aggression_per_mille: match aggression {
            None => unsaid.aggression_per_mille,
            Some(aggression) => {
                per_mille(aggression.default_value).ok_or_else(|| Fault::new("aggression", "must be more than 0"))?
            }
        },
        min_weight: match min_weight {
            None => unsaid.min_weight,
            // Envoy cuts off what is less than a percent.
            Some(percent) => Some(percent.value)
                .filter(|value| (0.0..=100.0).contains(value))
                .and_then(|value| Percent::new(value as u32))
                .ok_or_else(|| Fault::new("min_weight_percent", "must be a percentage"))?,
        },
        ..unsaid
    })
}

/// More than a million thousandths is as fast as can be told apart.
fn per_mille(value: f64) -> Option<u32> {
    (value > 0.0).then(|| (value * 1000.0).round().clamp(1.0, 1e6) as u32)
}
