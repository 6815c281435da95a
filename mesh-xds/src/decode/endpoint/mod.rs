//! `ClusterLoadAssignment`: localities with their weights and priorities, flattened to endpoints (gRFC A27).
//!
//! Envoy and gRPC choose a locality by weight and then an endpoint in it. Here an endpoint carries its share among all of
//! its priority, which gives each the same part of the traffic with one draw less.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_core::config::{Endpoint, Health, Locality, Weight};

use super::{Context, Fault, Notes, Resource};
use crate::proto::core::{Address, HealthStatus, address, socket_address::PortSpecifier};
use crate::proto::endpoint::{
    ClusterLoadAssignment as Proto, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use crate::resource::{Endpoints, ResourceKind};

mod share;

use share::Group;

impl Resource for Endpoints {
    const KIND: ResourceKind = ResourceKind::Endpoints;
    type Proto = Proto;

    fn name(proto: &Proto) -> &str {
        &proto.cluster_name
    }

    fn decode(proto: &Proto, _context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        let drops = proto.policy.as_ref().map_or(0, |policy| policy.drop_overloads.len());
        if drops > 0 {
            notes.add("drop_overloads is not applied");
        }
        // A control plane that weighs no locality means to pool them, as Envoy does; where some are weighed, one that is
        // not gets nothing (gRFC A27).
        let pooled = proto
            .endpoints
            .iter()
            .all(|locality| locality.load_balancing_weight.is_none());
        let mut groups = Groups::default();
        for (index, locality) in proto.endpoints.iter().enumerate() {
            groups
                .add(locality, pooled, notes)
                .map_err(|fault| fault.within(format_args!("endpoints[{index}]")))?;
        }
        groups.flatten()
    }
}

#[derive(Default)]
struct Groups {
    priorities: BTreeMap<u32, Vec<Group>>,
    localities: BTreeSet<(u32, [String; 3])>,
    addresses: HashSet<SocketAddr>,
}

impl Groups {
    fn add(&mut self, proto: &LocalityLbEndpoints, pooled: bool, notes: &mut Notes) -> Result<(), Fault> {
        if proto.lb_config.is_some() {
            return Err(Fault::new("lb_config", "LEDS is not supported"));
        }
        let weight = proto.load_balancing_weight.as_ref().map(|weight| weight.value);
        if weight == Some(0) || (weight.is_none() && !pooled) {
            notes.add("a locality without a weight was left out");
            return Ok(());
        }
        let id = proto
            .locality
            .as_ref()
            .ok_or_else(|| Fault::new("locality", "is missing"))?;
        let key = [id.region.clone(), id.zone.clone(), id.sub_zone.clone()];
        if !self.localities.insert((proto.priority, key)) {
            return Err(Fault::new("locality", "is there twice in one priority"));
        }
        let locality = Arc::new(Locality {
            region: id.region.as_str().into(),
            zone: id.zone.as_str().into(),
            sub_zone: id.sub_zone.as_str().into(),
        });
        let mut endpoints = Vec::with_capacity(proto.lb_endpoints.len());
        for (index, lb_endpoint) in proto.lb_endpoints.iter().enumerate() {
            let endpoint = self
                .endpoint(lb_endpoint, proto.priority, &locality)
                .map_err(|fault| fault.within(format_args!("lb_endpoints[{index}]")))?;
            endpoints.push(endpoint);
        }
        let sum = endpoints.iter().map(|endpoint| u64::from(endpoint.weight.0)).sum();
        if sum > u64::from(u32::MAX) {
            return Err(Fault::new("lb_endpoints", "weights sum to more than 4294967295"));
        }
        let weight = weight.map_or(sum, u64::from);
        let group = Group { endpoints, sum, weight };
        self.priorities.entry(proto.priority).or_default().push(group);
        Ok(())
    }

    fn endpoint(&mut self, proto: &LbEndpoint, priority: u32, locality: &Arc<Locality>) -> Result<Endpoint, Fault> {
        let Some(HostIdentifier::Endpoint(endpoint)) = &proto.host_identifier else {
            return Err(Fault::new("endpoint", "is missing"));
        };
        let address = socket_address(endpoint.address.as_ref()).map_err(|fault| fault.within("endpoint.address"))?;
        if !self.addresses.insert(address) {
            return Err(Fault::new("endpoint.address", format!("{address} is there twice")));
        }
        let weight = match &proto.load_balancing_weight {
            None => Weight::ONE,
            Some(weight) if weight.value == 0 => return Err(Fault::new("load_balancing_weight", "must be at least 1")),
            Some(weight) => Weight(weight.value),
        };
        Ok(Endpoint {
            address,
            weight,
            health: health(proto.health_status),
            priority,
            locality: Arc::clone(locality),
        })
    }

    fn flatten(self) -> Result<Endpoints, Fault> {
        let mut all = Vec::new();
        for (expected, (priority, groups)) in (0..).zip(self.priorities) {
            if priority != expected {
                let reason = format!("priority {expected} is missing below priority {priority}");
                return Err(Fault::new("endpoints", reason));
            }
            share::weigh(groups, &mut all)?;
        }
        Ok(all.into())
    }
}

fn socket_address(proto: Option<&Address>) -> Result<SocketAddr, Fault> {
    let Some(address::Address::SocketAddress(socket)) = proto.and_then(|address| address.address.as_ref()) else {
        return Err(Fault::new("socket_address", "is missing"));
    };
    let ip: IpAddr = socket.address.parse().map_err(|_| {
        Fault::new(
            "socket_address.address",
            format!("is not an IP address: {:?}", socket.address),
        )
    })?;
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).ok().filter(|port| *port != 0),
        Some(PortSpecifier::NamedPort(_)) | None => None,
    };
    let port = port.ok_or_else(|| Fault::new("socket_address.port_value", "is not a port between 1 and 65535"))?;
    Ok(SocketAddr::new(ip, port))
}

/// gRPC calls endpoints that are healthy or unknown, and no others (gRFC A27).
fn health(status: i32) -> Health {
    match HealthStatus::try_from(status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout | HealthStatus::Degraded) | Err(_) => Health::Unhealthy,
    }
}
