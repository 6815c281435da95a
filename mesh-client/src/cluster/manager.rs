//! Reconciles the living with the wanted: the only writer of selectors and host sets.
//!
//! One manager belongs to one [`Link`], so all channels of a process share connections, budgets and counters. It is driven by
//! a bell and not by a queue: a burst of a hundred pushes costs one reconcile, a storm of them costs a hundred a second
//! ([`Pace`]), and requests go on meanwhile with the selector they have.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mesh_core::config::{
    ChainIdentity, Cluster, ClusterName, LbPolicy, Reason, ReasonKind, Resolved, RouteTree, Snapshot,
};
use mesh_core::link::{Identities, Standing, WeakLink};
use mesh_core::report::{Expose, Tally};
use mesh_core::{Entropy, Link, SharedMap, live, route};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::followed::Followed;
use super::handle::{Gone, Parts};
use super::pace::Pace;
use super::{ClusterHandle, Selector, Target};
use crate::alarm::Alarms;
use crate::connect::{Connect, Means, Tcp};
use crate::fault::ActiveFaults;

/// How long a cluster that no route names any more keeps its connections, budget, breakers and ejections: a weight that goes to
/// 0 and back within this time finds them again. One that calls still run in is kept until they have ended.
const RETIRE_AFTER: Duration = Duration::from_secs(30);

/// The live clusters of a process and the selectors of its targets.
pub(crate) struct ClusterManager {
    snapshots: live::Reader<Snapshot>,
    identity: live::Reader<Standing>,
    identities: Identities,
    parts: Parts,
    active_faults: ActiveFaults,
    alarms: Arc<Alarms>,
    link: WeakLink,
    state: Mutex<State>,
    task: Mutex<Option<(live::Subscription, AbortHandle)>>,
}

struct State {
    /// What the clusters were last reconciled with.
    snapshot: Weak<Snapshot>,
    /// The clusters of that one: its routes are let go of, since snapshots that come in the midst of a reconcile must not pile up.
    wanted: SharedMap<ClusterName, Resolved<Cluster>>,
    /// By which connections are made.
    followed: Followed,
    clusters: HashMap<ClusterName, Arc<ClusterHandle>>,
    retired: HashMap<ClusterName, (Arc<ClusterHandle>, Instant)>,
    /// The clusters that watch for outliers, have hosts that are slow to start or weigh them by reports, which are looked at again
    /// and again.
    watched: HashSet<ClusterName>,
    /// The clusters that stand for others, as they are wanted.
    aggregates: HashMap<ClusterName, Arc<Cluster>>,
    targets: HashMap<Arc<str>, Weak<live::Writer<Target>>>,
}

/// A connector was given to a link that makes calls already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyRunning;

impl fmt::Display for AlreadyRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the link has channels already, and they share one connector: set it before the first channel is made",
        )
    }
}

impl std::error::Error for AlreadyRunning {}

/// The slot that `Link::attached` keeps: the manager is made by whoever comes first, with the connector they bring.
struct Attached(Arc<ClusterManager>);

/// Makes the link's manager with `connector`.
pub(crate) fn with_connector(link: &Link, connector: Arc<dyn Connect>) -> Result<(), AlreadyRunning> {
    let mut made = false;
    link.attached(|| {
        made = true;
        Attached(ClusterManager::start(link, connector))
    });
    if made { Ok(()) } else { Err(AlreadyRunning) }
}

impl ClusterManager {
    /// The link's one manager.
    pub(crate) fn of(link: &Link) -> Arc<Self> {
        Arc::clone(&link.attached(|| Attached(Self::start(link, Arc::new(Tcp)))).0)
    }

