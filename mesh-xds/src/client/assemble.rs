//! From the cache to a snapshot: one tree per target, published only when it is whole (gRFC A74).
//!
//! A target's tree is its listener, the routes that names, their clusters and those clusters' endpoints. It is whole when
//! every name in it resolved, to a value or to a definite error; the error is data then, and fails the calls that meet it.
//! A tree that is not whole leaves the target's last one in place, and never holds up another target. Waiting gates new
//! references only: once a cluster resolved, its updates reach every target at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::config::{Cluster, ClusterName, Reason, ReasonKind, Resolved, RouteTree, Snapshot, Version};

use super::ads::Needs;
use super::cache::{Cache, Found, Trouble};
use crate::decode::UNSERVED;
use crate::resource::{ClusterSpec, Endpoints, Listener, ResourceKind};

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

#[derive(Debug)]
struct Memo {
    /// What it was made of, so that unchanged parts give the same `Arc`.
    parts: Option<(Arc<ClusterSpec>, Arc<Endpoints>)>,
    resolved: Resolved<Cluster>,
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

/// One walk down a target's references.
struct Walk<'a> {
    cache: &'a Cache,
    memos: &'a mut HashMap<ClusterName, Memo>,
    needs: &'a mut Needs,
    used: &'a mut BTreeSet<ClusterName>,
    missing: Vec<Missing>,
}

impl Walk<'_> {
    /// The target's tree, or `None` while it is not known what it is.
    fn target(&mut self, target: &str, template: &str) -> Option<Resolved<RouteTree>> {
        let name: Arc<str> = template.replace("%s", target).into();
        let listener = match self.look::<Listener>(ResourceKind::Listener, &name) {
            Found::Value(listener) => listener,
            Found::None(trouble) => return Some(Err(reason(trouble, ReasonKind::NoListener))),
            Found::Pending => return None,
        };
        let tree = match &*listener {
            Listener::Inline(tree) => Arc::clone(tree),
            Listener::Named(name) => match self.look::<RouteTree>(ResourceKind::Route, name) {
                Found::Value(tree) => tree,
                Found::None(trouble) => return Some(Err(reason(trouble, ReasonKind::NoRoute))),
                Found::Pending => return None,
            },
        };
        self.clusters(&tree);
        Some(Ok(tree))
    }

    fn clusters(&mut self, tree: &RouteTree) {
        for name in tree.clusters() {
            if self.used.contains(name) && self.memos.contains_key(name) {
                continue;
            }
            self.used.insert(name.clone());
            if let Some(memo) = self.cluster(name) {
                self.memos.insert(name.clone(), memo);
            }
        }
    }

    /// What a cluster resolves to now; `None` while it is not known, or to keep what it last was.
    fn cluster(&mut self, name: &ClusterName) -> Option<Memo> {
        if let Some(action) = name.as_str().strip_prefix(UNSERVED) {
            let text = format!("the route's action, a {action}, is not served by this client");
            return Some(Memo::error(Reason::new(ReasonKind::NoRoute, text)));
        }
        let resource: Arc<str> = name.as_str().into();
        let spec = match self.look::<ClusterSpec>(ResourceKind::Cluster, &resource) {
            Found::Value(spec) => spec,
            Found::None(trouble) => return Some(Memo::error(reason(trouble, ReasonKind::NoCluster))),
            Found::Pending => return self.not_yet(name),
        };
        let endpoints = match self.look::<Endpoints>(ResourceKind::Endpoints, &spec.endpoints) {
            Found::Value(endpoints) => endpoints,
            Found::None(trouble) => return Some(Memo::error(reason(trouble, ReasonKind::NoEndpoints))),
            Found::Pending => return self.not_yet(name),
        };
        if let Some(Memo { parts: Some(parts), .. }) = self.memos.get(name)
            && Arc::ptr_eq(&parts.0, &spec)
            && Arc::ptr_eq(&parts.1, &endpoints)
        {
            return None;
        }
        let cluster = Cluster {
            endpoints: Arc::clone(&endpoints),
            ..spec.cluster.clone()
        };
        Some(Memo {
            parts: Some((spec, endpoints)),
            resolved: Ok(Arc::new(cluster)),
        })
    }

    /// A cluster that resolved before keeps what it was; one that never did is what the tree waits for.
    fn not_yet(&mut self, name: &ClusterName) -> Option<Memo> {
        if self.memos.contains_key(name) {
            self.missing.pop();
        }
        None
    }

    fn look<R: super::cache::Cached>(&mut self, kind: ResourceKind, name: &Arc<str>) -> Found<R> {
        self.needs[kind.index()].insert(Arc::clone(name));
        let found = self.cache.find(name);
        if matches!(found, Found::Pending) {
            self.missing.push(Missing {
                kind,
                name: Arc::clone(name),
            });
        }
        found
    }
}

impl Memo {
    fn error(reason: Reason) -> Self {
        Self {
            parts: None,
            resolved: Err(reason),
        }
    }
}

fn reason(trouble: Trouble, absent: ReasonKind) -> Reason {
    match trouble {
        Trouble::Absent(why) => Reason::new(absent, why),
        Trouble::Refused(rejected) => Reason::new(
            ReasonKind::Refused,
            format!("refused, and there was no good one before: {rejected}"),
        ),
    }
}
