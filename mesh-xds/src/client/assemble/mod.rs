//! From the cache to a snapshot: one tree per target, published only when it is whole (gRFC A74).
//!
//! A target's tree is its listener, the routes that names, their clusters and those clusters' endpoints. It is whole when
//! every name in it resolved, to a value or to a definite error; the error is data then, and fails the calls that meet it.
//! A tree that is not whole leaves the target's last one in place, and never holds up another target. Waiting gates new
//! references only: once a cluster resolved, its updates reach every target at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::config::{ClusterName, Resolved, RouteTree, Snapshot, Version};

use super::ads::Needs;
use super::cache::Cache;
use crate::resource::ResourceKind;

mod walk;

use walk::{Memo, Walk};

/// What the last call left behind.
#[derive(Debug)]
pub(crate) struct Assembler {
    /// gRPC's `client_default_listener_resource_name_template`; `%s` stands for the target.
    template: Box<str>,
    /// The last whole tree of each target.
    trees: BTreeMap<Arc<str>, Resolved<RouteTree>>,
    /// What each cluster last resolved to.
    clusters: HashMap<ClusterName, Memo>,
    last: Snapshot,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// What must be subscribed to.
    pub(crate) needs: Needs,
    /// Set when it differs from the last one.
    pub(crate) snapshot: Option<Snapshot>,
    /// The targets that are not whole, and what each lacks.
    pub(crate) waiting: BTreeMap<Arc<str>, Vec<Missing>>,
}

/// A name that has not resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) kind: ResourceKind,
    pub(crate) name: Arc<str>,
}

impl Assembler {
    pub(crate) fn new(template: impl Into<Box<str>>) -> Self {
        Self {
            template: template.into(),
            trees: BTreeMap::new(),
            clusters: HashMap::new(),
            last: Snapshot::empty(),
        }
    }

    /// Follows the references of `targets` through the cache.
    pub(crate) fn assemble(&mut self, targets: &[Arc<str>], cache: &Cache) -> Assembly {
        let mut assembly = Assembly::default();
        self.trees.retain(|target, _| targets.contains(target));
        let mut used = BTreeSet::new();
        for target in targets {
            let mut walk = Walk {
                cache,
                memos: &mut self.clusters,
                needs: &mut assembly.needs,
                used: &mut used,
                missing: Vec::new(),
            };
            let tree = walk.target(target, &self.template);
            let missing = walk.missing;
            match tree {
                Some(tree) if missing.is_empty() => drop(self.trees.insert(Arc::clone(target), tree)),
                _ => drop(assembly.waiting.insert(Arc::clone(target), missing)),
            }
        }
        // What a kept tree refers to stays subscribed, and goes on being updated, until it is replaced.
        for target in assembly.waiting.keys() {
            if let Some(Ok(tree)) = self.trees.get(target) {
                let mut walk = Walk {
                    cache,
                    memos: &mut self.clusters,
                    needs: &mut assembly.needs,
                    used: &mut used,
                    missing: Vec::new(),
                };
                walk.clusters(tree);
            }
        }
        self.clusters.retain(|name, _| used.contains(name));
        assembly.snapshot = self.snapshot();
        assembly
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let next = Version(self.last.version().0 + 1);
        let mut builder = Snapshot::builder().version(next);
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
}
