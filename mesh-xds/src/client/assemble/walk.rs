//! Down the references of one target, noting each name it needs and each that is missing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::config::{Cluster, ClusterName, Reason, ReasonKind, Resolved, RouteTree};

use super::Missing;
use crate::client::ads::Needs;
use crate::client::cache::{Cache, Cached, Found, Trouble};
use crate::decode::UNSERVED;
use crate::resource::{ClusterSpec, Endpoints, Listener, ResourceKind};

/// One walk down a target's references.
pub(super) struct Walk<'a> {
    pub(super) cache: &'a Cache,
    pub(super) memos: &'a mut HashMap<ClusterName, Memo>,
    pub(super) needs: &'a mut Needs,
    pub(super) used: &'a mut BTreeSet<ClusterName>,
    pub(super) missing: Vec<Missing>,
}

impl Walk<'_> {
    /// The target's tree, or `None` while it is not known what it is.
    pub(super) fn target(&mut self, target: &str, template: &str) -> Option<Resolved<RouteTree>> {
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

    pub(super) fn clusters(&mut self, tree: &RouteTree) {
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

    fn look<R: Cached>(&mut self, kind: ResourceKind, name: &Arc<str>) -> Found<R> {
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

/// What a cluster last resolved to.
#[derive(Debug)]
pub(super) struct Memo {
    /// What it was made of, so that unchanged parts give the same `Arc`.
    parts: Option<(Arc<ClusterSpec>, Arc<Endpoints>)>,
    pub(super) resolved: Resolved<Cluster>,
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
