//! The door for benches: the hosts of one cluster, without calls.
//!
//! Not part of the API: it is there with the feature `measuring` alone, hidden from the documentation, and may change with any
//! commit. It exists because what the size of a cluster must not slow down (making its hosts, following a change, the pick) is
//! private, and to time it through calls would time the calls. What runs is what channels use and nothing beside it.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::Link;
use mesh_core::balance::{Ask, Load as _};
use mesh_core::config::Cluster;

use super::{ClusterHandle, ClusterManager};

/// A live cluster.
#[derive(Debug)]
pub struct Hosts {
    manager: Arc<ClusterManager>,
    handle: ClusterHandle,
}

impl Hosts {
    /// The hosts of `cluster`, none of them connected.
    ///
    /// # Panics
    ///
    /// As [`Channel::new`](crate::Channel::new).
    pub fn new(link: &Link, cluster: &Arc<Cluster>) -> Self {
        let manager = ClusterManager::of(link);
        let handle = ClusterHandle::new(cluster, &[], manager.parts());
        Self { manager, handle }
    }

    /// Follows a change.
    pub fn update(&self, cluster: &Arc<Cluster>) {
        self.handle.update(cluster, &[], self.manager.parts()).retire();
    }

    /// What a call does to find its host, and how busy that one is.
    pub fn pick(&self) -> Option<(SocketAddr, u32)> {
        let set = self.handle.hosts().load();
        let mut draw = self.manager.entropy().draw();
        let place = set.pick(Ask::default(), |_| false, None, &mut draw)?;
        let host = &set.hosts[place];
        Some((host.address(), host.in_flight()))
    }
}
