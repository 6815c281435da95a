//! Limits of what is in use at once. gRPC reads `max_requests` of the first default threshold alone (gRFC A32); what else a
//! control plane says is honoured all the same, and what it does not say follows whose rules it writes by.

use mesh_core::config::{CircuitBreakers, Thresholds};

use super::retries;
use crate::bootstrap::Profile;
use crate::decode::{Context, Fault, Notes};
use crate::proto::cluster::{CircuitBreakers as Proto, circuit_breakers::Thresholds as ThresholdsProto};
use crate::proto::core::RoutingPriority;

pub(super) fn breakers(proto: Option<&Proto>, context: &Context, notes: &mut Notes) -> Result<CircuitBreakers, Fault> {
    let Some(proto) = proto else {
        return Ok(CircuitBreakers::same(unsaid(context)));
    };
    for (list, name) in [
        (&proto.thresholds, "thresholds"),
        (&proto.per_host_thresholds, "per_host_thresholds"),
    ] {
        if let Some(index) = list
            .iter()
            .position(|one| RoutingPriority::try_from(one.priority).is_err())
        {
            let reason = format!("{} is not a priority", list[index].priority);
            return Err(Fault::new(format!("{name}[{index}].priority"), reason));
        }
        if list.iter().any(|one| one.max_connection_pools.is_some()) {
            notes.add("max_connection_pools has no effect: an endpoint has one pool");
        }
    }
    let of = |priority| {
        Ok(Thresholds {
            retries: retries::limits(proto, priority, context)?,
            ..thresholds(proto, priority, context)
        })
    };
    Ok(CircuitBreakers {
        default: of(RoutingPriority::Default)?,
        high: of(RoutingPriority::High)?,
    })
}

/// What holds where nothing is said.
fn unsaid(context: &Context) -> Thresholds {
    match context.profile {
        Profile::Grpc => Thresholds::GRPC,
        Profile::Envoy => Thresholds::ENVOY,
    }
}

/// Of several thresholds of a priority the first counts (Envoy).
fn thresholds(proto: &Proto, priority: RoutingPriority, context: &Context) -> Thresholds {
    let first = |list: &[ThresholdsProto]| list.iter().find(|one| one.priority == priority as i32).copied();
    let per_host = first(&proto.per_host_thresholds).and_then(|one| one.max_connections);
    let unsaid = Thresholds {
        max_connections_per_host: per_host.map(|max| max.value),
        ..unsaid(context)
    };
    let Some(said) = first(&proto.thresholds) else {
        return unsaid;
    };
    Thresholds {
        max_connections: said.max_connections.map_or(unsaid.max_connections, |max| max.value),
        max_pending_requests: said
            .max_pending_requests
            .map_or(unsaid.max_pending_requests, |max| max.value),
        max_requests: said.max_requests.map_or(unsaid.max_requests, |max| max.value),
        track_remaining: said.track_remaining,
        ..unsaid
    }
}
