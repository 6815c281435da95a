//! What a channel reads on each request: its target's routes together with the live clusters they lead to.
//!
//! Routes and clusters are published as one value, so they change in the same instant and a request that loads it once cannot
//! meet a route of one version and a cluster of another (gRFC A31, A74). There is one per target: the virtual host is chosen
//! when the configuration is built, not on every request.

use std::sync::Arc;

use mesh_core::config::{Reason, Route};

use super::ClusterHandle;

/// A target, as far as it is known.
#[derive(Debug)]
pub(crate) enum Target {
    /// Nothing was heard of it yet; calls wait, with a bound.
    Waiting(Reason),
    /// It cannot be called.
    Failed(Reason),
    /// Its routes.
    Ready(Selector),
}

/// The routes of a target's virtual host and, beside each, the clusters of its split.
#[derive(Debug)]
pub(crate) struct Selector {
    pub(crate) routes: Vec<Arc<Route>>,
    /// `clusters[route][share]`.
    pub(crate) clusters: Vec<Vec<Result<Arc<ClusterHandle>, Reason>>>,
}
