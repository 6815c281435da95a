//! How long a call may take, out of all who have a say in it.
//!
//! The shortest wins: the route, the caller's own `grpc-timeout`, and what is left of the request that the call is made for. gRPC
//! and Envoy differ in which of a route's limits is meant for whom; Istio's users expect `timeout` to hold for every call, so
//! for gRPC it stands in where no limit meant for gRPC is said (gRFC A31, Envoy's router).

mod wire;

use std::time::Duration;

use crate::config::{Route, TimeLimits};

pub use wire::{EXPECTED, GRPC_TIMEOUT, grpc_timeout, parse_grpc_timeout, parse_millis, whole_millis};

/// What is kept back of the time of an inbound request when it is passed on, so that "too late" from below is heard before the
/// own time is up.
pub const MARGIN: Duration = Duration::from_millis(1);

/// What a call's own request says of its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// It is a gRPC call.
    pub grpc: bool,
    /// Its `grpc-timeout`.
    pub grpc_timeout: Option<Duration>,
    /// What it asks for in place of the route's timeout; zero: none (Envoy `x-envoy-upstream-rq-timeout-ms`).
    pub asked: Option<Duration>,
    /// What is left of the inbound request it is made for.
    pub inherited: Option<Duration>,
}

/// The limit of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How long it may take in all.
    pub total: Duration,
    /// Whose limit it is.
    pub of: Of,
}

/// Whose limit a call's limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The route's timeout, or what the request asked for in its place.
    Route,
    /// The route's longest stream.
    MaxStream,
    /// The caller's `grpc-timeout`.
    Caller,
    /// The inbound request's.
    Inherited,
}

/// The limit of a call on `route`; `None`: there is none.
pub fn limit(route: &Route, caller: &Caller) -> Option<Limit> {
    let (timeout, max_stream) = of_route(route.timeout, &route.limits, caller);
    let inherited = caller.inherited.map(|left| left.saturating_sub(MARGIN));
    let of_caller = caller.grpc_timeout.filter(|_| caller.grpc).map(|header| {
        // Envoy: an offset that is as long as the time itself is not taken off.
        let offset = route.limits.grpc_offset.filter(|offset| *offset < header);
        header - offset.unwrap_or_default()
    });
    // The first of those that are as short. Spelled out, since every call comes here.
    let mut least = timeout.map(|total| Limit { total, of: Of::Route });
    for (total, of) in [
        (max_stream, Of::MaxStream),
        (of_caller, Of::Caller),
        (inherited, Of::Inherited),
    ] {
        if let Some(total) = total
            && least.is_none_or(|least| total < least.total)
        {
            least = Some(Limit { total, of });
        }
    }
    least
}

/// The limits of a route for this call: of the call, and of its stream.
fn of_route(timeout: Option<Duration>, limits: &TimeLimits, caller: &Caller) -> (Option<Duration>, Option<Duration>) {
    let some = |limit: Duration| Some(limit).filter(|limit| !limit.is_zero());
    let asked = caller.asked.map(some);
    let max_stream = limits.max_stream.and_then(some);
    if !caller.grpc {
        return (asked.unwrap_or(timeout), max_stream);
    }
    match (limits.grpc_max, limits.max_stream) {
        (Some(grpc), _) => (asked.unwrap_or_else(|| some(grpc)), None),
        // Being said, it is what a gRPC client goes by, whatever stands in `timeout`.
        (None, Some(_)) => (asked.flatten(), max_stream),
        (None, None) => (asked.unwrap_or(timeout), None),
    }
}

#[cfg(test)]
mod tests;
