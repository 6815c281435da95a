//! Core values to generated types, in the shape that any gRPC xDS client understands.
//!
//! The mirror of `decode`: what is written here is read there to the same value, which a property test holds to. Where
//! clients differ, the [`Dialect`] says for whom; nothing else looks at the client.

mod cluster;
mod common;
mod endpoint;
mod listener;
mod matcher;
mod route;
mod tls;

use mesh_core::config::{Cluster, ClusterName, Endpoint, RouteTree};
use prost::Message;

use crate::convention::OUR_USER_AGENT;

/// For whom a resource is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Dialect {
    /// Our own client, which honours every load balancing policy.
    Mesh,
    /// Any other. C-core refuses a cluster with LEAST_REQUEST, so everyone is told ROUND_ROBIN.
    Grpc,
}

impl Dialect {
    pub(crate) const ALL: [Self; 2] = [Self::Mesh, Self::Grpc];

    /// What to speak with a client of this name.
    pub(crate) fn of(user_agent: &str) -> Self {
        match user_agent {
            OUR_USER_AGENT => Self::Mesh,
            _ => Self::Grpc,
        }
    }
}

/// A listener named `target` whose routes are the configuration named `routes`.
pub(crate) fn listener(target: &str, routes: &str) -> Vec<u8> {
    listener::listener(target, routes).encode_to_vec()
}

/// A route configuration.
pub(crate) fn routes(tree: &RouteTree) -> Vec<u8> {
    route::configuration(tree).encode_to_vec()
}

/// A cluster, whose endpoints go by its own name.
pub(crate) fn cluster(cluster: &Cluster, dialect: Dialect) -> Vec<u8> {
    cluster::cluster(cluster, dialect).encode_to_vec()
}

/// The endpoints of a cluster.
pub(crate) fn endpoints(cluster: &ClusterName, endpoints: &[Endpoint]) -> Vec<u8> {
    endpoint::assignment(cluster, endpoints).encode_to_vec()
}
