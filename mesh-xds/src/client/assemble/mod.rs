//! From the cache to a snapshot: one tree per target, published only when it is whole (gRFC A74).
//!
//! A target's tree is its listener, the routes that names, their clusters and those clusters' endpoints. It is whole when
//! every name in it resolved, to a value or to a definite error; the error is data then, and fails the calls that meet it.
//! A tree that is not whole leaves the target's last one in place, and never holds up another target. Waiting gates new
//! references only: once a cluster resolved, its updates reach every target at once.
//!
//! Most updates change no reference: an endpoint comes or goes, a cluster gets another timeout. Those touch the clusters that
//! depend on what changed and nothing else, whatever the size of the rest; only what may change a reference walks all trees.
//!
//! | module | what it follows |
//! |---|---|
//! | `target` | a target to its routes, in both shapes |
//! | `inbound` | a server's address to its filter chains, and those to their routes |
//! | `cluster` | a cluster to its endpoints, or through the clusters it stands for |
//! | `hosts` | what host names resolved to |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{ClusterName, Inbound, Resolved, RouteTree, Snapshot, Version};

use super::ads::Needs;
use super::cache::{Changed, Sources};
use crate::bootstrap::Profile;
use crate::resource::{ClusterSpec, Extension, Listener, ResourceKind};

mod cluster;
mod hosts;
mod inbound;
mod target;
mod walk;

use cluster::Memo;
use hosts::Hosts;
use target::Cut;
pub(crate) use target::Naming;
use walk::Walk;

/// What is wanted of the control plane, in the application's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The targets that are called.
    pub(crate) targets: Vec<Arc<str>>,
    /// The addresses that are served.
    pub(crate) inbound: Vec<Arc<str>>,
}

/// Something that a cluster was looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Resource(ResourceKind, Arc<str>),
    Host(Arc<str>),
}

/// What the last call left behind.
#[derive(Debug)]
pub(crate) struct Assembler {
    naming: Naming,
    wanted: Wanted,
    /// The last whole tree of each target.
    trees: BTreeMap<Arc<str>, Resolved<RouteTree>>,
    /// What those were cut from.
    cuts: BTreeMap<Arc<str>, Cut>,
    /// The last known chains of each address.
    inbound: BTreeMap<Arc<str>, Resolved<Inbound>>,
    /// What those were made of whose routes are elsewhere.
    routed: BTreeMap<Arc<str>, inbound::Memo>,
    /// The addresses whose chains are closed for want of routes that may come yet.
    unrouted: BTreeSet<Arc<str>>,
    hosts: Hosts,
    /// The last filter of each name (ECDS) that could be used: what is not takes its place nowhere.
    filters: BTreeMap<Arc<str>, Arc<Extension>>,
    /// What each cluster last resolved to.
    clusters: HashMap<ClusterName, Memo>,
    /// The clusters that look at a cluster or endpoints of this name, as of the last walk.
    dependents: HashMap<Key, Vec<ClusterName>>,
    /// What the last walk found needed.
    needed: Needs,
    /// Of which kinds there was nothing more to come, at the last walk: names that were waited for are not there then.
    complete: [bool; 2],
    last: Snapshot,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// What must be subscribed to; `None` when that is what it was.
    pub(crate) needs: Option<Needs>,
    /// Set when it differs from the last one.
    pub(crate) snapshot: Option<Snapshot>,
    /// The targets and addresses that are not whole, and what each lacks; `None` when those are what they were.
    pub(crate) waiting: Option<BTreeMap<Arc<str>, Vec<Missing>>>,
    /// The host names that must be resolved, and how often; `None` when those are what they were.
    pub(crate) lookups: Option<BTreeMap<Arc<str>, Duration>>,
}

/// What has not resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Missing {
    Resource(ResourceKind, Arc<str>),
    All(ResourceKind),
    Host(Arc<str>),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(kind, name) => write!(f, "{kind} {name:?}"),
            Self::All(kind) => write!(f, "the list of every {kind}"),
            Self::Host(host) => write!(f, "the addresses of {host:?}"),
        }
    }
}

impl Assembler {
    pub(crate) fn new(naming: Naming) -> Self {
        Self {
            naming,
            wanted: Wanted::default(),
            trees: BTreeMap::new(),
            cuts: BTreeMap::new(),
            inbound: BTreeMap::new(),
            routed: BTreeMap::new(),
            unrouted: BTreeSet::new(),
            hosts: Hosts::default(),
            filters: BTreeMap::new(),
            clusters: HashMap::new(),
            dependents: HashMap::new(),
            needed: Needs::default(),
            complete: [false; 2],
            last: Snapshot::empty(),
        }
    }

    /// Takes the outcome of a lookup, for the next call of [`assemble`](Self::assemble).
    pub(crate) fn resolved(&mut self, host: &Arc<str>, outcome: Result<Vec<IpAddr>, Arc<str>>) {
        self.hosts.resolved(host, outcome);
    }

