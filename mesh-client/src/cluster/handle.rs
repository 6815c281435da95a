//! One live cluster: what survives swaps (budget, breakers, ejections, TLS configurations) and the host set that is swapped.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use http::HeaderMap;
use mesh_core::Entropy;
use mesh_core::balance::levels::{Warming, subset};
use mesh_core::balance::{Load as _, LoadReport};
use mesh_core::breaker::ClusterBreakers;
use mesh_core::config::{ChainIdentity, Cluster, ClusterName, LbPolicy, RoutingPriority, TlsMode, alike};
use mesh_core::identity::{Credentials, Pins};
use mesh_core::link::WeakLink;
use mesh_core::live;
use mesh_core::outlier::{Ejection, Observation};
use mesh_core::report::standard::Edges;
use mesh_core::report::{Calls, Loads, Tally, orca};
use mesh_core::retry::Budget;
use rustls::time_provider::TimeProvider;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::anywhere::Anywhere;
use super::leaves::Leaves;
use super::living::Living;
use super::outliers::Outliers;
use super::set::HostSet;
use super::{Host, Room};
use crate::connect::{Means, TlsConfigs};
use crate::retry::Fates;
use crate::telemetry::Pairs;

/// What every live thing is made with.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) entropy: Entropy,
    pub(crate) wall_clock: Arc<dyn TimeProvider>,
    pub(crate) tally: Tally,
    pub(crate) pins: Pins,
    pub(crate) credentials: Credentials,
    pub(crate) loads: Loads,
    pub(crate) edges: Edges,
    pub(crate) link: WeakLink,
    pub(crate) means: Arc<Means>,
    /// How many endpoints of a priority are called at most, and what chooses this process's among them.
    pub(crate) subset: (Option<NonZeroU32>, u64),
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
    slow: Mutex<Slow>,
    mirrors: AtomicU32,
    /// When the weights that hosts report are to be taken over.
    weigh_at: Mutex<Option<Instant>>,
    budget: Budget,
    /// What became of its retries.
    fates: Fates,
    anywhere: Anywhere,
    tls_configs: Arc<TlsConfigs>,
    /// Where its calls are counted.
    pairs: Pairs,
    /// And how they ended, once a control plane asked for that.
    calls: OnceLock<Arc<Calls>>,
}

/// The hosts that have not their full share yet, and when it grows next.
#[derive(Debug, Default)]
struct Slow {
    warming: Warming,
    at: Option<Instant>,
}

impl ClusterHandle {
    /// `leaves` are the live clusters that it stands for, in the order of its configuration.
    pub(crate) fn new(cluster: &Arc<Cluster>, leaves: &[Arc<Self>], parts: &Parts) -> Self {
        let outliers = Outliers::new(parts);
        let slow = Mutex::default();
        let (set, _) = make(cluster, leaves, None, &outliers, &slow, parts);
        tell_panic(None, &set, &parts.tally);
        let (writer, hosts) = live::channel(set);
        let handle = Self {
            name: cluster.name.clone(),
            hosts,
            writer,
            breakers: Arc::default(),
            outliers,
            slow,
            mirrors: AtomicU32::new(0),
            weigh_at: Mutex::default(),
            budget: Budget::default(),
            fates: Fates::default(),
            anywhere: Anywhere::default(),
            tls_configs: Arc::new(
                TlsConfigs::new(Arc::clone(&parts.wall_clock))
                    .pinned(parts.pins.clone())
                    .provided(parts.credentials.clone()),
            ),
            pairs: Pairs::new(parts.edges.clone(), parts.link.clone()),
            calls: OnceLock::new(),
        };
        handle.tell_calls(cluster, parts);
        handle
    }