    fn start(link: &Link, connector: Arc<dyn Connect>) -> Arc<Self> {
        let (bell, attention) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let manager = Arc::new(Self {
            snapshots: link.snapshots().clone(),
            identity: link.identity().clone(),
            identities: link.identities().clone(),
            parts: Parts {
                entropy: link.entropy().clone(),
                wall_clock: Arc::clone(link.wall_clock()),
                tally: link.tally().clone(),
                pins: link.pins().clone(),
                credentials: link.credentials().clone(),
                loads: link.loads().clone(),
                edges: link.edges().clone(),
                link: link.downgrade(),
                means: Arc::new(Means {
                    connector,
                    entropy: link.entropy().clone(),
                    tally: link.tally().clone(),
                    wall_clock: Arc::clone(link.wall_clock()),
                    link: link.downgrade(),
                }),
                attention: Arc::clone(&attention),
                subset: (link.subset_size(), link.entropy().draw().next()),
            },
            active_faults: ActiveFaults::default(),
            alarms: Alarms::start(),
            link: link.downgrade(),
            state: Mutex::new(State {
                snapshot: Weak::new(),
                wanted: SharedMap::default(),
                followed: Followed::new(link.identity(), link.identities(), Arc::clone(&bell)),
                clusters: HashMap::new(),
                retired: HashMap::new(),
                watched: HashSet::new(),
                aggregates: HashMap::new(),
                targets: HashMap::new(),
            }),
            task: Mutex::default(),
        });
        let ring = Arc::clone(&bell);
        let subscription = manager.snapshots.on_change(move || ring.notify_one());
        let told: Weak<dyn Expose> = Arc::<Self>::downgrade(&manager);
        link.expose(told);
        let task = tokio::spawn(run(Arc::downgrade(&manager), bell, attention)).abort_handle();
        *manager.task.lock().unwrap_or_else(PoisonError::into_inner) = Some((subscription, task));
        manager
    }

    /// The identity of these certificate providers; `None`: the process has no such provider.
    pub(crate) fn identity_of(&self, of: &ChainIdentity) -> Option<live::Reader<Standing>> {
        match of.is_own() {
            true => Some(self.identity.clone()),
            false => self.identities.find(of),
        }
    }

    pub(crate) fn entropy(&self) -> &Entropy {
        &self.parts.entropy
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.parts.tally
    }

    /// How many calls of the process faults hold now: it outlives every configuration that injects them.
    pub(crate) fn active_faults(&self) -> &ActiveFaults {
        &self.active_faults
    }

    pub(crate) fn alarms(&self) -> &Arc<Alarms> {
        &self.alarms
    }

    /// The selector cell of a target, filled from the newest snapshot. It is kept up to date while somebody holds it.
    pub(crate) fn target(&self, name: &Arc<str>) -> Arc<live::Writer<Target>> {
        let cell = {
            let mut state = self.lock();
            if let Some(known) = state.targets.get(name).and_then(Weak::upgrade) {
                return known;
            }
            let cell = Arc::new(live::channel(Target::Waiting(waiting_for(name))).0);
            state.targets.insert(Arc::clone(name), Arc::downgrade(&cell));
            cell
        };
        self.reconcile();
        // What was published before there was anybody to hear of it has clusters that are to be looked at again and again, too.
        self.parts.attention.notify_one();
        cell
    }

    /// Brings clusters and selectors up to the newest snapshot.
    pub(crate) fn reconcile(&self) {
        let mut state = self.lock();
        state.reconcile_identities();
        let snapshot = self.snapshots.load_full();
        state.reconcile_clusters(&snapshot, &self.parts);
        let State { clusters, targets, .. } = &mut *state;
        targets.retain(|name, cell| {
            let Some(cell) = cell.upgrade() else { return false };
            cell.publish(resolve(name, &snapshot, clusters, &self.parts.entropy));
            true
        });
        // Still under the lock, or of two that reconcile at once the older could have the last word.
        if let Some(link) = self.link.upgrade() {
            link.mark_applied(snapshot.version());
        }
    }

