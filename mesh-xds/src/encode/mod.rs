//! Core values to generated types, in the shape that each kind of client understands.
//!
//! The mirror of `decode`: what is written here for gRPC clients is read there to the same value, which a property test
//! holds to. Where clients differ, the [`Dialect`] says for whom; nothing else looks at the client.
//!
//! | | our client | gRPC (C-core, Go, Java, Node) | Envoy |
//! |---|---|---|---|
//! | listeners | API listener per target | the same | socket per port ([`socket`]) |
//! | servers' listeners | filter chains per address ([`inbound`]) | the same | none |
//! | route configurations | per target's tree | the same | per port, merged ([`egress`]) |
//! | balancing | as configured | what all of them take ([`lb`]): C-core refuses LEAST_REQUEST by its number | as configured |
//! | certificates | provider instances | the same | SDS names `default` and `ROOTCA` ([`tls`]) |
//! | endpoints | with a weight on every locality, none of them empty | the same | the same |
//!
//! A client of ours whose node is a sidecar's ([`Profile::Envoy`]) is told what an Envoy is, and its servers' listeners in
//! Istio's shape. An Envoy would have to be told to which address it passes calls on, which a listener of ours does not say.

mod action;
mod aggregate;
mod around;
mod breakers;
mod cluster;
mod common;
mod egress;
mod endpoint;
mod ext_authz;
mod fault;
mod filter;
mod hash;
mod headers;
mod inbound;
mod jwt;
mod lb;
mod limit;
mod listener;
mod matcher;
mod ordered;
mod outlier;
mod protocol;
mod rbac;
mod retry;
mod route;
mod session;
mod socket;
mod telemetry;
#[cfg(test)]
mod tests;
mod tls;
mod token;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use mesh_core::config::{
    CallFilter, Cluster, ClusterName, DropOverload, Endpoint, Inbound, Localities, RouteTree, Telemetry,
};
use prost::Message;

use crate::bootstrap::Profile;
use crate::convention::OUR_USER_AGENT;
use crate::node::Node;

pub(crate) use egress::by_port;

/// The `user_agent_name` of Envoy, and of Istio's build of it.
const ENVOY_USER_AGENT: &str = "envoy";
/// The metadata in which an Envoy says on which address its listeners shall be, if not on [`EGRESS_ADDRESS`]: one whose
/// loopback ports are taken, because the application beside it serves on the same numbers, uses 127.0.0.2.
const EGRESS_BIND: &str = "EGRESS_BIND";
/// Loopback: whoever can connect to an egress listener speaks with the workload's certificate.
pub(crate) const EGRESS_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// For whom a resource is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Dialect {
    /// Our own client, which honours every load balancing policy.
    Mesh,
    /// Any other gRPC client. C-core refuses a cluster with LEAST_REQUEST, so everyone is told ROUND_ROBIN in its place.
    Grpc,
    /// Our own client as a sidecar, which reads what Envoys are told. Its listeners catch every address.
    Sidecar,
    /// Envoy, whose listeners bind this address.
    Envoy(IpAddr),
}

impl Dialect {
    /// What to speak with this node.
    pub(crate) fn of(node: &Node) -> Result<Self, NotAnAddress> {
        match &*node.user_agent {
            OUR_USER_AGENT => Ok(match Profile::told(node) {
                Profile::Grpc => Self::Mesh,
                Profile::Envoy => Self::Sidecar,
            }),
            ENVOY_USER_AGENT => match node.metadata_text(EGRESS_BIND) {
                None => Ok(Self::Envoy(EGRESS_ADDRESS)),
                Some(text) => text.parse().map(Self::Envoy).map_err(|_| NotAnAddress(text.into())),
            },
            _ => Ok(Self::Grpc),
        }
    }

    /// Whether our own client is spoken with.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Mesh | Self::Sidecar)
    }

    /// Whether resources have the shape that Envoy knows.
    fn is_envoys(self) -> bool {
        matches!(self, Self::Sidecar | Self::Envoy(_))
    }
}

/// What a client's listener does with calls before their routes are known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calls<'a> {
    /// The filters that they pass, in order.
    pub(crate) filters: &'a [CallFilter],
    /// What is told of them; `None`: nothing.
    pub(crate) telemetry: Option<&'a Telemetry>,
}

impl<'a> Calls<'a> {
    /// What stands in a tree for its listener.
    pub(crate) fn of(tree: &'a RouteTree) -> Self {
        Self {
            filters: &tree.filters,
            telemetry: Some(&tree.telemetry),
        }
    }
}

/// An `EGRESS_BIND` that is no IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotAnAddress(Box<str>);

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node.metadata.{EGRESS_BIND}: not an IP address: {:?}", self.0)
    }
}

/// A listener named `target` whose routes are the configuration named `routes`, with what happens to calls on the way to those.
pub(crate) fn listener(target: &str, routes: &str, calls: &Calls<'_>) -> Vec<u8> {
    ordered::listener(listener::listener(target, routes, calls).encode_to_vec())
}

/// A listener on `port` of an address, whose routes are the configuration named by the port, with what happens to calls on the way to
/// those. For Envoy alone.
pub(crate) fn socket_listener(address: IpAddr, port: u16, calls: &Calls<'_>) -> Vec<u8> {
    ordered::listener(socket::listener(address, port, calls).encode_to_vec())
}

/// The name of that listener.
pub(crate) fn socket_name(port: u16) -> String {
    socket::name(port)
}

/// What a server accepts connections by.
pub(crate) fn inbound(inbound: &Inbound, shape: Profile) -> Vec<u8> {
    ordered::listener(inbound::listener(inbound, shape).encode_to_vec())
}

/// A route configuration.
pub(crate) fn routes(tree: &RouteTree) -> Vec<u8> {
    ordered::routes(route::configuration(tree).encode_to_vec())
}

#[cfg(test)]
std::thread_local! {
    /// How often a cluster was written.
    pub(crate) static CLUSTERS_WRITTEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A cluster, whose endpoints go by its own name; or one that stands for others, by their names.
pub(crate) fn cluster(cluster: &Cluster, dialect: Dialect) -> Vec<u8> {
    #[cfg(test)]
    CLUSTERS_WRITTEN.set(CLUSTERS_WRITTEN.get() + 1);
    let proto = match cluster.leaves.is_empty() {
        true => cluster::cluster(cluster, dialect),
        false => aggregate::cluster(cluster, dialect),
    };
    ordered::cluster(proto.encode_to_vec())
}

/// Whether a client of this kind cannot call a cluster, and asks for the endpoints [`UNSERVED`](crate::convention::UNSERVED) instead of its own.
pub(crate) fn is_unserved(cluster: &Cluster, dialect: Dialect) -> bool {
    cluster.leaves.is_empty() && cluster::is_unserved(cluster, dialect)
}

/// The endpoints of a cluster, the shares of its calls that are to fail without reaching one, and what its localities weigh.
pub(crate) fn endpoints(
    cluster: &ClusterName,
    endpoints: &[Endpoint],
    drops: &[DropOverload],
    localities: &Localities,
) -> Vec<u8> {
    ordered::endpoints(endpoint::assignment(cluster, endpoints, drops, localities).encode_to_vec())
}
