//! How long a call may take, out of all who have a say in it.
//!
//! The shortest wins: the route, the caller's own `grpc-timeout`, and what is left of the request that the call is made for. gRPC
//! and Envoy differ in which of a route's limits is meant for whom; Istio's users expect `timeout` to hold for every call, so
//! for gRPC it stands in where no limit meant for gRPC is said (gRFC A31, Envoy's router).
//!
//! They differ in where they begin, too. A route's timeout is the answer's: it runs from when all of the request is on its way, and no
//! delay that a fault makes is part of it (Envoy's router). The others run from the call's begin.

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

/// What limits a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How long the answer may take, from the end of the request: the route's timeout, or what the request asked for in its place.
    pub answer: Option<Duration>,
    /// How long all may take, from the call's begin: the shortest of the other limits.
    pub whole: Option<Limit>,
}

impl Limits {
    /// The limit of a call whose request is there as a whole when it begins; `None`: there is none.
    pub fn least(&self) -> Option<Limit> {
        match (self.answer, self.whole) {
            (Some(answer), whole) if whole.is_none_or(|whole| answer <= whole.total) => Some(Limit {
                total: answer,
                of: Of::Route,
            }),
            (_, whole) => whole,
        }
    }
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
    /// The route's timeout, what the request asked for in its place, or what the route gives gRPC calls.
    Route,
    /// The route's longest stream.
    MaxStream,
    /// The caller's `grpc-timeout`.
    Caller,
    /// The inbound request's.
    Inherited,
}

/// What limits a call on `route`.
pub fn limits(route: &Route, caller: &Caller) -> Limits {
    let OfRoute {
        answer,
        grpc_max,
        max_stream,
    } = of_route(route.timeout, &route.limits, caller);
    let inherited = caller.inherited.map(|left| left.saturating_sub(MARGIN));
    let of_caller = caller.grpc_timeout.filter(|_| caller.grpc).map(|header| {
        // Envoy: an offset that is as long as the time itself is not taken off.
        let offset = route.limits.grpc_offset.filter(|offset| *offset < header);
        header - offset.unwrap_or_default()
    });
    // The first of those that are as short. Spelled out, since every call comes here.
    let mut least: Option<Limit> = None;
    for (total, of) in [
        (grpc_max, Of::Route),
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
    Limits { answer, whole: least }
}

/// The limits of a route for a call.
#[derive(Default)]
struct OfRoute {
    answer: Option<Duration>,
    /// What holds for a gRPC call in the place of others.
    grpc_max: Option<Duration>,
    max_stream: Option<Duration>,
}

fn of_route(timeout: Option<Duration>, limits: &TimeLimits, caller: &Caller) -> OfRoute {
    let some = |limit: Duration| Some(limit).filter(|limit| !limit.is_zero());
    let asked = caller.asked.map(some);
    let max_stream = limits.max_stream.and_then(some);
    if !caller.grpc {
        return OfRoute {
            answer: asked.unwrap_or(timeout),
            max_stream,
            grpc_max: None,
        };
    }
    match (limits.grpc_max, limits.max_stream) {
        (Some(grpc), _) => OfRoute {
            answer: asked.flatten(),
            // What the request asks for stands in its place, too.
            grpc_max: some(grpc).filter(|_| asked.is_none()),
            max_stream: None,
        },
        // Being said, it is what a gRPC client goes by, whatever stands in `timeout`.
        (None, Some(_)) => OfRoute {
            answer: asked.flatten(),
            max_stream,
            grpc_max: None,
        },
        (None, None) => OfRoute {
            answer: asked.unwrap_or(timeout),
            ..OfRoute::default()
        },
    }
}

#[cfg(test)]
mod tests;
