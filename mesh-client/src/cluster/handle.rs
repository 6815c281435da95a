//! One live cluster: what survives swaps (budget, breakers, ejections, TLS configurations) and the host set that is swapped.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use mesh_core::Entropy;
use mesh_core::balance::{Load as _, LoadReport, Picker};
use mesh_core::breaker::ClusterBreakers;
use mesh_core::config::{Cluster, ClusterName, Endpoint, Health, LbPolicy, RoutingPriority, TlsMode};
use mesh_core::identity::{Credentials, Pins};
use mesh_core::live;
use mesh_core::outlier::{Ejection, Observation};
use mesh_core::report::{Loads, Tally, orca};
use mesh_core::retry::Budget;
use rustls::time_provider::TimeProvider;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::anywhere::Anywhere;
use super::counting::Counting;
use super::outliers::Outliers;
use super::{Host, Room};
use crate::connect::{Means, TlsConfigs};

/// What every live thing is made with.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) entropy: Entropy,
    pub(crate) wall_clock: Arc<dyn TimeProvider>,
    pub(crate) tally: Tally,
    pub(crate) pins: Pins,
    pub(crate) credentials: Credentials,
    pub(crate) loads: Loads,
    pub(crate) means: Arc<Means>,
    /// Rings the manager's task: a cluster has something for it to do.
    pub(crate) attention: Arc<Notify>,
}

/// A live cluster, shared by every channel and every call of the process.
#[derive(Debug)]
pub(crate) struct ClusterHandle {
    name: ClusterName,
    hosts: live::Reader<HostSet>,
    writer: live::Writer<HostSet>,
    breakers: Arc<ClusterBreakers>,
    outliers: Outliers,
    mirrors: AtomicU32,
    /// When the weights that hosts report are to be taken over.
    weigh_at: Mutex<Option<Instant>>,
    budget: Budget,
    anywhere: Anywhere,
    tls_configs: Arc<TlsConfigs>,
}

/// The hosts of a cluster with the picker made for them and the settings they are called by: swapped as one, or a pick
/// would point at the wrong host.
#[derive(Debug)]
pub(crate) struct HostSet {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) hosts: Box<[Arc<Host>]>,
    pub(crate) picker: Picker,
    pub(crate) counting: Counting,
    /// What its hosts are called with, each value once: so that hosts are compared by pointer, however many there are.
    modes: Vec<Arc<TlsMode>>,
}

impl ClusterHandle {
    pub(crate) fn new(cluster: &Arc<Cluster>, parts: &Parts) -> Self {
        let (set, _) = HostSet::make(Arc::clone(cluster), None, parts);
        let outliers = Outliers::new(parts);
        outliers.reconcile(cluster, &set.hosts);
        let (writer, hosts) = live::channel(set);
        Self {
            name: cluster.name.clone(),
            hosts,
            writer,
            breakers: Arc::default(),
            outliers,
            mirrors: AtomicU32::new(0),
            weigh_at: Mutex::default(),
            budget: Budget::default(),
            anywhere: Anywhere::default(),
            tls_configs: Arc::new(
                TlsConfigs::new(Arc::clone(&parts.wall_clock))
                    .pinned(parts.pins.clone())
                    .provided(parts.credentials.clone()),
            ),
        }
    }

    /// Takes over a new configuration, keeping every host whose address and security did not change.
    pub(crate) fn update(&self, cluster: &Arc<Cluster>, parts: &Parts) {
        let old = self.hosts.load_full();
        if Arc::ptr_eq(&old.cluster, cluster) || old.cluster == *cluster {
            return;
        }
        let (set, gone) = HostSet::make(Arc::clone(cluster), Some(&old), parts);
        self.outliers.reconcile(cluster, &set.hosts);
        self.publish(set, &gone);
    }

    fn publish(&self, set: HostSet, gone: &[Arc<Host>]) {
        self.writer.publish(set);
        // After the store: who still reads the old set finds them retired and reads again.
        for host in gone {
            host.pool().retire();
        }
    }

    /// Takes no new call on connections that were agreed under an identity that holds no more.
    pub(crate) fn drain_secured(&self) {
        for host in self.hosts.load_full().hosts.iter().filter(|host| host.tls().is_some()) {
            host.pool().drain();
        }
    }

