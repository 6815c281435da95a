//! Where further tries go: Envoy's extensions for that. One that is not known makes tries go where the balancer says, which is
//! worth a note and no refusal.

use prost::Name as _;

use crate::decode::common::unpack;
use crate::decode::{Fault, Notes};
use crate::proto::route::retry_policy::{
    RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority::ConfigType,
};
use crate::proto::{PreviousHostsPredicate, PreviousPrioritiesConfig};

/// The name by which older control planes say it, without a type.
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";
/// The most draws for another host: each is a look at one.
const MAX_ATTEMPTS: u32 = 100;

pub(super) fn previous_hosts(protos: &[RetryHostPredicate], notes: &mut Notes) -> bool {
    let mut found = false;
    for proto in protos {
        let known = match &proto.config_type {
            Some(retry_host_predicate::ConfigType::TypedConfig(any)) => {
                any.type_url == PreviousHostsPredicate::type_url() || proto.name == PREVIOUS_HOSTS
            }
            None => proto.name == PREVIOUS_HOSTS,
        };
        if !known {
            notes.add(format_args!("retry_host_predicate {:?} is not applied", proto.name));
        }
        found |= known;
    }
    found
}

/// Absent, and what is no number of draws, is one (Envoy).
pub(super) fn attempts(proto: i64) -> u32 {
    u32::try_from(proto).unwrap_or(1).clamp(1, MAX_ATTEMPTS)
}

pub(super) fn previous_priorities(proto: Option<&RetryPriority>, notes: &mut Notes) -> Result<Option<u32>, Fault> {
    let Some(proto) = proto else { return Ok(None) };
    let Some(ConfigType::TypedConfig(any)) = &proto.config_type else {
        notes.add(format_args!("retry_priority {:?} is not applied", proto.name));
        return Ok(None);
    };
    if any.type_url != PreviousPrioritiesConfig::type_url() {
        notes.add(format_args!("retry_priority {:?} is not applied", proto.name));
        return Ok(None);
    }
    let outer = |fault: Fault| fault.within("retry_priority");
    let config: PreviousPrioritiesConfig = unpack("typed_config", any).map_err(outer)?;
    match u32::try_from(config.update_frequency) {
        Ok(frequency) if frequency > 0 => Ok(Some(frequency)),
        _ => Err(outer(Fault::new(
            "typed_config.update_frequency",
            "must be more than 0",
        ))),
    }
}
