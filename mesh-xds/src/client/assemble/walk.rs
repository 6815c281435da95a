//! Down the references of one target, noting each name it needs and each that is missing.

use std::sync::Arc;

use mesh_core::config::{Cluster, ClusterName, Reason, ReasonKind, Resolved, RouteTree};

use super::Missing;
use crate::client::ads::Needs;
use crate::client::cache::{Cache, Cached, Changed, Found, Trouble};
use crate::decode::UNSERVED;
use crate::resource::{ClusterSpec, Discovery, Endpoints, Listener, Routes};

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
    pub(super) fn target(&mut self, target: &str, template: &str) -> Option<Resolved<RouteTree>> {
        let name: Arc<str> = template.replace("%s", target).into();
        let listener = match self.look::<Listener>(&name) {
            Found::Value(listener) => listener,
            Found::None(trouble) => return Some(Err(reason(trouble, ReasonKind::NoListener))),
            Found::Pending => return None,
        };
        let http = match &*listener {
            Listener::Api(http) | Listener::Outbound { http, .. } => http,
            Listener::Inbound(_) | Listener::Other(_) => {
                let text = format!("listener {name:?} is not one for clients");
                return Some(Err(Reason::new(ReasonKind::NoListener, text)));
            }
        };
        if let Some(extension) = http.extensions.first() {
            let text = format!(
                "listener {name:?} has a filter {:?} whose configuration is not fetched",
                extension.name
            );
            return Some(Err(Reason::new(ReasonKind::Refused, text)));
        }
        match &http.routes {
            Routes::Inline(tree) => Some(Ok(Arc::clone(tree))),
            Routes::Named(name) => match self.look::<RouteTree>(name) {
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
        let Discovery::Eds(endpoints) = &spec.discovery else {
            let text = format!("cluster {:?} is of a kind that is not assembled", name.as_str());
            return (None, Err(Reason::new(ReasonKind::NoEndpoints, text)));
        };
        let endpoints = match self.look::<Endpoints>(endpoints) {
            Found::Value(endpoints) => endpoints,
            Found::None(trouble) => return (None, Err(reason(trouble, ReasonKind::NoEndpoints))),
            Found::Pending => return (None, Err(not_yet())),
        };
        let cluster = Cluster {
            endpoints: Arc::clone(&endpoints.endpoints),
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