    /// Whether there is something to reconcile. A bell that rang often is heard twice: once by who waited, once by what it kept.
    fn is_behind(&self) -> bool {
        let (state, snapshot) = (self.lock(), self.snapshots.load());
        !std::ptr::eq(state.snapshot.as_ptr(), Arc::as_ptr(&snapshot)) || state.followed.is_behind()
    }

    /// Does what time asks for; when to look again.
    fn tend(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let purge_at = state.purge(now);
        let watched = state
            .watched
            .iter()
            .filter(|name| !state.aggregates.contains_key(*name));
        // Leaves before what is made of them.
        let due = watched
            .chain(state.aggregates.keys())
            .filter_map(|name| state.clusters.get(name));
        let sweep_at = due.filter_map(|cluster| cluster.tend(now, &self.parts)).min();
        purge_at.into_iter().chain(sweep_at).min()
    }

    /// The clusters there are, in no order.
    pub(crate) fn live_clusters(&self) -> Vec<Arc<ClusterHandle>> {
        self.lock().clusters.values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Connections outlive the renewal of an identity, up to the end of their certificates. They do not outlive another name
    /// or other roots: what a peer proved under those says nothing under these.
    fn reconcile_identities(&mut self) {
        for of in self.followed.take_replaced() {
            let retired = self.retired.values().map(|(handle, _)| handle);
            for handle in self.clusters.values().chain(retired) {
                handle.drain_secured(&of);
            }
        }
    }

    fn reconcile_clusters(&mut self, snapshot: &Arc<Snapshot>, parts: &Parts) {
        self.snapshot = Arc::downgrade(snapshot);
        let before = std::mem::replace(&mut self.wanted, snapshot.clusters().clone());
        let mut gone = Gone::default();
        let mut unnamed: Vec<ClusterName> = snapshot.clusters().removed_since(&before).cloned().collect();
        for name in snapshot.clusters().removed_since(&before) {
            unnamed.extend(self.take_leaves(name));
        }
        for (name, cluster) in snapshot.clusters().changed_since(&before) {
            unnamed.extend(self.take_leaves(name));
            let Ok(cluster) = cluster else {
                unnamed.push(name.clone());
                continue;
            };
            drop(self.live(cluster, parts, &mut gone));
            if !cluster.leaves.is_empty() {
                self.aggregates.insert(name.clone(), Arc::clone(cluster));
            }
        }
        for name in unnamed {
            let is_leaf = |of: &Arc<Cluster>| of.leaves.iter().any(|leaf| leaf.name == name);
            let is_wanted = matches!(snapshot.cluster(&name), Some(Ok(_))) || self.aggregates.values().any(is_leaf);
            if !is_wanted {
                self.retire(&name);
            }
        }
        // A leaf that is also called by itself may have changed after the whole was made of it.
        for handle in self.aggregates.keys().filter_map(|name| self.clusters.get(name)) {
            handle.follow(parts);
        }
        gone.retire();
    }

    /// The live cluster of what is wanted, brought up to it, its leaves before it.
    fn live(&mut self, cluster: &Arc<Cluster>, parts: &Parts, gone: &mut Gone) -> Arc<ClusterHandle> {
        let leaves: Vec<_> = cluster.leaves.iter().map(|leaf| self.live(leaf, parts, gone)).collect();
        let name = &cluster.name;
        self.followed.follow(cluster);
        let known = self
            .clusters
            .get(name)
            .cloned()
            .or_else(|| Some(self.retired.remove(name)?.0));
        let handle = match known {
            Some(handle) => {
                gone.append(handle.update(cluster, &leaves, parts));
                handle
            }
            None => Arc::new(ClusterHandle::new(cluster, &leaves, parts)),
        };
        let by_reports = matches!(cluster.lb, LbPolicy::ClientSideWeightedRoundRobin(_));
        if cluster.outlier.is_some() || cluster.common_lb.slow_start.is_some() || by_reports {
            self.watched.insert(name.clone());
        } else {
            self.watched.remove(name);
        }
        self.clusters.insert(name.clone(), Arc::clone(&handle));
        handle
    }

    /// The names of the clusters that this one stood for, which it does no more.
    fn take_leaves(&mut self, name: &ClusterName) -> Vec<ClusterName> {
        let whole = self.aggregates.remove(name);
        whole.map_or_else(Vec::new, |whole| {
            whole.leaves.iter().map(|leaf| leaf.name.clone()).collect()
        })
    }

    /// Lets go of clusters that nothing has named for a while; when to look again.
    fn purge(&mut self, now: Instant) -> Option<Instant> {
        for (cluster, since) in self.retired.values_mut() {
            // A call holds it: were it made anew meanwhile, its breakers would count from 0 (gRFC A32: one count per process).
            if now >= *since + RETIRE_AFTER && Arc::strong_count(cluster) > 1 {
                *since = now;
            }
        }
        self.retired.retain(|_, (_, since)| now < *since + RETIRE_AFTER);
        self.retired.values().map(|(_, since)| *since + RETIRE_AFTER).min()
    }

    fn retire(&mut self, name: &ClusterName) {
        self.watched.remove(name);
        if let Some(handle) = self.clusters.remove(name) {
            self.retired.insert(name.clone(), (handle, Instant::now()));
        }
    }
}

/// The manager's one task. It sleeps for ever where nothing changes and no cluster watches for outliers.
async fn run(manager: Weak<ClusterManager>, bell: Arc<Notify>, attention: Arc<Notify>) {
    let (mut look_again, mut changed, mut pace) = (None, false, Pace::new(Instant::now()));
    loop {
        let time = async {
            match look_again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = bell.notified() => changed = true,
            () = attention.notified() => {}
            () = time => {}
        }
        let Some(manager) = manager.upgrade() else { return };
        let now = Instant::now();
        let mut later = None;
        changed = changed && manager.is_behind();
        if changed {
            match pace.take(now) {
                Ok(()) => {
                    manager.reconcile();
                    changed = false;
                }
                Err(at) => later = Some(at),
            }
        }
        look_again = manager.tend(now).into_iter().chain(later).min();
    }
}

fn resolve(
    name: &str,
    snapshot: &Snapshot,
    clusters: &HashMap<ClusterName, Arc<ClusterHandle>>,
    entropy: &Entropy,
) -> Target {
    match snapshot.target(name) {
        None => Target::Waiting(waiting_for(name)),
        Some(Err(reason)) => Target::Failed(reason.clone()),
        Some(Ok(tree)) => select(name, tree, snapshot, clusters, entropy),
    }
}

fn select(
    name: &str,
    tree: &RouteTree,
    snapshot: &Snapshot,
    clusters: &HashMap<ClusterName, Arc<ClusterHandle>>,
    entropy: &Entropy,
) -> Target {
    let authority = crate::target::authority(name);
    let Some(host) = route::virtual_host(tree, authority) else {
        let text = format!(
            "no virtual host of route configuration {:?} serves the authority {authority:?}",
            tree.name
        );
        return Target::Failed(Reason::new(ReasonKind::NoRoute, text));
    };
    let live = |name: &ClusterName| match snapshot.cluster(name) {
        Some(Err(reason)) => Err(reason.clone()),
        _ => clusters.get(name).cloned().ok_or_else(|| no_such_cluster(name)),
    };
    Target::Ready(Selector::new(tree, host, live, entropy))
}

fn no_such_cluster(name: &ClusterName) -> Reason {
    Reason::new(ReasonKind::NoCluster, format!("cluster {name:?} does not exist"))
}

fn waiting_for(name: &str) -> Reason {
    Reason::new(
        ReasonKind::Waiting,
        format!("nothing was heard of target {name:?} from the control plane yet"),
    )
}

impl Drop for ClusterManager {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, task)) = task.take() {
            task.abort();
        }
    }
}

impl fmt::Debug for ClusterManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterManager").finish_non_exhaustive()
    }
}
