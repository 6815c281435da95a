//! The clusters that clients of a snapshot are told of: its own, and the leaves of those that stand for others.
//!
//! A leaf is a cluster like any other to a client: it has a name, and endpoints of its own. Where the snapshot has a cluster of
//! that name too, both must be one.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::Snapshot;
use mesh_core::config::{Cluster, ClusterName, Localities, RouteTree};

use super::encoded::{Names, Resources};
use crate::convention::UNSERVED;
use crate::encode::{self, Dialect};

/// See the module's documentation.
pub(super) struct Served<'a>(BTreeMap<&'a ClusterName, &'a Arc<Cluster>>);

impl<'a> Served<'a> {
    /// Those that are there. Of two of one name the first counts: see [`twice`].
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        let mut served = BTreeMap::new();
        for cluster in all(snapshot) {
            served.entry(&cluster.name).or_insert(cluster);
        }
        Self(served)
    }

    pub(super) fn clusters(&self, dialect: Dialect) -> Resources {
        let one = |(name, cluster): (&&ClusterName, &&Arc<Cluster>)| {
            (name.as_str().into(), encode::cluster(cluster, dialect).into())
        };
        self.0.iter().map(one).collect()
    }

    /// One that stands for others has none of its own. Clusters that some cannot call have endpoints of which there are none.
    pub(super) fn endpoints(&self) -> Resources {
        let own = self.0.iter().filter(|(_, cluster)| cluster.leaves.is_empty());
        let one = |(name, cluster): (&&ClusterName, &&Arc<Cluster>)| {
            let bytes = encode::endpoints(name, &cluster.endpoints, &cluster.drops, &cluster.localities);
            (name.as_str().into(), bytes.into())
        };
        let mut endpoints: Resources = own.map(one).collect();
        if self
            .0
            .values()
            .any(|cluster| encode::is_unserved(cluster, Dialect::Grpc))
        {
            let nobody = encode::endpoints(&UNSERVED.into(), &[], &[], &Localities::default());
            endpoints.insert(UNSERVED.into(), nobody.into());
        }
        endpoints
    }

    /// Where each of these route configurations leads: to clusters, and through them to their leaves.
    pub(super) fn leading<'t>(&self, trees: impl Iterator<Item = &'t RouteTree>) -> BTreeMap<Arc<str>, Arc<Names>> {
        let names = |tree: &RouteTree| {
            let mut names = Names::new();
            for name in tree.clusters() {
                let leaves = self.0.get(name).map_or(&[][..], |cluster| &cluster.leaves);
                names.extend(leaves.iter().map(|leaf| leaf.name.as_str().into()));
                names.insert(name.as_str().into());
            }
            Arc::new(names)
        };
        trees.map(|tree| (Arc::clone(&tree.name), names(tree))).collect()
    }
}

/// A name that two different clusters have.
pub(super) fn twice(snapshot: &Snapshot) -> Option<&ClusterName> {
    let served = Served::of(snapshot);
    let other = all(snapshot).find(|cluster| served.0.get(&cluster.name).is_some_and(|first| first != cluster))?;
    Some(&other.name)
}

/// The snapshot's own first.
fn all(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Cluster>> {
    let own = || {
        snapshot
            .clusters()
            .iter()
            .filter_map(|(_, cluster)| cluster.as_ref().ok())
    };
    own().chain(own().flat_map(|cluster| cluster.leaves.iter()))
}