    /// Takes over a new configuration, keeping every host whose address and security did not change. `leaves` are as for
    /// [`new`](Self::new), and brought up to theirs before.
    pub(crate) fn update(&self, cluster: &Arc<Cluster>, leaves: &[Arc<Self>], parts: &Parts) -> Gone {
        let old = self.hosts.load_full();
        let (was, is) = (&old.wanted, cluster);
        if Arc::ptr_eq(was, is) && old.leaves().is_none_or(|leaves| !leaves.are_stale()) {
            return Gone::default();
        }
        // Compared once, since there may be many: what is found serves to keep the hosts, too.
        let known = alike(&was.endpoints, &is.endpoints);
        let same_endpoints = was.endpoints.len() == is.endpoints.len() && known[0] + known[1] == is.endpoints.len();
        if leaves.is_empty() && same_endpoints && was.has_rules_of(is) {
            return Gone::default();
        }
        self.replace(cluster, leaves, (&old, Some(known)), parts)
    }

    /// `known`: what the endpoints that are wanted and those that were have in common, where that was found out.
    fn replace(
        &self,
        cluster: &Arc<Cluster>,
        leaves: &[Arc<Self>],
        (old, known): (&HostSet, Option<[usize; 2]>),
        parts: &Parts,
    ) -> Gone {
        let (set, gone) = make(cluster, leaves, Some((old, known)), &self.outliers, &self.slow, parts);
        tell_panic(Some(old), &set, &parts.tally);
        self.tell_calls(cluster, parts);
        self.writer.publish(set);
        Gone(gone)
    }

    /// Counts how calls end, if the control plane asks for it. Once it asked they are counted for good, and told while it does.
    fn tell_calls(&self, cluster: &Cluster, parts: &Parts) {
        let asked = cluster
            .load_reporting
            .as_ref()
            .filter(|reporting| reporting.asks_for_calls());
        match (asked, self.calls.get()) {
            (Some(reporting), None) => {
                let calls = parts.loads.calls(&cluster.name, reporting);
                calls.ask(true);
                drop(self.calls.set(calls));
            }
            (asked, Some(calls)) => calls.ask(asked.is_some()),
            (None, None) => {}
        }
    }

    /// Takes over the hosts that its leaves have by now, where it stands for others.
    pub(super) fn follow(&self, parts: &Parts) {
        if self.hosts.load().leaves().is_some_and(Leaves::are_stale) {
            self.refresh(parts);
        }
    }

    /// Takes no new call on connections that were agreed under an identity that holds no more: that of these providers.
    pub(super) fn drain_secured(&self, of: &ChainIdentity) {
        let is_agreed_by = |mode: &Arc<TlsMode>| mode.identity().unwrap_or_default() == *of;
        let set = self.hosts.load_full();
        for host in set.hosts.iter().filter(|host| host.tls().is_some_and(is_agreed_by)) {
            host.pool().drain();
        }
    }

    /// Does what is due: ends an interval of outlier detection, gives new hosts more of their share, puts hosts in order when
    /// one was taken out or let in, and weighs them by what they reported.
    /// When to look again. Only the manager may call it, which publishes nothing else meanwhile.
    pub(super) fn tend(&self, now: Instant, parts: &Parts) -> Option<Instant> {
        let cluster = Arc::clone(&self.hosts.load().cluster);
        let next = self.outliers.sweep(&cluster, now);
        let is_due = lock(&self.slow).at.is_some_and(|at| at <= now);
        // Both are asked, since asking the one is taking it on.
        if self.outliers.take_stale() | is_due {
            self.refresh(parts);
        }
        self.follow(parts);
        next.into_iter().chain(lock(&self.slow).at).chain(self.weigh(now)).min()
    }

