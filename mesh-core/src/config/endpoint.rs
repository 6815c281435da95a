//! Where a cluster can be called, as configured. The live counterpart, with its connections and counters, is the data
//! plane's `Host`.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Metadata, Weight};

/// One address of a cluster (Envoy `LbEndpoint`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Its share among the endpoints of its locality, or of its priority where localities are not weighed.
    pub weight: Weight,
    /// What the control plane says of its health.
    pub health: Health,
    /// 0 is tried first; a greater number serves when those before it cannot take all calls ([`CommonLb`](super::CommonLb)).
    pub priority: u32,
    /// Where it stands.
    pub locality: Arc<Locality>,
    /// What else is said of it, its locality's values included. Shared, since most endpoints of a cluster say the same.
    pub metadata: Arc<Metadata>,
}

impl Endpoint {
    /// A healthy endpoint of weight 1 and priority 0, without a locality.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            weight: Weight::ONE,
            health: Health::Healthy,
            priority: 0,
            locality: Arc::default(),
            metadata: Arc::default(),
        }
    }

    /// What it goes by where calls are hashed, if not by its address (Envoy; gRFC A76).
    pub fn hash_key(&self) -> Option<&str> {
        self.metadata
            .value("envoy.lb", "hash_key")
            .filter(|key| !key.is_empty())
    }
}

/// The control plane's word on an endpoint (Envoy `HealthStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Healthy, or nobody said otherwise.
    Healthy,
    /// Works, but worse than it should: called when no endpoint is healthy (Envoy).
    Degraded,
    /// Finishing: gets no new call.
    Draining,
    /// Not to be called.
    Unhealthy,
}

/// A share of a cluster's calls that the control plane wants failed without being sent (Envoy `drop_overloads`, gRFC A27).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DropOverload {
    /// The name it is counted by.
    pub category: Box<str>,
    /// How many calls in a million: at most [`ALL`](Self::ALL).
    pub per_million: u32,
}

impl DropOverload {
    /// Every call.
    pub const ALL: u32 = 1_000_000;
}

/// Region, zone and sub-zone, each possibly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Region.
    pub region: Box<str>,
    /// Zone within the region.
    pub zone: Box<str>,
    /// Sub-zone within the zone.
    pub sub_zone: Box<str>,
}
