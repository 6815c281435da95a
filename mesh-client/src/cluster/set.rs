//! The hosts of a cluster, arranged for being picked.
//!
//! All endpoints have a host here, those included that are not called at the moment, for their health or their priority: which
//! are called changes without notice, and what a host has (connections, counters) is not to be lost by it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_core::balance::levels::{GoneTo, LevelPicker, Member as _, Plan};
use mesh_core::balance::{Ask, Load};
use mesh_core::config::{Cluster, Endpoint, Failover, Health, TlsMode};
use mesh_core::entropy::Draw;
use mesh_core::report::Loads;
use tokio::time::Instant;

use super::counting::Counting;
use super::leaves::{Gathered, Leaf, Leaves};
use super::living::Living;
use super::{ClusterHandle, Host};

/// The hosts of a cluster with the picker made for them and the settings they are called by: swapped as one, or a pick
/// would point at the wrong host.
#[derive(Debug)]
pub(crate) struct HostSet {
    /// With the endpoints that this process calls.
    pub(crate) cluster: Arc<Cluster>,
    /// As it is configured: the same value, where all of its endpoints are called.
    pub(super) wanted: Arc<Cluster>,
    /// As the picker groups them.
    pub(crate) hosts: Arc<[Arc<Host>]>,
    pub(crate) counting: Counting,
    picker: LevelPicker,
    /// Which endpoint each of `hosts` is; `None`: they stand in the order of the configuration.
    order: Option<Box<[u32]>>,
    /// Its hosts were told more than what their endpoints say, or less.
    by_share: bool,
    /// What its hosts are called with, each value once: so that hosts are compared by pointer, however many there are.
    modes: Vec<Arc<TlsMode>>,
    /// Where each address stands, once a session asked for one. Shared with the sets before and after it that have the same hosts.
    places: Arc<OnceLock<HashMap<SocketAddr, u32>>>,
    /// Whose its hosts are, where the cluster stands for others.
    leaves: Option<Box<Leaves>>,
}

/// So few hosts are looked through rather than put into a map.
const FEW: usize = 16;

impl HostSet {
    /// Arranges the hosts of what is `wanted`, as far as it is called, by what is known of them now. `watched`: some of them are
    /// out.
    pub(super) fn new(
        [wanted, cluster]: [Arc<Cluster>; 2],
        living: Living<'_>,
        percent: Option<&dyn Fn(usize) -> u32>,
        watched: bool,
        draw: &mut Draw,
        loads: &Loads,
    ) -> (Self, Vec<Arc<Host>>) {
        let told = living.tell(&cluster, percent);
        // To look at each host is the dearest that can be done with many: it is done where somebody is out.
        let is_out = |index: usize| watched && living.hosts()[index].is_ejected();
        let plan = Plan::of(&cluster, is_out, cluster.lb.is_hashed());
        let order = plan.order.clone();
        // Of most updates the hosts are those that they were, where they were.
        let same = living.unchanged().filter(|old| old.order == order);
        let hosts = match (same, &order) {
            (Some(old), _) => Arc::clone(&old.hosts),
            (None, None) => Arc::clone(living.hosts()),
            (None, Some(order)) => {
                let hosts = living.hosts();
                order.iter().map(|index| Arc::clone(&hosts[*index as usize])).collect()
            }
        };
        let weights = match &order {
            None => told.weights,
            Some(order) => order.iter().map(|index| told.weights[*index as usize]).collect(),
        };
        let first_ready = cluster.common_lb.failover == Failover::FirstReady;
        let picker = LevelPicker::new(plan, |_| &cluster.lb, (&hosts, &weights), first_ready, draw);
        // What is known already counts from the first pick.
        picker.reweigh(&hosts, Instant::now().into_std());
        let endpoints = (0..hosts.len()).map(|place| &cluster.endpoints[endpoint_at(order.as_deref(), place)]);
        let places = same.map_or_else(Arc::default, |old| Arc::clone(&old.places));
        let are_asked_for = living.old().is_some_and(|old| old.places.get().is_some());
        let (modes, gone) = living.into_parts();
        let set = Self {
            counting: Counting::new(&cluster, endpoints, loads),
            cluster,
            wanted,
            hosts,
            picker,
            order,
            by_share: told.by_share,
            modes,
            places,
            leaves: None,
        };
        // Where sessions are asked for they go on being asked for: the map is not made on a call's way.
        if are_asked_for {
            set.places();
        }
        (set, gone)
    }

    /// Arranges the hosts of the clusters that `wanted` stands for, each group of them to be chosen from as its cluster says
    /// (gRFC A75).
    pub(super) fn of_leaves(
        wanted: Arc<Cluster>,
        handles: &[Arc<ClusterHandle>],
        old: Option<&Self>,
        draw: &mut Draw,
        loads: &Loads,
    ) -> Self {
        let Gathered { cluster, hosts, leaves } = Gathered::new(&wanted, handles);
        let is_out = |index: usize| leaves.is_watched(index) && hosts[index].is_ejected();
        let plan = Plan::of(&cluster, is_out, cluster.lb.is_hashed());
        let order = plan.order.clone();
        let hosts = match &order {
            None => hosts,
            Some(order) => order.iter().map(|index| Arc::clone(&hosts[*index as usize])).collect(),
        };
        let leaves = leaves.arranged(order.as_deref());
        let first_ready = cluster.common_lb.failover == Failover::FirstReady;
        let policy = |place: usize| match place < hosts.len() {
            true => &leaves.at(place).0.set.cluster.lb,
            false => &cluster.lb,
        };
        let weights: Vec<u32> = hosts.iter().map(Load::weight).collect();
        let picker = LevelPicker::new(plan, policy, (&hosts, &weights), first_ready, draw);
        picker.reweigh(&hosts, Instant::now().into_std());
        let set = Self {
            // A call is counted, dropped and refused by its leaf.
            counting: Counting::new(&cluster, std::iter::empty(), loads),
            leaves: Some(Box::new(leaves)),
            cluster,
            wanted,
            hosts,
            picker,
            order,
            by_share: false,
            modes: Vec::new(),
            places: Arc::default(),
        };
        if old.is_some_and(|old| old.places.get().is_some()) {
            set.places();
        }
        set
    }

