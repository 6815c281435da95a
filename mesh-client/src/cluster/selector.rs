//! What a channel reads on each request: its target's routes together with the live clusters they lead to.
//!
//! Routes and clusters are published as one value, so they change in the same instant and a request that loads it once cannot
//! meet a route of one version and a cluster of another (gRFC A31, A74). There is one per target: the virtual host is chosen
//! when the configuration is built, not on every request.

use std::sync::Arc;

use mesh_core::Entropy;
use mesh_core::config::{ClusterName, Fault, Mirror, Reason, Route, RouteTree, Session, VirtualHost};
use mesh_core::route::{Edits, faults_of, session_of};

use super::ClusterHandle;
use crate::telemetry::Log;

/// A target, as far as it is known.
#[derive(Debug)]
pub(crate) enum Target {
    /// Nothing was heard of it yet; calls wait, with a bound.
    Waiting(Reason),
    /// It cannot be called.
    Failed(Reason),
    /// Its routes.
    Ready(Selector),
}

/// The routes of a target's virtual host and, beside each, what they lead to.
#[derive(Debug)]
pub(crate) struct Selector {
    pub(crate) routes: Vec<Arc<Route>>,
    pub(crate) leads: Vec<Leads>,
    /// Which of its calls are written to the access log.
    pub(crate) log: Option<Arc<Log>>,
}

/// What one route leads to.
#[derive(Debug)]
pub(crate) struct Leads {
    /// In the order of its split; empty for a route that sends nothing on.
    pub(crate) shares: Vec<Share>,
    /// Whether calls to any of them are kept with a host.
    pub(crate) has_sessions: bool,
    /// What is done to answers that the route gives by itself.
    pub(crate) own: Option<Arc<Edits>>,
}

/// One share of a split.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) cluster: Live,
    /// `None` for most: a call that asks for nothing besides pays for one look at it.
    pub(crate) extras: Option<Arc<Extras>>,
    /// How its calls are kept with one host.
    pub(crate) session: Option<Arc<Session>>,
}

/// A live cluster, or why there is none.
pub(crate) type Live = Result<Arc<ClusterHandle>, Reason>;

/// What a route does with a call besides sending it, put together when the configuration came.
#[derive(Debug)]
pub(crate) struct Extras {
    pub(crate) edits: Option<Arc<Edits>>,
    pub(crate) faults: Box<[Arc<Fault>]>,
    pub(crate) mirrors: Box<[(Mirror, Live)]>,
    pub(crate) log: Option<Arc<Log>>,
}

impl Selector {
    /// The routes of `host` in `tree`, with the clusters that `live` knows. Chance is drawn from `entropy`.
    pub(super) fn new(
        tree: &RouteTree,
        host: &VirtualHost,
        live: impl Fn(&ClusterName) -> Live,
        entropy: &Entropy,
    ) -> Self {
        let filter = tree.telemetry.access_log.as_ref();
        let log = filter.map(|filter| Arc::new(Log::new(Arc::clone(filter), entropy)));
        let leads = host
            .routes
            .iter()
            .map(|route| Leads::new(tree, host, route, &live, log.as_ref()));
        Self {
            leads: leads.collect(),
            routes: host.routes.clone(),
            log,
        }
    }
}

impl Leads {
    fn new(
        tree: &RouteTree,
        host: &VirtualHost,
        route: &Route,
        live: &impl Fn(&ClusterName) -> Live,
        log: Option<&Arc<Log>>,
    ) -> Self {
        let Some(forward) = route.forward() else {
            return Self {
                shares: Vec::new(),
                has_sessions: false,
                own: Edits::of(tree, host, route, None).map(Arc::new),
            };
        };
        let shares = forward.split.clusters().iter().map(|share| {
            let mirrors = forward
                .mirrors
                .iter()
                .map(|mirror| (mirror.clone(), live(&mirror.cluster)));
            let extras = Extras {
                edits: Edits::of(tree, host, route, Some(share)).map(Arc::new),
                faults: faults_of(tree, host, route, share).into(),
                mirrors: mirrors.collect(),
                log: log.cloned(),
            };
            Share {
                cluster: live(&share.cluster),
                extras: (!extras.is_empty()).then(|| Arc::new(extras)),
                session: session_of(tree, host, route, share).cloned(),
            }
        });
        let shares: Vec<Share> = shares.collect();
        Self {
            has_sessions: shares.iter().any(|share| share.session.is_some()),
            shares,
            own: None,
        }
    }
}

impl Extras {
    fn is_empty(&self) -> bool {
        self.edits.is_none() && self.faults.is_empty() && self.mirrors.is_empty() && self.log.is_none()
    }

    /// Whether a fault may hold a call up. What a request says can only lower how many are (Envoy).
    pub(crate) fn may_hold(&self) -> bool {
        let delays = self.faults.iter().filter_map(|fault| fault.delay.as_ref());
        delays.map(|delay| delay.fraction.of).any(|of| of > 0)
    }
}
