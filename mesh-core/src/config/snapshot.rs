//! Everything one process is told, at one moment, and never with a hole in it.
//!
//! A snapshot that exists is consistent: every cluster that a route names is in it, as a value or as the reason why there is
//! none (gRFC A74). So no request meets a dangling name, and what a call fails with was known when the configuration was
//! built.

use std::fmt;
use std::sync::Arc;

use super::{Cluster, ClusterName, Inbound, Reason, RouteTree, Version};
use crate::SharedMap;

/// What a name resolved to: a value, or definitely not one.
pub type Resolved<T> = Result<Arc<T>, Reason>;

/// An immutable, consistent configuration. Clones share everything, and a successor all that did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    version: Version,
    targets: SharedMap<Arc<str>, Resolved<RouteTree>>,
    clusters: SharedMap<ClusterName, Resolved<Cluster>>,
    inbound: SharedMap<Arc<str>, Resolved<Inbound>>,
    any_inbound: Option<Arc<Inbound>>,
}

impl Snapshot {
    /// Nothing known: every target is still waited for.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Begins a snapshot.
    ///
    /// ```
    /// use mesh_core::config::{Cluster, Route, Snapshot, Split, TlsMode};
    /// let snapshot = Snapshot::builder()
    ///     .route("payment", Route::to(Split::all_to("payment-v1")))
    ///     .cluster(Cluster::new("payment-v1", TlsMode::Plaintext, vec![]))
    ///     .build()?;
    /// assert!(snapshot.target("payment").is_some());
    /// # Ok::<(), mesh_core::config::Inconsistent>(())
    /// ```
    pub fn builder() -> SnapshotBuilder {
        SnapshotBuilder {
            snapshot: Self::default(),
        }
    }

    /// Its number: greater is newer.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The same with other values for some of its clusters, sharing all the rest: what one changed endpoint among ten
    /// thousand clusters costs. A name that it does not hold is left out, so it stays consistent.
    #[must_use]
    pub fn with_clusters(
        &self,
        version: Version,
        changes: impl IntoIterator<Item = (ClusterName, Resolved<Cluster>)>,
    ) -> Self {
        let mut next = self.clone();
        next.version = version;
        for (name, cluster) in changes {
            if next.clusters.contains_key(&name) {
                next.clusters.insert(name, cluster);
            }
        }
        next
    }

    /// The routes of a target; `None` while nothing was heard of it.
    pub fn target(&self, name: &str) -> Option<&Resolved<RouteTree>> {
        self.targets.get(name)
    }

    /// All targets.
    pub fn targets(&self) -> &SharedMap<Arc<str>, Resolved<RouteTree>> {
        &self.targets
    }

    /// A cluster by name. `Some` for every cluster that a route of this snapshot names.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Resolved<Cluster>> {
        self.clusters.get(name)
    }

    /// What is asked of the clients of a server at `address`, written as `ip:port`; `None` while nothing was heard of it, or
    /// nobody asked.
    pub fn inbound(&self, address: &str) -> Option<&Resolved<Inbound>> {
        self.inbound.get(address)
    }

    /// What is asked of the clients of every server that was asked for, by its address.
    pub fn inbounds(&self) -> &SharedMap<Arc<str>, Resolved<Inbound>> {
        &self.inbound
    }

    /// What is asked of the clients of a server at any address that [`inbound`](Self::inbound) knows nothing of; `None`: nobody
    /// says. A control plane's, for servers that no document describes: each asks for a listener of its own address, so a `%s` in
    /// the name stands for that.
    pub fn any_inbound(&self) -> Option<&Arc<Inbound>> {
        self.any_inbound.as_ref()
    }

    /// Whether both say the same, whatever their numbers.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.targets == other.targets
            && self.clusters == other.clusters
            && self.inbound == other.inbound
            && self.any_inbound == other.any_inbound
    }

    /// All clusters.
    pub fn clusters(&self) -> &SharedMap<ClusterName, Resolved<Cluster>> {
        &self.clusters
    }
}

/// Collects what a [`Snapshot`] will hold.
#[derive(Debug)]
pub struct SnapshotBuilder {
    snapshot: Snapshot,
}

impl SnapshotBuilder {
    /// Its number.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.snapshot.version = version;
        self
    }

    /// A target and what it resolved to.
    #[must_use]
    pub fn target(mut self, name: impl Into<Arc<str>>, routes: Resolved<RouteTree>) -> Self {
        self.snapshot.targets.insert(name.into(), routes);
        self
    }

    /// The address of a server and what was resolved for it.
    #[must_use]
    pub fn inbound(mut self, address: impl Into<Arc<str>>, inbound: Resolved<Inbound>) -> Self {
        self.snapshot.inbound.insert(address.into(), inbound);
        self
    }

    /// What holds for a server at any other address. See [`Snapshot::any_inbound`].
    #[must_use]
    pub fn any_inbound(mut self, inbound: Arc<Inbound>) -> Self {
        self.snapshot.any_inbound = Some(inbound);
        self
    }

    /// A target with one route that serves every authority.
    #[must_use]
    pub fn route(self, target: &str, route: super::Route) -> Self {
        let host = super::VirtualHost::new(target, vec![super::Domain::Any], vec![Arc::new(route)]);
        let tree = RouteTree::new(target, vec![host]);
        self.target(target, Ok(Arc::new(tree)))
    }

    /// A cluster.
    #[must_use]
    pub fn cluster(self, cluster: Cluster) -> Self {
        let name = cluster.name.clone();
        self.resolved_cluster(name, Ok(Arc::new(cluster)))
    }

    /// A cluster name and what it resolved to.
    #[must_use]
    pub fn resolved_cluster(mut self, name: ClusterName, cluster: Resolved<Cluster>) -> Self {
        self.snapshot.clusters.insert(name, cluster);
        self
    }

    /// Checks that nothing dangles.
    ///
    /// # Errors
    ///
    /// When a route names a cluster that was not added, as a value or as a reason.
    pub fn build(self) -> Result<Snapshot, Inconsistent> {
        for (target, routes) in self.snapshot.targets.iter() {
            let Ok(tree) = routes else { continue };
            if let Some(missing) = tree.clusters().find(|name| !self.snapshot.clusters.contains_key(*name)) {
                return Err(Inconsistent {
                    target: Arc::clone(target),
                    cluster: missing.clone(),
                });
            }
        }
        Ok(self.snapshot)
    }
}

/// A route names a cluster that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inconsistent {
    target: Arc<str>,
    cluster: ClusterName,
}

impl fmt::Display for Inconsistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a route of target {:?} names cluster {:?}, which is not in the snapshot",
            self.target, self.cluster
        )
    }
}

impl std::error::Error for Inconsistent {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ReasonKind, Route, Split};

    #[test]
    fn a_dangling_cluster_is_refused_and_a_reason_is_not_dangling() {
        let builder = || Snapshot::builder().route("t", Route::to(Split::all_to("c")));
        let error = builder().build().unwrap_err().to_string();
        assert!(error.contains("\"t\"") && error.contains("\"c\""), "{error}");
        let reason = Reason::new(ReasonKind::NoCluster, "cluster c does not exist");
        assert!(builder().resolved_cluster("c".into(), Err(reason)).build().is_ok());
    }
}