    /// Does what is due: ends an interval of outlier detection, and puts hosts in order when one was taken out or let in.
    /// When to look again. Only the manager may call it, which publishes nothing else meanwhile.
    pub(super) fn tend(&self, now: Instant, parts: &Parts) -> Option<Instant> {
        let cluster = Arc::clone(&self.hosts.load().cluster);
        let next = self.outliers.sweep(&cluster, now);
        if self.outliers.take_stale() {
            self.refresh(parts);
        }
        next.into_iter().chain(self.weigh(now)).min()
    }

    /// Makes the host set anew with what is known of its hosts now.
    fn refresh(&self, parts: &Parts) {
        let old = self.hosts.load_full();
        let (set, gone) = HostSet::make(Arc::clone(&old.cluster), Some(&old), parts);
        self.publish(set, &gone);
    }

    /// What a try told of the host it went to.
    pub(crate) fn observe(&self, host: &Host, observation: Observation) {
        let Some(monitor) = host.monitor() else { return };
        if observation == Observation::Success {
            monitor.succeeded();
            return;
        }
        let set = self.hosts.load();
        if let Some(config) = &set.cluster.outlier
            && monitor.observe(observation, config)
        {
            self.outliers.suspect(&self.name, config, host.address());
        }
    }

    /// What a host said of its own load beside an answer, where hosts are weighted by that.
    pub(crate) fn hear(&self, host: &Host, headers: &HeaderMap) {
        if let Some(reported) = host.reported()
            && let LbPolicy::ClientSideWeightedRoundRobin(settings) = &self.hosts.load().cluster.lb
        {
            let mut report = LoadReport::default();
            if orca::read(headers, |metric, value| report.add(metric, value, settings)) {
                reported.told(&report, settings, Instant::now().into_std());
            }
        }
    }

    /// Takes over what hosts reported, when that is due; when it is again. Only the manager may call it.
    fn weigh(&self, now: Instant) -> Option<Instant> {
        let mut weigh_at = self.weigh_at.lock().unwrap_or_else(PoisonError::into_inner);
        if weigh_at.is_none_or(|at| at <= now) {
            let set = self.hosts.load();
            let after = set.picker.reweigh(&set.hosts, now.into_std());
            *weigh_at = after.map(|after| now + after);
        }
        *weigh_at
    }

    /// The hosts that outlier detection took out.
    pub(crate) fn ejections(&self) -> Vec<Ejection> {
        self.outliers.ejections()
    }

    pub(crate) fn name(&self) -> &ClusterName {
        &self.name
    }

