//! Clusters whose hosts are names: STRICT_DNS, where each address is an endpoint, and LOGICAL_DNS, where they are one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::Weight;

use crate::decode::address::host_and_port;
use crate::decode::common::duration;
use crate::decode::endpoint::groups::{Member, Place, Read, flatten};
use crate::decode::{Context, Fault, Notes};
use crate::proto::cluster::Cluster as Proto;
use crate::proto::endpoint::{ClusterLoadAssignment, Endpoint as EndpointProto};
use crate::resource::{DnsCluster, DnsHost, DnsKind};

/// How long an answer is used when nothing is said (Envoy).
const DEFAULT_REFRESH: Duration = Duration::from_secs(5);
/// The shortest: every process of a mesh asks the same resolver.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// The longest name (RFC 1035).
const MAX_HOST_BYTES: usize = 255;

pub(super) fn cluster(proto: &Proto, kind: DnsKind, context: &Context, notes: &mut Notes) -> Result<DnsCluster, Fault> {
    let inner = |fault: Fault| fault.within("load_assignment");
    let assignment = proto
        .load_assignment
        .as_ref()
        .ok_or_else(|| Fault::new("load_assignment", "is missing"))?;
    if kind == DnsKind::Logical {
        exactly_one(assignment).map_err(inner)?;
    }
    let mut reader = Names::default();
    let (hosts, localities) = flatten::<DnsHost, _>(assignment, false, context, notes, &mut reader).map_err(inner)?;
    if kind == DnsKind::Logical && hosts.len() != 1 {
        return Err(inner(Fault::new("endpoints", "its one locality has no weight")));
    }
    Ok(DnsCluster {
        kind,
        hosts,
        refresh: refresh(proto, notes)?,
        localities,
    })
}

/// gRFC A37.
fn exactly_one(assignment: &ClusterLoadAssignment) -> Result<(), Fault> {
    let [locality] = &assignment.endpoints[..] else {
        let reason = format!("must hold exactly one locality, not {}", assignment.endpoints.len());
        return Err(Fault::new("endpoints", reason));
    };
    match locality.lb_endpoints.len() {
        1 => Ok(()),
        count => Err(Fault::new(
            "endpoints[0].lb_endpoints",
            format!("must hold exactly one endpoint, not {count}"),
        )),
    }
}

#[allow(
    deprecated,
    reason = "istiod writes it; the extension that replaces it is read by few"
)]
fn refresh(proto: &Proto, notes: &mut Notes) -> Result<Duration, Fault> {
    let Some(rate) = &proto.dns_refresh_rate else {
        return Ok(DEFAULT_REFRESH);
    };
    match duration("dns_refresh_rate", rate)? {
        zero if zero.is_zero() => Err(Fault::new("dns_refresh_rate", "must be more than 0")),
        short if short < MIN_REFRESH => {
            notes.add(format_args!("dns_refresh_rate {short:?} was raised to {MIN_REFRESH:?}"));
            Ok(MIN_REFRESH)
        }
        rate => Ok(rate),
    }
}

/// Reads hosts and remembers which there were.
#[derive(Default)]
struct Names {
    seen: HashSet<(Box<str>, u16)>,
}

impl Read<DnsHost> for Names {
    fn read(&mut self, proto: &EndpointProto, place: Place<'_>, _notes: &mut Notes) -> Result<Option<DnsHost>, Fault> {
        let inner = |fault: Fault| fault.within("address");
        let (socket, port) = host_and_port(proto.address.as_ref()).map_err(inner)?;
        if !socket.resolver_name.is_empty() {
            let reason = "another resolver than the process's own is not supported (gRFC A37)";
            return Err(inner(Fault::new("socket_address.resolver_name", reason)));
        }
        let host: Box<str> = socket.address.as_str().into();
        if host.is_empty() || host.len() > MAX_HOST_BYTES {
            return Err(inner(Fault::new("socket_address.address", "is not a host name")));
        }
        if !self.seen.insert((host.clone(), port)) {
            return Err(Fault::new("address", format!("{host}:{port} is there twice")));
        }
        Ok(Some(DnsHost {
            host,
            port,
            weight: place.weight,
            priority: place.priority,
            locality: Arc::clone(place.locality),
            metadata: place.metadata,
        }))
    }
}

impl Member for DnsHost {
    fn weight(&self) -> Weight {
        self.weight
    }
}
