//! The server's side of one ADS stream, state of the world, as a state machine: requests in, responses pulled out.
//!
//! It holds what this client is subscribed to and what it was sent, and compares that with what is published: the next
//! response is whatever differs, in the order clusters, endpoints, listeners, routes, so that nothing is named before it is
//! there (xDS protocol, "Eventual consistency considerations"). Rules learned from real clients:
//!
//! - Only types that were asked for are sent; gRPC C-core stops reading a stream that brings another.
//! - A listener or cluster response holds all that is subscribed, since absence deletes. A cluster that is no longer
//!   published stays in it until the client has settled on routes that do not need it; clients fail calls otherwise.
//! - Envoy uses a cluster only when it has its endpoints too, so the routes to a new one wait until it has said something to
//!   both, see [`warming`](super::warming).
//! - A request with a nonce other than the newest is stale: nothing is taken from it. One without a nonce is answered even
//!   if it is not the first.
//! - A refusal is known by its error and nonce alone; its version may be anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::clients::SubscriptionReport;
use super::encoded::View;
use super::machine::{MAX_NAMES, Machine, Misuse, SEND_ORDER};
use super::subscription::{Subscription, Waits};
use super::warming::Warming;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{Request, Response, Sotw};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct StreamState {
    dialect: Dialect,
    subscriptions: [Option<Subscription>; ResourceKind::COUNT],
    warming: Warming,
    next_nonce: u64,
}

impl Machine for StreamState {
    type Variant = Sotw;

    fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            subscriptions: Default::default(),
            warming: Warming::default(),
            next_nonce: 1,
        }
    }

    fn on_request(&mut self, request: Request) -> Result<(), Misuse> {
        // A type that is not served is not answered: an error would end the stream for all the others.
        let Some(kind) = ResourceKind::from_type_url(&request.type_url) else {
            return Ok(());
        };
        if request.names.len() > MAX_NAMES {
            return Err(Misuse::TooManyNames(kind));
        }
        let first = self.subscriptions[kind.index()].is_none();
        let subscription = self.subscriptions[kind.index()].get_or_insert_default();
        if !first && !request.nonce.is_empty() {
            let Ok(nonce) = request.nonce.parse() else {
                return Ok(());
            };
            if !subscription.acknowledge(nonce, request.error.as_deref()) {
                return Ok(());
            }
        }
        subscription.subscribe(kind, request.names, first);
        if request.nonce.is_empty() || first {
            subscription.begin_anew(kind);
        }
        Ok(())
    }

    fn next_response(&mut self, published: &View, now: Instant) -> Option<Response> {
        for kind in SEND_ORDER {
            let set = published.of(kind);
            let hold = match kind {
                ResourceKind::Cluster if !self.routes_settled(published) => Waits::Removals,
                ResourceKind::Route => Waits::These(self.cold_routes(published, now)),
                _ => Waits::Nothing,
            };
            let Some(subscription) = &mut self.subscriptions[kind.index()] else {
                continue;
            };
            let (renewed, gone) = (subscription.renewed(kind, set), subscription.gone(kind, set, &hold));
            let Some(response) = subscription.response(kind, set, &hold, self.dialect, self.next_nonce) else {
                continue;
            };
            self.next_nonce += 1;
            if let Dialect::Envoy(_) = self.dialect {
                self.warm(&renewed, &gone);
            }
            return Some(response);
        }
        None
    }

    fn wakes(&self) -> Option<Instant> {
        self.warming.wakes()
    }

    fn report(&self) -> Vec<SubscriptionReport> {
        let one = |kind: ResourceKind| {
            let subscription = self.subscriptions[kind.index()].as_ref()?;
            Some(SubscriptionReport {
                refused_at: None,
                kind,
                names: subscription.names.iter().cloned().collect(),
                sent: subscription.version.clone(),
                acknowledged: subscription.acknowledged(),
            })
        };
        ResourceKind::ALL.into_iter().filter_map(one).collect()
    }
}

impl StreamState {
    /// Envoy makes a changed cluster anew and waits for its endpoints before it uses it, even if they are those that it has
    /// (xDS protocol, "Resource warming"). With a cluster that is gone it forgets the endpoints, if it comes back or not.
    fn warm(&mut self, renewed: &[Arc<str>], gone: &[Arc<str>]) {
        if let Some(endpoints) = &mut self.subscriptions[ResourceKind::Endpoints.index()] {
            endpoints.send_again(renewed);
            endpoints.forget(gone);
        }
    }

    /// The route configurations that wait for clusters that the client has not warmed.
    fn cold_routes(&mut self, published: &View, now: Instant) -> BTreeSet<Arc<str>> {
        let [routes, clusters, endpoints] = [ResourceKind::Route, ResourceKind::Cluster, ResourceKind::Endpoints]
            .map(|kind| self.subscriptions[kind.index()].as_ref());
        let (Some(routes), Some(clusters)) = (routes, clusters.filter(|clusters| clusters.wildcard)) else {
            return self.warming.none();
        };
        let is_warm =
            |name: &str| clusters.answered.has(name) && endpoints.is_some_and(|endpoints| endpoints.answered.has(name));
        let set = published.of(ResourceKind::Route);
        let clusters = published.of(ResourceKind::Cluster);
        self.warming.hold(routes.changed(set), set, clusters, is_warm, now)
    }

    /// Whether the client has said something to the newest listeners and routes: what it is still subscribed to after
    /// that, it needs for nothing that is published.
    fn routes_settled(&self, published: &View) -> bool {
        [ResourceKind::Listener, ResourceKind::Route].into_iter().all(|kind| {
            let Some(subscription) = &self.subscriptions[kind.index()] else {
                return true;
            };
            !subscription.is_waited_for() && !subscription.differs(kind, published.of(kind))
        })
    }
}
