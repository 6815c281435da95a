//! `slow_start_config`: of round robin and of least request, in the older fields or in the list of policies.

use mesh_core::config::{Percent, SlowStart};

use crate::decode::Fault;
use crate::decode::common::duration;
use crate::proto::cluster::{
    Cluster,
    cluster::{LbConfig, LbPolicy as LbEnum},
};
use crate::proto::core::RuntimeDouble;
use crate::proto::lb::common::v3::SlowStartConfig as Listed;
use crate::proto::percent::Percent as PercentProto;
use crate::proto::protobuf::Duration as DurationProto;

/// The three fields that both messages of this name have.
type Fields = (Option<DurationProto>, Option<RuntimeDouble>, Option<PercentProto>);

/// What the older fields say.
pub(super) fn of_enum(cluster: &Cluster) -> Result<Option<SlowStart>, Fault> {
    let config = match (LbEnum::try_from(cluster.lb_policy), &cluster.lb_config) {
        (Ok(LbEnum::RoundRobin), Some(LbConfig::RoundRobinLbConfig(config))) => config.slow_start_config.clone(),
        (Ok(LbEnum::LeastRequest), Some(LbConfig::LeastRequestLbConfig(config))) => config.slow_start_config.clone(),
        _ => None,
    };
    config
        .map(|config| within(&(config.slow_start_window, config.aggression, config.min_weight_percent)))
        .transpose()
}

/// What a policy of a list says.
pub(super) fn listed(config: Listed) -> Result<SlowStart, Fault> {
    within(&(config.slow_start_window, config.aggression, config.min_weight_percent))
}

fn within(fields: &Fields) -> Result<SlowStart, Fault> {
    read(fields).map_err(|fault| fault.within("slow_start_config"))
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
