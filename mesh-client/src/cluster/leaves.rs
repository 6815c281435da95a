//! The leaves of a cluster that stands for others: live clusters of their own, of whose hosts its own set is made.
//!
//! So whatever is a leaf's stays the leaf's and outlives every change of the whole: connections, ejections, breakers, load
//! counters, TLS configurations. A leaf that is called by itself as well is one live cluster for both (gRFC A32: one count per
//! process). What the whole adds is the order, which is all that is made here.

use std::sync::Arc;

use mesh_core::config::Cluster;

use super::{ClusterHandle, Host, HostSet};

/// What the host set of an aggregate was made of.
#[derive(Debug)]
pub(crate) struct Leaves {
    leaves: Box<[Leaf]>,
    /// Whose each host is, and its place there: in the order of the hosts.
    places: Box<[Place]>,
}

/// A leaf as it stood when the host set was made.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) handle: Arc<ClusterHandle>,
    pub(crate) set: Arc<HostSet>,
}

/// Where a host stands in its leaf.
#[derive(Clone, Copy, Debug)]
struct Place {
    leaf: u32,
    place: u32,
}

/// The hosts of all leaves, in the order of the endpoints of the whole.
pub(super) struct Gathered {
    /// The whole, with the endpoints that its leaves call.
    pub(super) cluster: Arc<Cluster>,
    pub(super) hosts: Arc<[Arc<Host>]>,
    pub(super) leaves: Leaves,
}

impl Gathered {
    pub(super) fn new(wanted: &Arc<Cluster>, handles: &[Arc<ClusterHandle>]) -> Self {
        let leaves: Box<[Leaf]> = handles.iter().map(Leaf::now).collect();
        let is_wanted = leaves.len() == wanted.leaves.len()
            && leaves
                .iter()
                .zip(wanted.leaves.iter())
                .all(|(leaf, wanted)| Arc::ptr_eq(&leaf.set.cluster, wanted));
        let cluster = match is_wanted {
            true => Arc::clone(wanted),
            // A leaf calls a few of its endpoints, or stands as it did before in a value of its own.
            false => {
                let called = leaves.iter().map(|leaf| Arc::clone(&leaf.set.cluster)).collect();
                Arc::new(Cluster::aggregate(wanted.name.clone(), called))
            }
        };
        let places = leaves.iter().zip(0..).flat_map(|(one, leaf)| {
            let places = one.set.place_by_endpoint();
            places.into_iter().map(move |place| Place { leaf, place })
        });
        let places: Box<[Place]> = places.collect();
        let host = |at: &Place| Arc::clone(&leaves[at.leaf as usize].set.hosts[at.place as usize]);
        Self {
            hosts: places.iter().map(host).collect(),
            leaves: Leaves { leaves, places },
            cluster,
        }
    }
}

impl Leaves {
    /// As the hosts are put in another order, of which this says what comes where.
    pub(super) fn arranged(mut self, order: Option<&[u32]>) -> Self {
        if let Some(order) = order {
            self.places = order.iter().map(|index| self.places[*index as usize]).collect();
        }
        self
    }

    /// Whose the host at a place is, and its place there.
    pub(crate) fn at(&self, place: usize) -> (&Leaf, usize) {
        let at = self.places[place];
        (&self.leaves[at.leaf as usize], at.place as usize)
    }

    pub(super) fn handles(&self) -> Vec<Arc<ClusterHandle>> {
        self.leaves.iter().map(|leaf| Arc::clone(&leaf.handle)).collect()
    }

    /// Whether one of them has other hosts by now, or has them in another order.
    pub(super) fn are_stale(&self) -> bool {
        let is_now = |leaf: &Leaf| Arc::ptr_eq(&leaf.set, &leaf.handle.hosts().load());
        !self.leaves.iter().all(is_now)
    }

    /// Whether outlier detection watches the host at a place.
    pub(super) fn is_watched(&self, place: usize) -> bool {
        self.at(place).0.set.cluster.outlier.is_some()
    }
}

impl Leaf {
    fn now(handle: &Arc<ClusterHandle>) -> Self {
        Self {
            handle: Arc::clone(handle),
            set: handle.hosts().load_full(),
        }
    }
}
