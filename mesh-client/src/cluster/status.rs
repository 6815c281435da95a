//! What the live clusters are doing, for metrics and for whoever looks.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::Link;
use mesh_core::breaker::{Breaker, ClusterBreakers};
use mesh_core::config::{CircuitBreakers, ClusterName, RoutingPriority};
use tokio::time::Instant;

use super::ClusterManager;

/// A live cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Its name.
    pub name: ClusterName,
    /// How many endpoints its configuration has.
    pub endpoints: usize,
    /// Those that outlier detection took out.
    pub ejected: Vec<EjectedEndpoint>,
    /// How its calls are dealt out among its priorities, the first one's first.
    pub priorities: Vec<PriorityStatus>,
    /// What its calls of the default priority use.
    pub default: BreakerStatus,
    /// What its calls of high priority use.
    pub high: BreakerStatus,
}

/// An endpoint that outlier detection took out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectedEndpoint {
    /// Its address.
    pub address: SocketAddr,
    /// Why, by Envoy's word.
    pub cause: &'static str,
    /// For how long still; it returns with the first interval that ends later.
    pub remaining: Duration,
}

/// What one priority of a cluster takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityStatus {
    /// Its number.
    pub priority: u32,
    /// Percent of the cluster's calls that go to its healthy endpoints; in panic, to all of them.
    pub healthy_percent: u32,
    /// Percent of the cluster's calls that go to its degraded endpoints.
    pub degraded_percent: u32,
    /// Too few of its endpoints can be called: all are, whatever is known of their health.
    pub panic: bool,
}

/// The circuit breakers of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerStatus {
    /// Connections, and those being made.
    pub connections: Usage,
    /// Calls that wait for a connection.
    pub pending_requests: Usage,
    /// Calls in flight.
    pub requests: Usage,
}

/// How much of a limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// How much is used.
    pub used: u32,
    /// What is left, where the configuration asks for it (Envoy `track_remaining`).
    pub remaining: Option<u32>,
}

/// The clusters that `link` calls now, by name. Reading them makes no call wait.
///
/// # Panics
///
/// As [`Channel::new`](crate::Channel::new).
pub fn clusters(link: &Link) -> Vec<ClusterStatus> {
    status_of(&ClusterManager::of(link))
}

/// See [`clusters`].
pub(crate) fn status_of(manager: &ClusterManager) -> Vec<ClusterStatus> {
    let now = Instant::now().into_std();
    let live = manager.live_clusters();
    let status = live.into_iter().map(|handle| {
        let set = handle.hosts().load();
        let cluster = std::sync::Arc::clone(&set.wanted);
        let priorities = set.levels().priorities().map(|(priority, load)| PriorityStatus {
            priority,
            healthy_percent: load.healthy,
            degraded_percent: load.degraded,
            panic: load.panic,
        });
        let priorities = priorities.collect();
        drop(set);
        let of = |priority| breaker_status(handle.breakers(), &cluster.breakers, priority);
        let ejected = handle.ejections().into_iter().map(|ejection| EjectedEndpoint {
            address: ejection.address,
            cause: ejection.cause.as_str(),
            remaining: ejection.until.saturating_duration_since(now),
        });
        ClusterStatus {
            name: cluster.name.clone(),
            endpoints: cluster.endpoints.len(),
            ejected: ejected.collect(),
            priorities,
            default: of(RoutingPriority::Default),
            high: of(RoutingPriority::High),
        }
    });
    let mut status: Vec<ClusterStatus> = status.collect();
    status.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    status
}

fn breaker_status(used: &ClusterBreakers, limits: &CircuitBreakers, priority: RoutingPriority) -> BreakerStatus {
    let (used, limits) = (used.of(priority), limits.of(priority));
    let usage = |breaker: &Breaker, max| Usage {
        used: breaker.used(),
        remaining: limits.track_remaining.then(|| breaker.remaining(max)),
    };
    BreakerStatus {
        connections: usage(&used.connections, limits.max_connections),
        pending_requests: usage(&used.pending_requests, limits.max_pending_requests),
        requests: usage(&used.requests, limits.max_requests),
    }
}
