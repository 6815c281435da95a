//! `ClusterLoadAssignment`: localities with their weights and priorities, as one list of endpoints (gRFC A27).
//!
//! Clusters that bring their endpoints along (STATIC, DNS) are read by the same rules, except that their localities need no
//! name.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::Authority;
use mesh_core::config::{DropOverload, Endpoint, Health, Metadata, Weight};

use super::address::{is_for_proxies, socket_address};
use super::{Context, Fault, Notes, Resource};
use crate::bootstrap::Profile;
use crate::proto::core::HealthStatus;
use crate::proto::endpoint::{
    ClusterLoadAssignment as Proto, Endpoint as EndpointProto,
    cluster_load_assignment::policy::DropOverload as DropProto,
};
use crate::proto::percent::{FractionalPercent, fractional_percent::DenominatorType};
use crate::resource::{Endpoints, ResourceKind};

pub(super) mod groups;

use groups::{Member, Place, flatten};

impl Resource for Endpoints {
    const KIND: ResourceKind = ResourceKind::Endpoints;
    type Proto = Proto;

    fn name(proto: &Proto) -> &str {
        &proto.cluster_name
    }

    fn decode(proto: &Proto, context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        read(proto, true, context, notes)
    }
}

/// Reads endpoints with IP addresses. `localities_named`: whether a locality must say which it is.
pub(super) fn read(
    proto: &Proto,
    localities_named: bool,
    context: &Context,
    notes: &mut Notes,
) -> Result<Endpoints, Fault> {
    let mut reader = Addresses {
        seen: HashSet::new(),
        profile: context.profile,
    };
    let (endpoints, localities) = flatten::<Endpoint, _>(proto, localities_named, context, notes, &mut reader)?;
    let drops = proto.policy.iter().flat_map(|policy| &policy.drop_overloads);
    let drops = drops.enumerate().map(|(index, drop)| {
        drop_overload(drop).map_err(|fault| fault.within(format_args!("policy.drop_overloads[{index}]")))
    });
    let drops: Vec<DropOverload> = drops.collect::<Result<_, _>>()?;
    Ok(Endpoints {
        endpoints: endpoints.into(),
        drops: drops.into_iter().filter(|drop| drop.per_million > 0).collect(),
        localities,
    })
}

/// Reads endpoints and remembers which addresses there were.
struct Addresses {
    seen: HashSet<SocketAddr>,
    profile: Profile,
}

impl groups::Read<Endpoint> for Addresses {
    fn read(&mut self, proto: &EndpointProto, place: Place<'_>, notes: &mut Notes) -> Result<Option<Endpoint>, Fault> {
        let lenient = self.profile == Profile::Envoy;
        if lenient && is_for_proxies(proto.address.as_ref()) {
            notes.add("an endpoint whose address only a proxy can use was left out");
            return Ok(None);
        }
        let address = socket_address(proto.address.as_ref()).map_err(|fault| fault.within("address"))?;
        if !self.seen.insert(address) {
            if lenient {
                notes.add("an endpoint that is there twice was left out once");
                return Ok(None);
            }
            return Err(Fault::new("address", format!("{address} is there twice")));
        }
        if !proto.additional_addresses.is_empty() {
            notes.add("additional_addresses is not used");
        }
        Ok(Some(Endpoint {
            address,
            weight: place.weight,
            health: health(place.health),
            priority: place.priority,
            locality: Arc::clone(place.locality),
            hostname: hostname(&proto.hostname, notes),
            metadata: place.metadata,
        }))
    }
}

/// One that is no authority is nobody's name.
fn hostname(name: &str, notes: &mut Notes) -> Option<Arc<str>> {
    if name.is_empty() {
        return None;
    }
    match Authority::try_from(name) {
        Ok(_) => Some(name.into()),
        Err(error) => {
            notes.add(format_args!("an endpoint's hostname {name:?} is not used: {error}"));
            None
        }
    }
}

impl Member for Endpoint {
    fn weight(&self) -> Weight {
        self.weight
    }
}

/// gRPC calls endpoints that are healthy or unknown, and no others (gRFC A27); Envoy calls degraded ones last.
fn health(status: i32) -> Health {
    match HealthStatus::try_from(status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) | Err(_) => Health::Unhealthy,
    }
}

fn drop_overload(proto: &DropProto) -> Result<DropOverload, Fault> {
    let percentage = proto.drop_percentage.as_ref();
    let per_million = percentage.map_or(Ok(0), per_million);
    Ok(DropOverload {
        category: proto.category.as_str().into(),
        per_million: per_million.map_err(|fault| fault.within("drop_percentage"))?,
    })
}

/// More than everything is everything (gRFC A27).
fn per_million(proto: &FractionalPercent) -> Result<u32, Fault> {
    let unit = match DenominatorType::try_from(proto.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => {
            let reason = format!("{} is not a denominator", proto.denominator);
            return Err(Fault::new("denominator", reason));
        }
    };
    Ok(proto.numerator.saturating_mul(unit).min(DropOverload::ALL))
}

/// The metadata of the endpoints of one resource, each value once: most of them say the same.
#[derive(Default)]
pub(super) struct Shared {
    known: HashSet<Arc<Metadata>>,
}

impl Shared {
    pub(super) fn one(&mut self, metadata: Metadata) -> Arc<Metadata> {
        if let Some(known) = self.known.get(&metadata) {
            return Arc::clone(known);
        }
        let new = Arc::new(metadata);
        self.known.insert(Arc::clone(&new));
        new
    }
}