    /// Brings the snapshot up to the sources, in which `changed` differs from what it was at the last call.
    pub(crate) fn assemble<'a>(
        &mut self,
        wanted: &Wanted,
        sources: impl Into<Sources<'a>>,
        changed: &[Changed],
    ) -> Assembly {
        let sources = sources.into();
        let hosts = self.hosts.take_changed();
        if self.wanted == *wanted
            && self.complete == complete(sources)
            && let Some(snapshot) = self.touch(sources, changed, hosts)
        {
            return Assembly {
                snapshot,
                ..Assembly::default()
            };
        }
        self.walk(wanted, sources)
    }

    /// Renews the clusters that depend on what changed, if that is all there is to do: no reference is another one.
    fn touch(
        &mut self,
        sources: Sources<'_>,
        changed: &[Changed],
        hosts: BTreeSet<Arc<str>>,
    ) -> Option<Option<Snapshot>> {
        let mut clusters: BTreeSet<&ClusterName> = BTreeSet::new();
        for (kind, name) in changed {
            // What nobody looks at may change as it likes: a control plane that sends all its clusters sends many of those.
            // Of listeners, where all are looked at for a port, each counts.
            let all = *kind == ResourceKind::Listener && self.needed.wants_everything(*kind);
            if !all && !self.needed[kind.index()].contains(name) {
                continue;
            }
            match kind {
                ResourceKind::Cluster | ResourceKind::Endpoints => {
                    clusters.extend(self.dependents.get(&Key::Resource(*kind, Arc::clone(name)))?);
                }
                ResourceKind::Listener | ResourceKind::Route | ResourceKind::ExtensionConfig => return None,
            }
        }
        for host in hosts {
            clusters.extend(self.dependents.get(&Key::Host(host))?);
        }
        let mut renewed = Vec::new();
        for name in clusters {
            let before = self.clusters.get(name)?;
            let mut walk = Walk::new(sources, &self.hosts);
            // One that waits for something, or refers to something else, is for the walk.
            let memo = walk.cluster(name, Some(before));
            if !walk.missing.is_empty() || !memo.asks_like(before) {
                return None;
            }
            if !memo.is_made_like(before) {
                renewed.push((name.clone(), memo));
            }
        }
        // Those of a tree that is not whole yet are in no snapshot, and one that is made otherwise may be what it was.
        let is_news = |name: &ClusterName, memo: &Memo| match (self.last.cluster(name), self.clusters.get(name)) {
            (None, _) => false,
            (Some(_), Some(before)) if memo.has_spec_of(before) => true,
            (Some(before), _) => *before != memo.resolved,
        };
        let published = renewed.iter().filter(|(name, memo)| is_news(name, memo));
        let mut changes = published
            .map(|(name, memo)| (name.clone(), memo.resolved.clone()))
            .peekable();
        if changes.peek().is_none() {
            drop(changes);
            self.clusters.extend(renewed);
            return Some(None);
        }
        let next = self.last.with_clusters(self.next_version(), changes);
        self.clusters.extend(renewed);
        self.last = next.clone();
        Some(Some(next))
    }

    /// Follows the references of all targets.
    fn walk(&mut self, wanted: &Wanted, sources: Sources<'_>) -> Assembly {
        self.wanted.clone_from(wanted);
        self.complete = complete(sources);
        let hosts = std::mem::take(&mut self.hosts);
        let mut walk = Walk::new(sources, &hosts);
        walk.filters = std::mem::take(&mut self.filters);
        if self.naming.profile == Profile::Envoy && *wanted != Wanted::default() {
            walk.needs.want_everything(ResourceKind::Listener);
            walk.needs.want_everything(ResourceKind::Cluster);
        }
        let mut waiting = BTreeMap::new();
        self.walk_targets(&mut walk, &mut waiting);
        self.walk_inbound(&mut walk, &mut waiting);
        let (needs, lookups) = (walk.needs, walk.lookups);
        self.filters = walk.filters;
        self.filters
            .retain(|name, _| needs[ResourceKind::ExtensionConfig.index()].contains(name));
        self.hosts = hosts;
        self.hosts.retain(|host| lookups.contains_key(host));
        self.dependents = dependents(&self.clusters);
        self.needed.clone_from(&needs);
        Assembly {
            needs: Some(needs),
            snapshot: self.snapshot(),
            waiting: Some(waiting),
            lookups: Some(lookups),
        }
    }

    fn walk_targets(&mut self, walk: &mut Walk<'_>, waiting: &mut BTreeMap<Arc<str>, Vec<Missing>>) {
        let targets = self.wanted.targets.clone();
        self.trees.retain(|target, _| targets.contains(target));
        self.cuts.retain(|target, _| targets.contains(target));
        let mut used = BTreeSet::new();
        for target in &targets {
            let (tree, cut) = walk.target(target, &self.naming, self.cuts.get(target));
            let tree = tree.map(|tree| self.kept(target, tree));
            if let Some(Ok(tree)) = &tree {
                self.renew(walk, tree, &mut used);
            }
            let missing = walk.missing.take();
            match tree {
                Some(tree) if missing.is_empty() => {
                    self.trees.insert(Arc::clone(target), tree);
                    match cut {
                        Some(cut) => drop(self.cuts.insert(Arc::clone(target), cut)),
                        None => drop(self.cuts.remove(target)),
                    }
                }
                _ => drop(waiting.insert(Arc::clone(target), missing)),
            }
        }
        // What a kept tree refers to stays subscribed, and goes on being updated, until it is replaced.
        for target in waiting.keys() {
            if let Some(Ok(tree)) = self.trees.get(target).cloned() {
                self.renew(walk, &tree, &mut used);
                walk.missing.truncate(0);
            }
        }
        self.clusters.retain(|name, _| used.contains(name));
    }

    /// The tree that a target has, where the new one is made anew and the same: what did not change stays the value it was.
    fn kept(&self, target: &Arc<str>, new: Resolved<RouteTree>) -> Resolved<RouteTree> {
        match (self.trees.get(target), new) {
            (Some(Ok(old)), Ok(new)) if !Arc::ptr_eq(old, &new) && *old == new => Ok(Arc::clone(old)),
            (_, new) => new,
        }
    }

    fn walk_inbound(&mut self, walk: &mut Walk<'_>, waiting: &mut BTreeMap<Arc<str>, Vec<Missing>>) {
        let addresses = self.wanted.inbound.clone();
        self.inbound.retain(|address, _| addresses.contains(address));
        self.routed.retain(|address, _| addresses.contains(address));
        self.unrouted.retain(|address| addresses.contains(address));
        for address in addresses {
            let mut memo = self.routed.remove(&address);
            let inbound = walk.inbound(&address, &self.naming, &mut memo);
            self.routed.extend(memo.map(|memo| (Arc::clone(&address), memo)));
            let missing = walk.missing.take();
            let lacks = !missing.is_empty();
            if lacks {
                waiting.insert(Arc::clone(&address), missing);
            }
            let serves = matches!(self.inbound.get(&address), Some(Ok(_))) && !self.unrouted.contains(&address);
            match inbound {
                // What takes its place is not whole yet.
                None | Some(Ok(_)) if lacks && serves => {}
                None => drop(waiting.entry(address).or_default()),
                Some(inbound) => {
                    match lacks {
                        true => self.unrouted.insert(Arc::clone(&address)),
                        false => self.unrouted.remove(&address),
                    };
                    self.inbound.insert(address, inbound);
                }
            }
        }
    }

    /// Resolves the clusters of a tree anew. One that resolved before and is waited for now keeps what it was; one that never
    /// did is what the tree waits for.
    fn renew(&mut self, walk: &mut Walk<'_>, tree: &RouteTree, used: &mut BTreeSet<ClusterName>) {
        for name in tree.clusters() {
            if used.contains(name) && self.clusters.contains_key(name) {
                continue;
            }
            let missing_before = walk.missing.len();
            let memo = walk.cluster(name, self.clusters.get(name));
            let before = self.clusters.get_mut(name);
            match (before, walk.waits) {
                (Some(before), true) => {
                    walk.missing.truncate(missing_before);
                    before.waits = true;
                }
                (Some(before), false) if memo.is_made_like(before) && memo.asks_like(before) => {
                    before.waits = false;
                }
                (_, false) => drop(self.clusters.insert(name.clone(), memo)),
                (None, true) => {}
            }
            used.insert(name.clone());
        }
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let mut builder = Snapshot::builder().version(self.next_version());
        let mut names = BTreeSet::new();
        for (target, tree) in &self.trees {
            if let Ok(tree) = tree {
                names.extend(tree.clusters());
            }
            builder = builder.target(Arc::clone(target), tree.clone());
        }
        for name in names {
            let memo = &self.clusters[name];
            builder = builder.resolved_cluster(name.clone(), memo.resolved.clone());
        }
        for (address, inbound) in &self.inbound {
            builder = builder.inbound(Arc::clone(address), inbound.clone());
        }
        let next = builder.build().expect("every cluster of a kept tree has been resolved");
        // Equal parts are the same `Arc`, so this compares pointers.
        if next.is_same_as(&self.last) {
            return None;
        }
        self.last = next.clone();
        Some(next)
    }

    fn next_version(&self) -> Version {
        Version(self.last.version().0 + 1)
    }
}

/// Of which of the kinds that can be asked for whole the control plane has said what there is. An empty list says so too, and
/// changes no name.
fn complete(sources: Sources<'_>) -> [bool; 2] {
    let cache = sources.plain();
    [cache.is_complete::<Listener>(), cache.is_complete::<ClusterSpec>()]
}

/// Who looks at what. A cluster that keeps an old value while a new one is waited for is nobody's here: whatever comes for it
/// is for the walk.
fn dependents(clusters: &HashMap<ClusterName, Memo>) -> HashMap<Key, Vec<ClusterName>> {
    let mut dependents: HashMap<Key, Vec<ClusterName>> = HashMap::new();
    for (name, memo) in clusters.iter().filter(|(_, memo)| !memo.waits) {
        for key in &memo.looked_at {
            dependents.entry(key.clone()).or_default().push(name.clone());
        }
    }
    dependents
}