    /// Makes the host set anew with what is known of its hosts now.
    fn refresh(&self, parts: &Parts) {
        let old = self.hosts.load_full();
        let leaves = old.leaves().map_or_else(Vec::new, Leaves::handles);
        self.replace(&old.wanted, &leaves, (&old, None), parts).retire();
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

    /// As [`observe`](Self::observe), of the host at an address.
    pub(crate) fn observe_at(&self, address: SocketAddr, observation: Observation) {
        let set = self.hosts.load();
        if set.cluster.outlier.is_some()
            && let Some(place) = set.place_of(&address)
        {
            self.observe(&set.hosts[place], observation);
        }
    }

    /// What a host said of its own load beside an answer, where hosts are weighted by that: not where they are asked between calls
    /// (gRFC A58).
    pub(crate) fn hear(&self, host: &Host, headers: &HeaderMap) {
        if let Some(reported) = host.reported()
            && let LbPolicy::ClientSideWeightedRoundRobin(settings) = &self.hosts.load().cluster.lb
            && settings.out_of_band.is_none()
        {
            let mut report = LoadReport::default();
            if orca::read(headers, |metric, value| report.add(metric, value, settings)) {
                reported.told(&report, settings, Instant::now().into_std());
            }
        }
    }

    /// Takes over what hosts reported, when that is due; when it is again.
    fn weigh(&self, now: Instant) -> Option<Instant> {
        let mut weigh_at = self.weigh_at.lock().unwrap_or_else(PoisonError::into_inner);
        if weigh_at.is_none_or(|at| at <= now) {
            let after = self.hosts.load().reweigh(now.into_std());
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

    /// Whose host a try went to: where the cluster stands for others, the one of those; itself elsewhere, and where nobody was called.
    pub(crate) fn that_called(self: &Arc<Self>, peer: Option<SocketAddr>) -> Arc<Self> {
        let set = self.hosts.load();
        let leaf = peer
            .filter(|_| set.leaves().is_some())
            .and_then(|peer| set.leaf(set.place_of(&peer)?));
        leaf.map_or_else(|| Arc::clone(self), |(leaf, _)| Arc::clone(&leaf.handle))
    }

    pub(crate) fn fates(&self) -> &Fates {
        &self.fates
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The destinations that its requests said, where it goes wherever they say.
    pub(crate) fn anywhere(&self) -> &Anywhere {
        &self.anywhere
    }

    /// Where it is counted how its calls end, if anybody asks.
    #[inline]
    pub(crate) fn calls(&self) -> Option<&Calls> {
        self.calls.get().map(|calls| &**calls)
    }

    /// Where its calls are counted.
    pub(crate) fn pairs(&self) -> &Pairs {
        &self.pairs
    }

    pub(crate) fn tls_configs(&self) -> &Arc<TlsConfigs> {
        &self.tls_configs
    }

    /// Counts one more call; `false` when as many are in flight as may be (gRFC A32).
    pub(crate) fn begin_call(&self, cluster: &Cluster, priority: RoutingPriority) -> bool {
        let max = cluster.breakers.of(priority).max_requests;
        self.breakers.of(priority).requests.take(max)
    }

    /// Counts one more call of a cluster that stands for others, whose limits are those of the leaf that it goes to.
    pub(crate) fn begin_call_of_leaf(&self, priority: RoutingPriority) {
        self.breakers.of(priority).requests.take_over_limit();
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

/// Hosts that are called no more. To be retired once no set that is read has them: who still reads an old set finds them
/// retired and reads again.
#[derive(Debug, Default)]
#[must_use = "their connections are kept until they are retired"]
pub(crate) struct Gone(Vec<Arc<Host>>);

impl Gone {
    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(super) fn retire(self) {
        for host in self.0 {
            host.pool().retire();
        }
    }
}

/// The host set, and the hosts of the old one that are no longer wanted as they are. `old`: that one, and what its endpoints and
/// those that are wanted have in common, if that is known.
fn make(
    wanted: &Arc<Cluster>,
    leaves: &[Arc<ClusterHandle>],
    old: Option<(&HostSet, Option<[usize; 2]>)>,
    outliers: &Outliers,
    slow: &Mutex<Slow>,
    parts: &Parts,
) -> (HostSet, Vec<Arc<Host>>) {
    // The hosts of one that stands for others are not its own: it neither takes them over nor lets go of them.
    let owner = old.filter(|(old, _)| old.leaves().is_none());
    if !wanted.leaves.is_empty() {
        outliers.reconcile(wanted, None);
        *lock(slow) = Slow::default();
        let old_set = old.map(|(old, _)| old);
        let set = HostSet::of_leaves(
            Arc::clone(wanted),
            leaves,
            old_set,
            &mut parts.entropy.draw(),
            &parts.loads,
        );
        return (set, owner.map_or_else(Vec::new, |(old, _)| old.hosts.to_vec()));
    }
    let cluster = &called(wanted, parts);
    let old = owner.map(|(old, _)| old);
    let known = owner.and_then(|(old, known)| {
        // It was found out of what is wanted, and counts where that is what is called.
        let is_whole = Arc::ptr_eq(&old.wanted, &old.cluster) && Arc::ptr_eq(wanted, cluster);
        known.filter(|_| is_whole)
    });
    let living = Living::of(cluster, old, known, parts);
    ask(cluster, &living, parts);
    // Before they are arranged: a host that is made anew may be out still.
    outliers.reconcile(cluster, Some(&living));
    let some_are_out = cluster.outlier.is_some() && outliers.some_are_out();
    let arrange = |living: Living<'_>, percent: Option<&dyn Fn(usize) -> u32>| {
        let clusters = [wanted, cluster].map(Arc::clone);
        HostSet::new(
            clusters,
            living,
            percent,
            some_are_out,
            &mut parts.entropy.draw(),
            &parts.loads,
        )
    };
    let mut slow = lock(slow);
    let by_weight = matches!(cluster.lb, LbPolicy::RoundRobin | LbPolicy::LeastRequest { .. });
    let config = cluster.common_lb.slow_start.filter(|_| by_weight);
    let Some(config) = config else {
        *slow = Slow::default();
        return arrange(living, None);
    };
    let now = Instant::now().into_std();
    slow.warming.reconcile(living.members(), now);
    slow.at = slow.warming.tick(&config, now).map(Instant::from_std);
    if slow.at.is_some() {
        parts.attention.notify_one();
    }
    let addresses: Vec<_> = living.hosts().iter().map(|host| host.address()).collect();
    let percent = |index: usize| slow.warming.percent(&config, addresses[index], now);
    arrange(living, Some(&percent))
}

/// Has hosts asked for what they report between calls, where the cluster's balancing goes by that, and no others.
fn ask(cluster: &Cluster, living: &Living<'_>, parts: &Parts) {
    let settings = |cluster: &Cluster| match &cluster.lb {
        LbPolicy::ClientSideWeightedRoundRobin(settings) => Some(settings.clone()),
        _ => None,
    };
    let (now, before) = (settings(cluster), living.old().and_then(|old| settings(&old.cluster)));
    let is_known = now == before && (now.is_none() || living.unchanged().is_some());
    if !is_known {
        for host in living.hosts().iter() {
            host.ask(now.as_ref(), &parts.entropy);
        }
    }
}

/// What is called of what is wanted: this process's few of its endpoints, where it calls only some.
fn called(wanted: &Arc<Cluster>, parts: &Parts) -> Arc<Cluster> {
    let (own, seed) = parts.subset;
    let size = own.into_iter().chain(wanted.common_lb.subset_size).min();
    let few = size.and_then(|size| subset(&wanted.endpoints, size, seed));
    match few {
        None => Arc::clone(wanted),
        Some(few) => Arc::new(Cluster {
            endpoints: few.into(),
            ..(**wanted).clone()
        }),
    }
}

fn lock(slow: &Mutex<Slow>) -> MutexGuard<'_, Slow> {
    slow.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says when a cluster begins to call hosts whatever is known of their health, and when it is over (Envoy's counter of the same
/// name counts the calls).
fn tell_panic(old: Option<&HostSet>, new: &HostSet, tally: &Tally) {
    let (before, now) = (
        old.is_some_and(|old| old.levels().is_in_panic()),
        new.levels().is_in_panic(),
    );
    let name = &new.cluster.name;
    match (before, now) {
        (false, true) => {
            tracing::warn!(cluster = %name, "too few endpoints can be called: all of them are");
            tally.count("lb_healthy_panic", "entered");
        }
        (true, false) => {
            tracing::info!(cluster = %name, "enough endpoints can be called again");
            tally.count("lb_healthy_panic", "left");
        }
        _ => {}
    }
}
