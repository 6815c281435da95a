//! The hosts of a cluster, arranged for being picked.
//!
//! All endpoints have a host here, those included that are not called at the moment, for their health or their priority: which
//! are called changes without notice, and what a host has (connections, counters) is not to be lost by it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_core::balance::Ask;
use mesh_core::balance::levels::{GoneTo, LevelPicker, Member as _, Plan, shares};
use mesh_core::config::{Cluster, Endpoint, Failover, Health, LbPolicy, TlsMode};
use mesh_core::entropy::Draw;
use mesh_core::report::Loads;
use tokio::time::Instant;

use super::counting::Counting;
use super::handle::Parts;
use super::leaves::{Gathered, Leaf, Leaves};
use super::modes::{Modes, same};
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
    /// Its hosts were told nothing but the weights that their endpoints have.
    is_plain: bool,
    /// What its hosts are called with, each value once: so that hosts are compared by pointer, however many there are.
    modes: Vec<Arc<TlsMode>>,
    /// Where each address stands, once a session asked for one.
    places: OnceLock<HashMap<SocketAddr, u32>>,
    /// Whose its hosts are, where the cluster stands for others.
    leaves: Option<Box<Leaves>>,
}

/// So few hosts are looked through rather than put into a map.
const FEW: usize = 16;

/// What hosts are told by.
pub(super) struct Told<'a> {
    /// What they were told by before.
    pub(super) old: Option<&'a HostSet>,
    /// How much of its weight the host of an endpoint has, by index, where new ones get their share bit by bit.
    pub(super) percent: Option<&'a dyn Fn(usize) -> u32>,
}

/// The hosts of a cluster's endpoints, in their order.
pub(super) struct Living {
    pub(super) hosts: Arc<[Arc<Host>]>,
    /// Those of the old set that no endpoint stands for any more as they are.
    pub(super) gone: Vec<Arc<Host>>,
    /// How many, at the beginning and at the end, are those of the old set; and how many there were.
    kept: [usize; 2],
    before: usize,
    /// The places of those that were made for it, in order; none of a first set, in which nobody is newer than the others.
    new: Vec<usize>,
    modes: Vec<Arc<TlsMode>>,
}

