//! Where a cluster can be called, as configured. The live counterpart, with its connections and counters, is the data
//! plane's `Host`.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Weight;

/// One address of a cluster (Envoy `LbEndpoint`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Its share among the endpoints of its priority.
    pub weight: Weight,
    /// What the control plane says of its health.
    pub health: Health,
    /// 0 is tried first; a greater number serves only when no smaller one has an endpoint.
    pub priority: u32,
    /// Where it stands.
    pub locality: Arc<Locality>,
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
        }
    }
}

/// The control plane's word on an endpoint (Envoy `HealthStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Healthy, or nobody said otherwise.
    Healthy,
    /// Finishing: gets no new call.
    Draining,
    /// Not to be called.
    Unhealthy,
}

/// Region, zone and sub-zone, each possibly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region.
    pub region: Box<str>,
    /// Zone within the region.
    pub zone: Box<str>,
    /// Sub-zone within the zone.
    pub sub_zone: Box<str>,
}