    /// The cluster whose host stands at a place, and its place there; `None`: this one's.
    #[inline]
    pub(crate) fn leaf(&self, place: usize) -> Option<(&Leaf, usize)> {
        self.leaves.as_ref().map(|leaves| leaves.at(place))
    }

    pub(super) fn leaves(&self) -> Option<&Leaves> {
        self.leaves.as_deref()
    }

    /// The place of the host to call; `None` when none may be called.
    pub(crate) fn pick(
        &self,
        ask: Ask,
        tried: impl Fn(&Arc<Host>) -> bool,
        gone_to: Option<GoneTo<'_>>,
        draw: &mut Draw,
    ) -> Option<usize> {
        match gone_to {
            None => self.picker.pick(&self.hosts, ask, tried, draw),
            Some(gone_to) => self.picker.pick_again(&self.hosts, ask, tried, gone_to, draw),
        }
    }

    /// The place of the host that a session is with, at one of `addresses`; `None` when it may not be called (Envoy
    /// `override_host_status`).
    pub(crate) fn held(&self, addresses: &[SocketAddr]) -> Option<usize> {
        let is_watched = |place: usize| match &self.leaves {
            None => self.cluster.outlier.is_some(),
            Some(leaves) => leaves.is_watched(place),
        };
        let health = |place: usize| match is_watched(place) && self.hosts[place].is_ejected() {
            true => Health::Unhealthy,
            false => self.endpoint(place).health,
        };
        let held = |place: usize| match self.leaf(place) {
            None => self.cluster.common_lb.held,
            Some((leaf, _)) => leaf.set.cluster.common_lb.held,
        };
        let may = |place: &usize| held(*place).contains(health(*place));
        let mut places = addresses.iter().filter_map(|address| self.place_of(address));
        places.find(may)
    }

    /// Where a host stands: at `place` mostly, unless the set was made anew since it was found there.
    pub(crate) fn position(&self, host: &Arc<Host>, place: u32) -> Option<usize> {
        let place = place as usize;
        match self.hosts.get(place).is_some_and(|found| Arc::ptr_eq(found, host)) {
            true => Some(place),
            false => self.hosts.iter().position(|one| Arc::ptr_eq(one, host)),
        }
    }

    /// Where the host of an address stands; of several, one of them.
    pub(crate) fn place_of(&self, address: &SocketAddr) -> Option<usize> {
        match self.hosts.len() <= FEW {
            true => self.hosts.iter().position(|host| host.address() == *address),
            false => self.places().get(address).map(|place| *place as usize),
        }
    }

    fn places(&self) -> &HashMap<SocketAddr, u32> {
        let places = || self.hosts.iter().map(|host| host.address()).zip(0..).collect();
        self.places.get_or_init(places)
    }

    /// The endpoint at a place.
    pub(crate) fn endpoint(&self, place: usize) -> &Endpoint {
        &self.cluster.endpoints[endpoint_at(self.order.as_deref(), place)]
    }

    /// Takes over what hosts reported of themselves; when that is due again, if the cluster goes by it.
    pub(super) fn reweigh(&self, now: std::time::Instant) -> Option<Duration> {
        self.picker.reweigh(&self.hosts, now)
    }

    /// The priority of the host at a place.
    pub(crate) fn priority(&self, place: usize) -> u32 {
        self.endpoint(place).priority
    }

    /// How the picker deals out calls.
    pub(super) fn levels(&self) -> &LevelPicker {
        &self.picker
    }
}

fn endpoint_at(order: Option<&[u32]>, place: usize) -> usize {
    order.map_or(place, |order| order[place] as usize)
}

impl HostSet {
    /// Where the host of each endpoint stands.
    pub(super) fn place_by_endpoint(&self) -> Vec<u32> {
        let mut places: Vec<u32> = (0..).take(self.hosts.len()).collect();
        if let Some(order) = &self.order {
            for (place, index) in (0..).zip(order) {
                places[*index as usize] = place;
            }
        }
        places
    }

    /// The host of an endpoint.
    pub(super) fn host_of(&self, index: usize) -> &Host {
        let place = match &self.order {
            None => index,
            Some(order) => {
                let place = order.iter().position(|at| *at as usize == index);
                place.expect("each endpoint has its place in the order")
            }
        };
        &self.hosts[place]
    }

    /// Its hosts in the order of the endpoints.
    pub(super) fn by_endpoint(&self) -> Arc<[Arc<Host>]> {
        match &self.order {
            None => Arc::clone(&self.hosts),
            Some(_) => {
                let places = self.place_by_endpoint();
                places
                    .iter()
                    .map(|place| Arc::clone(&self.hosts[*place as usize]))
                    .collect()
            }
        }
    }

    /// Whether its hosts were told more than what their endpoints say, or less.
    pub(super) fn is_by_share(&self) -> bool {
        self.by_share
    }

    /// What its hosts are called with.
    pub(super) fn modes(&self) -> &[Arc<TlsMode>] {
        &self.modes
    }
}
