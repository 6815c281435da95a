//! Places that circuit breakers count, held by guards: whatever ends a call, a wait or a dial gives its place back.
//!
//! The counts are the cluster's for all of the process ([`mesh_core::breaker`]), so a guard holds them and not the cluster: a
//! connection must not keep the cluster alive that keeps it.

use std::sync::Arc;

use mesh_core::breaker::ClusterBreakers;
use mesh_core::config::{CircuitBreakers, RoutingPriority};

/// What a call may take of its cluster when it has to wait for a connection.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    breakers: Arc<ClusterBreakers>,
    limits: CircuitBreakers,
    priority: RoutingPriority,
}

/// A breaker that is open, by Envoy's name for its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open(pub(crate) &'static str);

impl Room {
    pub(crate) fn new(breakers: Arc<ClusterBreakers>, limits: CircuitBreakers, priority: RoutingPriority) -> Self {
        Self {
            breakers,
            limits,
            priority,
        }
    }

    /// A place to wait for a connection in.
    pub(crate) fn pending(&self) -> Result<PendingPlace, Open> {
        let pending = &self.breakers.of(self.priority).pending_requests;
        if !pending.take(self.limits.of(self.priority).max_pending_requests) {
            return Err(Open("max_pending_requests"));
        }
        Ok(PendingPlace(self.place()))
    }

    /// How many may wait in all, where that is limited.
    pub(crate) fn max_pending(&self) -> Option<u32> {
        let max = self.limits.of(self.priority).max_pending_requests;
        (max != u32::MAX).then_some(max)
    }

    /// A place for one more connection to an endpoint that has `here` of them.
    pub(crate) fn connection(&self, here: usize) -> Result<ConnectionPlace, Open> {
        let limits = self.limits.of(self.priority);
        let connections = &self.breakers.of(self.priority).connections;
        if here == 0 {
            // Its calls would wait for ever otherwise (Envoy makes the first connection of a host whatever the breaker says).
            connections.take_over_limit();
        } else if limits.max_connections_per_host.is_some_and(|max| here >= max as usize) {
            return Err(Open("max_connections per host"));
        } else if !connections.take(limits.max_connections) {
            return Err(Open("max_connections"));
        }
        Ok(ConnectionPlace(self.place()))
    }

    fn place(&self) -> Place {
        Place {
            breakers: Arc::clone(&self.breakers),
            priority: self.priority,
        }
    }
}

#[derive(Debug)]
struct Place {
    breakers: Arc<ClusterBreakers>,
    priority: RoutingPriority,
}

/// Counts a call for as long as it waits for a connection.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub(crate) struct PendingPlace(Place);

impl Drop for PendingPlace {
    fn drop(&mut self) {
        self.0.breakers.of(self.0.priority).pending_requests.give_back();
    }
}

/// Counts a connection from its dial to its end.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub(crate) struct ConnectionPlace(Place);

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.breakers.of(self.0.priority).connections.give_back();
    }
}