    pub(crate) fn hosts(&self) -> &live::Reader<HostSet> {
        &self.hosts
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The destinations that its requests said, where it goes wherever they say.
    pub(crate) fn anywhere(&self) -> &Anywhere {
        &self.anywhere
    }

    pub(crate) fn tls_configs(&self) -> &Arc<TlsConfigs> {
        &self.tls_configs
    }

    /// Counts one more call; `false` when as many are in flight as may be (gRFC A32).
    pub(crate) fn begin_call(&self, cluster: &Cluster, priority: RoutingPriority) -> bool {
        let max = cluster.breakers.of(priority).max_requests;
        self.breakers.of(priority).requests.take(max)
    }

    pub(crate) fn end_call(&self, priority: RoutingPriority) {
        self.breakers.of(priority).requests.give_back();
    }

    /// How many copies of calls are on their way here ([`crate::mirror`]).
    pub(crate) fn mirrors(&self) -> &AtomicU32 {
        &self.mirrors
    }

    /// Calls in flight, of whatever priority.
    pub(crate) fn in_flight(&self) -> u32 {
        let of = |priority| self.breakers.of(priority).requests.used();
        of(RoutingPriority::Default).saturating_add(of(RoutingPriority::High))
    }

    /// What a call may take when it has to wait for a connection.
    pub(crate) fn room(&self, cluster: &Cluster, priority: RoutingPriority) -> Room {
        Room::new(Arc::clone(&self.breakers), cluster.breakers, priority)
    }

    pub(crate) fn breakers(&self) -> &ClusterBreakers {
        &self.breakers
    }
}

impl HostSet {
    /// The set, and the hosts of the old one that are no longer wanted as they are.
    fn make(cluster: Arc<Cluster>, old: Option<&Self>, parts: &Parts) -> (Self, Vec<Arc<Host>>) {
        let mut known: HashMap<SocketAddr, &Arc<Host>> = old
            .iter()
            .flat_map(|old| &old.hosts)
            .map(|host| (host.address(), host))
            .collect();
        let old_modes = old.map_or(&[][..], |old| old.modes.as_slice());
        let modes = Modes::new(&cluster, old_modes);
        let reports = matches!(cluster.lb, LbPolicy::ClientSideWeightedRoundRobin(_));
        let hosts = callable(&cluster.endpoints)
            .map(|endpoint| {
                let tls = modes.of(cluster.tls_for(endpoint));
                let host = match known.get(&endpoint.address).copied() {
                    // Other security means other connections: what was agreed under the old rules is not carried over.
                    Some(host) if same(host.tls(), tls.as_ref()) => {
                        known.remove(&endpoint.address);
                        host.reweigh(endpoint.weight.0);
                        Arc::clone(host)
                    }
                    _ => Arc::new(Host::new(endpoint.address, endpoint.weight.0, tls, parts)),
                };
                host.rename(endpoint.hash_key());
                if reports {
                    host.listen();
                }
                host
            })
            .collect::<Box<[_]>>();
        let gone = unwanted(known, &cluster, &modes);
        let modes = modes.used();
        let picker = Picker::new(&cluster.lb, &hosts, &mut parts.entropy.draw());
        // What is known already counts from the first pick.
        picker.reweigh(&hosts, Instant::now().into_std());
        let set = Self {
            counting: Counting::new(&cluster, callable(&cluster.endpoints), &parts.loads),
            cluster,
            hosts,
            picker,
            modes,
        };
        (set, gone)
    }
}

/// Those of `left` that no endpoint of the cluster stands for any more. One that is only not called at the moment, for its
/// health or its priority, may finish what it does.
fn unwanted(mut left: HashMap<SocketAddr, &Arc<Host>>, cluster: &Cluster, modes: &Modes<'_>) -> Vec<Arc<Host>> {
    for endpoint in cluster.endpoints.iter() {
        if left.is_empty() {
            break;
        }
        let stays = left
            .get(&endpoint.address)
            .is_some_and(|host| same(host.tls(), modes.of(cluster.tls_for(endpoint)).as_ref()));
        if stays {
            left.remove(&endpoint.address);
        }
    }
    left.into_values().cloned().collect()
}

/// The TLS modes of a cluster, each value as one `Arc`: that of the hosts there are, where they are called with it already.
struct Modes<'a> {
    /// By the place that `Cluster::tls_for` points to.
    places: Vec<(&'a TlsMode, Option<Arc<TlsMode>>)>,
}

impl<'a> Modes<'a> {
    fn new(cluster: &'a Cluster, old: &[Arc<TlsMode>]) -> Self {
        let mut distinct = old.to_vec();
        let all = std::iter::once(&cluster.tls).chain(cluster.tls_matches.iter().map(|one| &one.mode));
        let places = all.map(|mode| {
            if *mode == TlsMode::Plaintext {
                return (mode, None);
            }
            let known = distinct.iter().find(|known| ***known == *mode).cloned();
            let tls = known.unwrap_or_else(|| {
                let new = Arc::new(mode.clone());
                distinct.push(Arc::clone(&new));
                new
            });
            (mode, Some(tls))
        });
        Self {
            places: places.collect(),
        }
    }

    fn of(&self, mode: &TlsMode) -> Option<Arc<TlsMode>> {
        let place = self.places.iter().find(|(place, _)| std::ptr::eq(*place, mode));
        place
            .expect("a cluster's endpoints are called with modes of the cluster")
            .1
            .clone()
    }

    fn used(self) -> Vec<Arc<TlsMode>> {
        let mut used: Vec<Arc<TlsMode>> = Vec::new();
        for tls in self.places.into_iter().filter_map(|(_, tls)| tls) {
            if !used.iter().any(|known| Arc::ptr_eq(known, &tls)) {
                used.push(tls);
            }
        }
        used
    }
}

fn same(a: Option<&Arc<TlsMode>>, b: Option<&Arc<TlsMode>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// The healthy endpoints of the first priority that has any; without a healthy one anywhere, the degraded ones likewise
/// (Envoy: degraded hosts take what healthy ones cannot).
fn callable(endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> {
    let first = |health| {
        let of_health = endpoints.iter().filter(move |endpoint| endpoint.health == health);
        of_health
            .map(|endpoint| (health, endpoint.priority))
            .min_by_key(|(_, priority)| *priority)
    };
    let wanted = first(Health::Healthy).or_else(|| first(Health::Degraded));
    endpoints
        .iter()
        .filter(move |endpoint| Some((endpoint.health, endpoint.priority)) == wanted)
}
