//! Down the references of one target, noting each name it needs and each that is missing.

use std::sync::Arc;

use mesh_core::config::{Cluster, ClusterName, Reason, ReasonKind, Resolved, RouteTree};

use super::Missing;
use crate::bootstrap::ListenerNames;
use crate::client::ads::Needs;
use crate::client::cache::{Cache, Cached, Changed, Found, Trouble};
use crate::decode::UNSERVED;
use crate::resource::{ClusterSpec, Endpoints, Listener};

/// A walk down the references of targets or clusters.
pub(super) struct Walk<'a> {
    cache: &'a Cache,
    pub(super) needs: Needs,
    pub(super) missing: Vec<Missing>,
    /// What the cluster that is being resolved was looked up by.
    looked_at: Vec<Changed>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(cache: &'a Cache) -> Self {
        Self {
            cache,
            needs: Needs::default(),
            missing: Vec::new(),
            looked_at: Vec::new(),
        }
    }

    /// The target's routes, or `None` while it is not known what they are.
    pub(super) fn target(&mut self, target: &str, names: &ListenerNames) -> Option<Resolved<RouteTree>> {
        let name: Arc<str> = match names.of_target(target) {
            Ok(name) => name.into(),
            Err(invalid) => return Some(Err(Reason::new(ReasonKind::NoListener, invalid.to_string()))),
        };
        let listener = match self.look::<Listener>(&name) {
            Found::Value(listener) => listener,
            Found::None(trouble) => return Some(Err(reason(trouble, ReasonKind::NoListener))),
            Found::Pending => return None,
        };
        match &*listener {
            Listener::Inline(tree) => Some(Ok(Arc::clone(tree))),
            Listener::Named(name) => match self.look::<RouteTree>(name) {
                Found::Value(tree) => Some(Ok(tree)),
                Found::None(trouble) => Some(Err(reason(trouble, ReasonKind::NoRoute))),
                Found::Pending => None,
            },
        }
    }

    /// What a cluster resolves to now. Where something of it is missing, that is noted, and the value says so.
    pub(super) fn cluster(&mut self, name: &ClusterName) -> Memo {
        self.looked_at.clear();
        let (made_of, resolved) = self.resolve(name);
        Memo {
            looked_at: std::mem::take(&mut self.looked_at),
            made_of,
            resolved,
            waits: false,
        }
    }

    fn resolve(&mut self, name: &ClusterName) -> (Option<Parts>, Resolved<Cluster>) {
        if let Some(action) = name.as_str().strip_prefix(UNSERVED) {
            let text = format!("the route's action, a {action}, is not served by this client");
            return (None, Err(Reason::new(ReasonKind::NoRoute, text)));
        }
        let spec = match self.look::<ClusterSpec>(&name.as_str().into()) {
            Found::Value(spec) => spec,
            Found::None(trouble) => return (None, Err(reason(trouble, ReasonKind::NoCluster))),
            Found::Pending => return (None, Err(not_yet())),
        };
        let endpoints = match self.look::<Endpoints>(&spec.endpoints) {
            Found::Value(endpoints) => endpoints,
            Found::None(trouble) => return (None, Err(reason(trouble, ReasonKind::NoEndpoints))),
            Found::Pending => return (None, Err(not_yet())),
        };
        let cluster = Cluster {
            endpoints: Arc::clone(&endpoints),
            ..spec.cluster.clone()
        };
        (Some(Parts(spec, endpoints)), Ok(Arc::new(cluster)))
    }

    fn look<R: Cached>(&mut self, name: &Arc<str>) -> Found<R> {
        self.needs[R::KIND.index()].insert(Arc::clone(name));
        self.looked_at.push((R::KIND, Arc::clone(name)));
        let found = self.cache.find(name);
        if matches!(found, Found::Pending) {
            self.missing.push(Missing {
                kind: R::KIND,
                name: Arc::clone(name),
            });
        }
        found
    }
}

/// What a cluster last resolved to.
#[derive(Debug)]
pub(super) struct Memo {
    /// The names that were looked up for it.
    pub(super) looked_at: Vec<Changed>,
    /// What it was made of, so that unchanged parts give the same `Arc`.
    made_of: Option<Parts>,
    pub(super) resolved: Resolved<Cluster>,
    /// It is what it was before something went missing.
    pub(super) waits: bool,
}

#[derive(Debug)]
struct Parts(Arc<ClusterSpec>, Arc<Endpoints>);

impl Memo {
    /// Whether both came of the same values, or are the same error.
    pub(super) fn is_made_like(&self, other: &Self) -> bool {
        match (&self.made_of, &other.made_of) {
            (Some(Parts(spec, endpoints)), Some(other)) => {
                Arc::ptr_eq(spec, &other.0) && Arc::ptr_eq(endpoints, &other.1)
            }
            (None, None) => self.resolved == other.resolved,
            _ => false,
        }
    }
}

fn not_yet() -> Reason {
    Reason::new(ReasonKind::Waiting, "it is still waited for")
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
