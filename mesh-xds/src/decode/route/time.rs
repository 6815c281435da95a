//! The times of a route: `timeout`, `max_stream_duration` and what gRPC makes of it, `idle_timeout`.

use std::time::Duration;

use mesh_core::config::TimeLimits;

use crate::decode::Fault;
use crate::decode::common::{duration, limit};
use crate::proto::protobuf;
use crate::proto::route::RouteAction;

/// The timeout, where zero and absence both mean none and Envoy's 15 s default is not applied (Istio's users expect no limit
/// where they wrote none), and the other limits, where a zero that is said ends the search for one. `stream_is_timeout`: our own control
/// plane says a timeout both ways, since gRPC's clients go by the other one, and it is one limit. Elsewhere they are two, even if they are as
/// long: whoever says the longest stream of a route says that the connection manager's does not hold there (gRFC A31, Envoy).
#[allow(deprecated, reason = "istiod writes max_grpc_timeout to sidecars")]
pub(super) fn limits(action: &RouteAction, stream_is_timeout: bool) -> Result<(Option<Duration>, TimeLimits), Fault> {
    let timeout = limit("timeout", action.timeout.as_ref())?;
    let mut limits = TimeLimits {
        grpc_max: said("max_grpc_timeout", action.max_grpc_timeout.as_ref())?,
        grpc_offset: limit("grpc_timeout_offset", action.grpc_timeout_offset.as_ref())?,
        idle: said("idle_timeout", action.idle_timeout.as_ref())?,
        ..TimeLimits::default()
    };
    if let Some(max) = &action.max_stream_duration {
        let at = |fault: Fault| fault.within("max_stream_duration");
        let stream = said("max_stream_duration", max.max_stream_duration.as_ref()).map_err(at)?;
        limits.max_stream = stream.filter(|stream| !stream_is_timeout || Some(*stream) != timeout);
        let grpc = said("grpc_timeout_header_max", max.grpc_timeout_header_max.as_ref()).map_err(at)?;
        limits.grpc_max = grpc.or(limits.grpc_max);
        let offset = limit("grpc_timeout_header_offset", max.grpc_timeout_header_offset.as_ref()).map_err(at)?;
        limits.grpc_offset = offset.or(limits.grpc_offset);
    }
    Ok((timeout, limits))
}

/// A limit that may be said to be none.
pub(in crate::decode) fn said(field: &str, value: Option<&protobuf::Duration>) -> Result<Option<Duration>, Fault> {
    value.map(|value| duration(field, value)).transpose()
}
