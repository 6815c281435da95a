//! How much of a cluster may be in use at once (Envoy `circuit_breakers`), by the priority of the route that asks.
//!
//! What is in use is counted by [`crate::breaker`], outside of the snapshot: a swap neither fills nor empties it.

use super::RetryLimits;

/// The priority of a route's calls (Envoy `RoutingPriority`). Each has limits of its own, so that a flood of the one leaves room
/// for the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoutingPriority {
    /// What is not said to be high.
    #[default]
    Default,
    /// What must go on when the rest is refused.
    High,
}

/// The limits of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CircuitBreakers {
    /// For calls of the default priority, which is all that gRPC knows (gRFC A32).
    pub default: Thresholds,
    /// For calls of high priority.
    pub high: Thresholds,
}

impl CircuitBreakers {
    /// No limit at all: what Istio means when a DestinationRule says nothing.
    pub const UNLIMITED: Self = Self::same(Thresholds::UNLIMITED);

    /// These limits for either priority, each with its own count.
    pub const fn same(thresholds: Thresholds) -> Self {
        Self {
            default: thresholds,
            high: thresholds,
        }
    }

    /// The limits of one priority.
    pub fn of(&self, priority: RoutingPriority) -> &Thresholds {
        match priority {
            RoutingPriority::Default => &self.default,
            RoutingPriority::High => &self.high,
        }
    }
}

impl Default for CircuitBreakers {
    fn default() -> Self {
        Self::same(Thresholds::GRPC)
    }
}

/// The limits of one priority in a cluster, for all of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Connections. An endpoint that has none may always be connected to, or its calls could never be made (Envoy).
    pub max_connections: u32,
    /// Connections to one endpoint (Envoy `per_host_thresholds`); `None`: what the peer's stream limit makes of it.
    pub max_connections_per_host: Option<u32>,
    /// Calls that wait for a connection being made.
    pub max_pending_requests: u32,
    /// Calls in flight; one more fails at once.
    pub max_requests: u32,
    /// Retries in flight, on top of the house's own budget.
    pub retries: RetryLimits,
    /// Whether what is left of each limit is shown.
    pub track_remaining: bool,
}

impl Thresholds {
    /// What each limit is where Envoy is told none.
    pub const ENVOY_DEFAULT: u32 = 1024;

    /// No limit.
    pub const UNLIMITED: Self = Self {
        max_connections: u32::MAX,
        max_connections_per_host: None,
        max_pending_requests: u32::MAX,
        max_requests: u32::MAX,
        retries: RetryLimits::NONE,
        track_remaining: false,
    };

    /// What holds where a control plane of gRPC's kind says nothing: 1024 calls in flight, and no other limit (gRFC A32).
    pub const GRPC: Self = Self {
        max_requests: Self::ENVOY_DEFAULT,
        ..Self::UNLIMITED
    };

    /// What holds where a control plane of Envoy's kind says nothing.
    pub const ENVOY: Self = Self {
        retries: RetryLimits::ENVOY,
        max_connections: Self::ENVOY_DEFAULT,
        max_pending_requests: Self::ENVOY_DEFAULT,
        max_requests: Self::ENVOY_DEFAULT,
        ..Self::UNLIMITED
    };
}
