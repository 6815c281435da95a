//! How long streams may last and be quiet, as configured. [`crate::deadline`] decides by it.

use std::sync::Arc;
use std::time::Duration;

use super::RouteTree;

/// The limits of a route's streams beside its timeout. Of each, `None` says nothing, and what stands further out holds; zero
/// says that there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TimeLimits {
    /// The longest any stream may last (Envoy `max_stream_duration`).
    pub max_stream: Option<Duration>,
    /// The longest a gRPC call may last, in place of timeout and `max_stream` (Envoy `grpc_timeout_header_max` and its
    /// predecessor `max_grpc_timeout`; gRFC A31).
    pub grpc_max: Option<Duration>,
    /// What is taken off the time that a gRPC caller gives, so that the answer is back in time (Envoy
    /// `grpc_timeout_header_offset`).
    pub grpc_offset: Option<Duration>,
    /// The longest a stream may go without a byte in either direction (Envoy `idle_timeout`, `stream_idle_timeout`).
    pub idle: Option<Duration>,
    /// The peer is not told how long a call may take, but for what the caller, or a limit that is meant for gRPC, says to a gRPC
    /// server. By default it is (Envoy's router: `suppress_envoy_headers`).
    pub untold: bool,
}

impl TimeLimits {
    /// How long a stream may be idle where Envoy is told nothing.
    pub const ENVOY_IDLE: Duration = Duration::from_secs(300);

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and where they say nothing, those.
    #[must_use]
    pub fn or(self, outer: Self) -> Self {
        Self {
            max_stream: self.max_stream.or(outer.max_stream),
            grpc_max: self.grpc_max.or(outer.grpc_max),
            grpc_offset: self.grpc_offset.or(outer.grpc_offset),
            idle: self.idle.or(outer.idle),
            untold: self.untold || outer.untold,
        }
    }
}

impl RouteTree {
    /// The same tree, with what its connection manager says where its routes say nothing (Envoy: a route's own limits come
    /// first).
    pub fn within(self: &Arc<Self>, outer: TimeLimits) -> Arc<Self> {
        if outer.is_empty() {
            return Arc::clone(self);
        }
        let mut tree = (**self).clone();
        for route in tree.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
            let limits = route.limits.or(outer);
            // An answer that a route gives by itself is no stream.
            if limits != route.limits && route.forward().is_some() {
                Arc::make_mut(route).limits = limits;
            }
        }
        Arc::new(tree)
    }
}