impl HostSet {
    /// Arranges the hosts of what is `wanted`, as far as it is called, by what is known of them now.
    pub(super) fn new(
        [wanted, cluster]: [Arc<Cluster>; 2],
        living: Living,
        told: &Told<'_>,
        draw: &mut Draw,
        loads: &Loads,
    ) -> (Self, Vec<Arc<Host>>) {
        told.tell(&cluster, &living);
        let is_plain = is_plain(&cluster) && told.percent.is_none();
        let Living { hosts, gone, modes, .. } = living;
        let watched = cluster.outlier.is_some();
        let is_out = |index: usize| watched && hosts[index].is_ejected();
        let plan = Plan::of(&cluster, is_out, cluster.lb.is_hashed());
        let order = plan.order.clone();
        let hosts = match &order {
            None => hosts,
            Some(order) => order.iter().map(|index| Arc::clone(&hosts[*index as usize])).collect(),
        };
        let first_ready = cluster.common_lb.failover == Failover::FirstReady;
        let picker = LevelPicker::new(plan, |_| &cluster.lb, &hosts, first_ready, draw);
        // What is known already counts from the first pick.
        picker.reweigh(&hosts, Instant::now().into_std());
        let endpoints = (0..hosts.len()).map(|place| &cluster.endpoints[endpoint_at(order.as_deref(), place)]);
        let set = Self {
            counting: Counting::new(&cluster, endpoints, loads),
            cluster,
            wanted,
            hosts,
            picker,
            order,
            is_plain,
            modes,
            places: OnceLock::new(),
            leaves: None,
        };
        // Where sessions are asked for they go on being asked for: the map is not made on a call's way.
        if told.old.is_some_and(|old| old.places.get().is_some()) {
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
        let picker = LevelPicker::new(plan, policy, &hosts, first_ready, draw);
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
            is_plain: false,
            modes: Vec::new(),
            places: OnceLock::new(),
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
        let place = |address: &SocketAddr| match self.hosts.len() <= FEW {
            true => self.hosts.iter().position(|host| host.address() == *address),
            false => self.places().get(address).map(|place| *place as usize),
        };
        let is_watched = |place: usize| match &self.leaves {
            None => self.cluster.outlier.is_some(),
            Some(leaves) => leaves.is_watched(place),
        };
        let health = |place: usize| match is_watched(place) && self.hosts[place].is_ejected() {
            true => Health::Unhealthy,
            false => self.endpoint(place).health,
        };
        let may = |place: &usize| self.cluster.common_lb.held.contains(health(*place));
        addresses.iter().filter_map(place).find(may)
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

impl Told<'_> {
    /// Gives each host its weight, and what else its endpoint says of it. Hosts whose endpoint says what it said are left alone:
    /// of many, most are.
    fn tell(&self, cluster: &Cluster, living: &Living) {
        let reports = matches!(cluster.lb, LbPolicy::ClientSideWeightedRoundRobin(_));
        let is_hashed = cluster.lb.is_hashed();
        let shares = is_hashed.then(|| shares(cluster)).flatten();
        let before = self
            .old
            .filter(|old| old.is_plain && is_plain(cluster) && self.percent.is_none());
        let knows = |index: usize| {
            let place = living.place_before(index).zip(before);
            place.is_some_and(|(place, old)| old.cluster.endpoints[place].weight == cluster.endpoints[index].weight)
        };
        for (index, (host, endpoint)) in living.hosts.iter().zip(cluster.endpoints.iter()).enumerate() {
            if knows(index) {
                continue;
            }
            let weight = shares.as_ref().map_or(endpoint.weight.0, |shares| shares[index]);
            // Where new hosts get theirs bit by bit, all weights are a hundred times what they are elsewhere: only their ratio counts.
            let percent = self.percent.map_or(1, |percent| percent(index));
            host.reweigh(weight.saturating_mul(percent));
            if is_hashed {
                host.rename(endpoint.hash_key());
            }
            if reports {
                host.listen();
            }
        }
    }
}

/// Whether hosts are told nothing but the weight that their endpoint has.
fn is_plain(cluster: &Cluster) -> bool {
    !cluster.lb.is_hashed() && !matches!(cluster.lb, LbPolicy::ClientSideWeightedRoundRobin(_))
}

impl Living {
    /// A host for each endpoint of `cluster`: that of the `old` set where address and security are the same.
    ///
    /// An update mostly changes little: what both lists begin and end with is matched by its place, and only what lies between
    /// is looked up.
    pub(super) fn of(cluster: &Cluster, old: Option<&HostSet>, parts: &Parts) -> Self {
        let modes = Modes::new(cluster, old.map_or(&[][..], |old| old.modes.as_slice()));
        let before = old.map_or_else(Vec::new, HostSet::by_endpoint);
        let after = &cluster.endpoints;
        let tls = |index: usize| modes.of(cluster.tls_for(&after[index]));
        // The endpoints that were lie side by side, and their hosts do not: as far as they tell, they are asked.
        let was: &[Endpoint] = old.map_or(&[], |old| &old.cluster.endpoints);
        let one_mode = |cluster: &Cluster| cluster.tls_matches.is_empty();
        let alike = old.filter(|old| one_mode(cluster) && one_mode(&old.cluster));
        let alike = alike.map(|old| old.cluster.tls == cluster.tls);
        let keeps = |back: usize, index: usize| {
            was[back].address == after[index].address && alike.unwrap_or_else(|| same(before[back].tls(), tls(index)))
        };
        let shorter = before.len().min(after.len());
        let start = (0..shorter).take_while(|index| keeps(*index, *index)).count();
        let from_end = |back: &usize| keeps(before.len() - 1 - back, after.len() - 1 - back);
        let end = (0..shorter - start).take_while(from_end).count();

        if let Some(old) = old.filter(|old| old.order.is_none() && start == before.len() && start == after.len()) {
            return Self {
                hosts: Arc::clone(&old.hosts),
                gone: Vec::new(),
                kept: [start, 0],
                before: start,
                new: Vec::new(),
                modes: modes.used(),
            };
        }
        let key = |address: SocketAddr, tls: Option<&Arc<TlsMode>>| (address, tls.map(Arc::as_ptr));
        let mut known: HashMap<_, &Arc<Host>> = HashMap::new();
        let mut gone = Vec::new();
        for host in &before[start..before.len() - end] {
            // Two of one address and one security: one is enough.
            gone.extend(known.insert(key(host.address(), host.tls()), host).cloned());
        }
        let (mut hosts, mut new) = (Vec::with_capacity(after.len()), Vec::new());
        hosts.extend(before[..start].iter().map(|host| Arc::clone(host)));
        for index in start..after.len() - end {
            let (address, tls) = (after[index].address, tls(index));
            if let Some(host) = known.remove(&key(address, tls)) {
                hosts.push(Arc::clone(host));
                continue;
            }
            // Other security means other connections: what was agreed under the old rules is not carried over.
            hosts.push(Arc::new(Host::new(address, after[index].weight.0, tls.cloned(), parts)));
            if old.is_some() {
                new.push(index);
            }
        }
        hosts.extend(before[before.len() - end..].iter().map(|host| Arc::clone(host)));
        gone.extend(known.into_values().cloned());
        Self {
            hosts: hosts.into(),
            gone,
            kept: [start, end],
            before: before.len(),
            new,
            modes: modes.used(),
        }
    }

    /// Where the endpoint of a host stood before, as far as it is one of those that were matched by their place.
    fn place_before(&self, index: usize) -> Option<usize> {
        let [start, end] = self.kept;
        let from_end = self.hosts.len() - index;
        match index < start {
            true => Some(index),
            false => (from_end <= end).then(|| self.before - from_end),
        }
    }

    /// Each host's address, whether it was made now, and whether it is out.
    pub(super) fn members(&self) -> impl Iterator<Item = (SocketAddr, bool, bool)> {
        let hosts = self.hosts.iter().enumerate();
        hosts.map(|(index, host)| {
            (
                host.address(),
                self.new.binary_search(&index).is_ok(),
                host.is_ejected(),
            )
        })
    }
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

    /// Its hosts in the order of the endpoints.
    fn by_endpoint(&self) -> Vec<&Arc<Host>> {
        let mut hosts: Vec<&Arc<Host>> = self.hosts.iter().collect();
        if let Some(order) = &self.order {
            for (host, index) in self.hosts.iter().zip(order) {
                hosts[*index as usize] = host;
            }
        }
        hosts
    }
}
