//! The four kinds of resource a data plane asks for, and the values they decode to.
//!
//! A listener names a route configuration, which names clusters, which name their endpoints. Here each is a value of its
//! own, still full of names; `client::assemble` follows the names and makes one consistent snapshot of them.

use std::fmt;
use std::sync::Arc;

use mesh_core::config::{Cluster, Endpoint, RouteTree};

/// A kind of xDS resource, by the names of the discovery services: LDS, RDS, CDS and EDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
}

impl ResourceKind {
    /// In the order in which a client meets them.
    pub const ALL: [Self; 4] = [Self::Listener, Self::Route, Self::Cluster, Self::Endpoints];

    /// The type's URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        }
    }

    /// The kind that a type's URL stands for, if it is one of these.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether a response holds every subscribed resource of this kind, so that an absent one was deleted. True of LDS
    /// and CDS only (xDS protocol, "Deleting Resources").
    pub fn absence_means_deleted(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster)
    }

    /// Its place in a table of four.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "listener",
            Self::Route => "route configuration",
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
        })
    }
}

/// A decoded listener: where a target's routes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// In the listener itself.
    Inline(Arc<RouteTree>),
    /// In the route configuration of this name.
    Named(Arc<str>),
}

/// A decoded cluster, whose endpoints are another resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterSpec {
    /// The cluster, without endpoints.
    pub(crate) cluster: Cluster,
    /// The name its endpoints go by (`service_name`, or the cluster's own).
    pub(crate) endpoints: Arc<str>,
}

/// Decoded endpoints.
pub(crate) type Endpoints = Arc<[Endpoint]>;
