//! Which requests go where, as configured (Envoy RDS). [`crate::route`] decides by it.

use std::sync::Arc;
use std::time::Duration;

use super::{ClusterName, RetryPolicy, RouteMatch};

mod domain;
mod split;

pub use domain::{Domain, InvalidDomain};
pub use split::{InvalidSplit, Split, WeightedCluster};

/// All routes of one target: what its listener's route configuration holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteTree {
    /// The name of the route configuration.
    pub name: Arc<str>,
    /// Chosen among by the request's authority.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Whether the authority's port is cut off before a host is chosen by it (Envoy `ignore_port_in_host_matching`, which
    /// istiod sets for sidecars). Without it the authority is compared with its port and without it.
    pub ignore_port: bool,
}

impl RouteTree {
    /// Routes by host, with ports looked at.
    pub fn new(name: impl Into<Arc<str>>, virtual_hosts: Vec<VirtualHost>) -> Self {
        Self {
            name: name.into(),
            virtual_hosts,
            ignore_port: false,
        }
    }

    /// The names of all clusters that any route may choose, with repetitions.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes
            .flat_map(|route| route.split.clusters())
            .map(|share| &share.cluster)
    }
}

/// Routes that serve a set of domains.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualHost {
    /// Its name, for logs.
    pub name: Box<str>,
    /// The authorities it serves.
    pub domains: Vec<Domain>,
    /// Tried in order; the first match wins. Shared, since a request in flight keeps its route.
    pub routes: Vec<Arc<Route>>,
}

/// One rule: what it takes, where that goes, and how it is treated on the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Its name, for logs; may be empty.
    pub name: Box<str>,
    /// What it takes.
    pub matches: RouteMatch,
    /// Where it goes.
    pub split: Split,
    /// The longest the call may take, retries and all, until the response body has ended; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Whether to try again.
    pub retry: RetryPolicy,
}

impl Route {
    /// Takes every request to `split`, without a timeout, with the default retries.
    pub fn to(split: Split) -> Self {
        Self {
            name: "".into(),
            matches: RouteMatch::any(),
            split,
            timeout: None,
            retry: RetryPolicy::default(),
        }
    }
}
