//! A wait for a connection, and for the identity to make it by where that is still being given.
//!
//! Off the common path, so all of it is in a box that a call which finds a connection never makes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use mesh_core::balance::Load as _;
use mesh_core::config::{ChainIdentity, Reason, ReasonKind, RoutingPriority};
use mesh_core::identity::Identity;

use super::Shared;
use super::future::Way;
use crate::body::Outcome;
use crate::cluster::{ClusterManager, HostSet, Open, PendingPlace, Room, is_on_its_way};
use crate::connect::{ConnectError, ConnectKind, Permit, Plan, Security};
use crate::error::{Error, Kind};
use crate::request::Attempt;
use crate::wait::until;

/// What waits, and what it then sends.
pub(super) struct Connecting<B> {
    pub(super) permit: Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>>,
    pub(super) request: Option<Request<Attempt<B>>>,
    pub(super) shared: Arc<Shared>,
    pub(super) way: Way,
}

impl<B> Connecting<B> {
    /// Takes a place among the calls that wait for a connection of the cluster, and begins to wait.
    pub(super) fn begin(
        outcome: &Outcome,
        set: &HostSet,
        unsent: &mut Option<Request<Attempt<B>>>,
        shared: &Arc<Shared>,
        way: Way,
    ) -> Result<Box<Self>, Error> {
        let priority = unsent.as_ref().expect("a try is sent once").body().call.route.priority;
        let waiting = waiting(outcome, set, priority)?;
        Ok(Box::new(Self {
            permit: connect(outcome, set, way, waiting, shared),
            request: unsent.take(),
            shared: Arc::clone(shared),
            way,
        }))
    }
}

fn waiting(outcome: &Outcome, set: &HostSet, priority: RoutingPriority) -> Result<(Room, PendingPlace), Error> {
    let room = outcome.cluster().room(&set.cluster, priority);
    let pending = room.pending().map_err(|Open(limit)| {
        set.counting.overflowed();
        Error::at(Kind::Overflow(limit), outcome.peer())
    })?;
    Ok((room, pending))
}

fn connect(
    outcome: &Outcome,
    set: &HostSet,
    way: Way,
    (room, pending): (Room, PendingPlace),
    shared: &Shared,
) -> Pin<Box<dyn Future<Output = Result<Permit, Error>> + Send>> {
    let manager = Arc::clone(&shared.manager);
    let pool = Arc::clone(outcome.host().pool());
    // A host that is back may be another: what it reports must stand for a while again (gRFC A58).
    if let Some(reported) = outcome.host().reported()
        && !pool.is_connected()
    {
        reported.reconnected();
    }
    let tls = outcome
        .host()
        .tls()
        .cloned()
        .map(|mode| (mode, Arc::clone(outcome.cluster().tls_configs())));
    let settings = Arc::clone(&set.cluster.connections);
    let service = set.cluster.service.clone();
    let (timeout, peer) = (set.cluster.connect_timeout, outcome.peer());
    Box::pin(async move {
        let security = match tls {
            None => Security::Plaintext,
            Some((mode, configs)) => {
                let identity = match mode.identity() {
                    None => None,
                    Some(of) => Some(identity(&manager, &of, timeout).await.map_err(|reason| {
                        let error = ConnectError::new(ConnectKind::NoIdentity(reason));
                        manager.tally().count("connect_failed", error.as_str());
                        Error::at(Kind::Connect(error), peer)
                    })?),
                };
                Security::Tls {
                    mode,
                    identity,
                    configs,
                }
            }
        };
        let plan = Plan {
            security,
            settings,
            carrier: way.carrier,
            timeout,
            room,
            service,
        };
        let permit = pool.permit(plan).await;
        drop(pending);
        permit
    })
}

/// The identity to call by. One that is on its way is waited for as long as a connection would be; one that is lacking for a
/// reason is not.
async fn identity(manager: &ClusterManager, of: &ChainIdentity, limit: Duration) -> Result<Identity, Reason> {
    let standing = manager.identity_of(of).ok_or_else(|| {
        let text = "the cluster is called by a certificate provider that this process does not have";
        Reason::new(ReasonKind::NoIdentity, text)
    })?;
    let known = until(&standing, |standing| !is_on_its_way(standing));
    // Whether it came or time ran out, what stands then is the answer.
    let _ = tokio::time::timeout(limit, known).await;
    (**standing.load()).clone()
}
