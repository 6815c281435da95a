//! From the cache to a snapshot: one tree per target, published only when it is whole (gRFC A74).
//!
//! A target's tree is its listener, the routes that names, their clusters and those clusters' endpoints. It is whole when
//! every name in it resolved, to a value or to a definite error; the error is data then, and fails the calls that meet it.
//! A tree that is not whole leaves the target's last one in place, and never holds up another target. Waiting gates new
//! references only: once a cluster resolved, its updates reach every target at once.
//!
//! Most updates change no reference: an endpoint comes or goes, a cluster gets another timeout. Those touch the clusters that
//! depend on what changed and nothing else, whatever the size of the rest; only what may change a reference walks all trees.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::config::{ClusterName, Resolved, RouteTree, Snapshot, Version};

use super::ads::Needs;
use super::cache::{Cache, Changed};
use crate::bootstrap::ListenerNames;
use crate::resource::ResourceKind;

mod walk;

use walk::{Memo, Walk};

/// What the last call left behind.
#[derive(Debug)]
pub(crate) struct Assembler {
    /// Makes the names of listeners, by the bootstrap's templates.
    names: ListenerNames,
    targets: Vec<Arc<str>>,
    /// The last whole tree of each target.
    trees: BTreeMap<Arc<str>, Resolved<RouteTree>>,
    /// What each cluster last resolved to.
    clusters: HashMap<ClusterName, Memo>,
    /// The clusters that look at a cluster or endpoints of this name, as of the last walk.
    dependents: HashMap<Changed, Vec<ClusterName>>,
    /// What the last walk found needed.
    needed: Needs,
    last: Snapshot,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// What must be subscribed to; `None` when that is what it was.
    pub(crate) needs: Option<Needs>,
    /// Set when it differs from the last one.
    pub(crate) snapshot: Option<Snapshot>,
    /// The targets that are not whole, and what each lacks; `None` when those are what they were.
    pub(crate) waiting: Option<BTreeMap<Arc<str>, Vec<Missing>>>,
}

/// A name that has not resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) kind: ResourceKind,
    pub(crate) name: Arc<str>,
}

impl Assembler {
    pub(crate) fn new(names: impl Into<ListenerNames>) -> Self {
        Self {
            names: names.into(),
            targets: Vec::new(),
            trees: BTreeMap::new(),
            clusters: HashMap::new(),
            dependents: HashMap::new(),
            needed: Needs::default(),
            last: Snapshot::empty(),
        }
    }

    /// Brings the snapshot up to the cache, in which `changed` differs from what it was at the last call.
    pub(crate) fn assemble(&mut self, targets: &[Arc<str>], cache: &Cache, changed: &[Changed]) -> Assembly {
        if self.targets == targets
            && let Some(snapshot) = self.touch(cache, changed)
        {
            return Assembly {
                snapshot,
                ..Assembly::default()
            };
        }
        self.walk(targets, cache)
    }

    /// Renews the clusters that depend on what changed, if that is all there is to do: no reference is another one.
    fn touch(&mut self, cache: &Cache, changed: &[Changed]) -> Option<Option<Snapshot>> {
        let mut clusters: BTreeSet<&ClusterName> = BTreeSet::new();
        // What nobody looks at may change as it likes: a control plane that sends all its clusters sends many of those.
        let needed = |key: &&Changed| self.needed[key.0.index()].contains(&key.1);
        for key in changed.iter().filter(needed) {
            match key.0 {
                ResourceKind::Cluster | ResourceKind::Endpoints => clusters.extend(self.dependents.get(key)?),
                ResourceKind::Listener | ResourceKind::Route => return None,
            }
        }
        let mut renewed = Vec::new();
        for name in clusters {
            let before = self.clusters.get(name)?;
            let mut walk = Walk::new(cache);
            // One that waits for something, or refers to something else, is for the walk.
            let memo = walk.cluster(name);
            if !walk.missing.is_empty() || memo.looked_at != before.looked_at {
                return None;
            }
            if !memo.is_made_like(before) {
                renewed.push((name.clone(), memo));
            }
        }
        if renewed.is_empty() {
            return Some(None);
        }
        let changes = renewed.iter().map(|(name, memo)| (name.clone(), memo.resolved.clone()));
        let next = self.last.with_clusters(self.next_version(), changes);
        self.clusters.extend(renewed);
        self.last = next.clone();
        Some(Some(next))
    }

    /// Follows the references of all targets.
    fn walk(&mut self, targets: &[Arc<str>], cache: &Cache) -> Assembly {
        self.targets = targets.into();
        self.trees.retain(|target, _| targets.contains(target));
        let (mut walk, mut waiting) = (Walk::new(cache), BTreeMap::new());
        let mut used = BTreeSet::new();
        for target in targets {
            let tree = walk.target(target, &self.names);
            if let Some(Ok(tree)) = &tree {
                self.renew(&mut walk, tree, &mut used);
            }
            let missing = std::mem::take(&mut walk.missing);
            match tree {
                Some(tree) if missing.is_empty() => drop(self.trees.insert(Arc::clone(target), tree)),
                _ => drop(waiting.insert(Arc::clone(target), missing)),
            }
        }
        // What a kept tree refers to stays subscribed, and goes on being updated, until it is replaced.
        for target in waiting.keys() {
            if let Some(Ok(tree)) = self.trees.get(target).cloned() {
                self.renew(&mut walk, &tree, &mut used);
                walk.missing.clear();
            }
        }
        self.clusters.retain(|name, _| used.contains(name));
        self.dependents = dependents(&self.clusters);
        self.needed.clone_from(&walk.needs);
        Assembly {
            needs: Some(walk.needs),
            snapshot: self.snapshot(),
            waiting: Some(waiting),
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
            let memo = walk.cluster(name);
            let before = self.clusters.get_mut(name);
            match (before, walk.missing.len() > missing_before) {
                (Some(before), true) => {
                    walk.missing.truncate(missing_before);
                    before.waits = true;
                }
                (Some(before), false) if memo.is_made_like(before) && before.looked_at == memo.looked_at => {
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
        let next = builder.build().expect("every cluster of a kept tree has been resolved");
        // Equal parts are the same `Arc`, so this compares pointers.
        if next.targets() == self.last.targets() && next.clusters() == self.last.clusters() {
            return None;
        }
        self.last = next.clone();
        Some(next)
    }

    fn next_version(&self) -> Version {
        Version(self.last.version().0 + 1)
    }
}

/// Who looks at what. A cluster that keeps an old value while a new one is waited for is nobody's here: whatever comes for it
/// is for the walk.
fn dependents(clusters: &HashMap<ClusterName, Memo>) -> HashMap<Changed, Vec<ClusterName>> {
    let mut dependents: HashMap<Changed, Vec<ClusterName>> = HashMap::new();
    for (name, memo) in clusters.iter().filter(|(_, memo)| !memo.waits) {
        for key in &memo.looked_at {
            dependents.entry(key.clone()).or_default().push(name.clone());
        }
    }
    dependents
}
