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

impl Health {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Draining, Self::Unhealthy];
}

/// Some of the words on an endpoint's health (Envoy `HealthStatusSet`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HealthSet(u8);

impl HealthSet {
    /// Those of endpoints that new calls go to.
    pub const CALLABLE: Self = Self(bit(Health::Healthy) | bit(Health::Degraded));

    /// Whether it is one of them.
    pub fn contains(self, health: Health) -> bool {
        self.0 & bit(health) != 0
    }

    /// Those that are in it, in the order of [`Health::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Health> {
        Health::ALL.into_iter().filter(move |health| self.contains(*health))
    }
}

impl FromIterator<Health> for HealthSet {
    fn from_iter<T: IntoIterator<Item = Health>>(all: T) -> Self {
        Self(all.into_iter().fold(0, |set, health| set | bit(health)))
    }
}

const fn bit(health: Health) -> u8 {
    1 << health as u8
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
