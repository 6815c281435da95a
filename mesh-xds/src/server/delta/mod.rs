//! The server's side of one incremental ADS stream, as a state machine: requests in, responses pulled out.
//!
//! It compares the version of each resource that a client was told with the published one, and sends the difference, in the
//! same order as the other variant and by the same rules learned from real clients (see [`ads`](super::ads)). Its own are:
//!
//! - A response is answered by its nonce, however late, and the answer is about the resources that were in it.
//! - A change of subscription is a difference, so it is taken from every request, whatever its nonce.
//! - A name that is subscribed to once more is sent once more: its client may have forgotten it.
//! - A subscribed name that is not published is told to be removed at once.
//! - Routes to a new cluster wait until Envoy has warmed it, as in the other variant.
//! - Clusters and endpoints that are no longer published are removed once the client has settled on routes without them.

mod subscription;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::clients::SubscriptionReport;
use super::encoded::View;
use super::machine::{Machine, Misuse, SEND_ORDER};
use super::subscription::Waits;
use super::warming::Warming;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{Delta, DeltaRequest, DeltaResponse};

use subscription::Subscription;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DeltaState {
    dialect: Dialect,
    subscriptions: [Option<Subscription>; ResourceKind::COUNT],
    warming: Warming,
    /// Of the newest response; nonces count from one.
    nonce: u64,
}

impl Machine for DeltaState {
    type Variant = Delta;

    fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            subscriptions: Default::default(),
            warming: Warming::default(),
            nonce: 0,
        }
    }

    fn on_request(&mut self, request: DeltaRequest) -> Result<(), Misuse> {
        // A type that is not served is not answered: an error would end the stream for all the others.
        let Some(kind) = ResourceKind::from_type_url(&request.type_url) else {
            return Ok(());
        };
        let first = self.subscriptions[kind.index()].is_none();
        let subscription = self.subscriptions[kind.index()].get_or_insert_default();
        if let Ok(nonce) = request.nonce.parse() {
            subscription.acknowledge(nonce, request.error.as_deref());
        }
        let unnamed = first && request.subscribe.is_empty();
        subscription.change(kind, request.subscribe, &request.unsubscribe);
        if unnamed {
            subscription.everything(kind);
        }
        if first {
            subscription.resume(request.held);
        }
        if subscription.is_too_large() {
            return Err(Misuse::TooManyNames(kind));
        }
        Ok(())
    }

    fn next_response(&mut self, published: &View, now: Instant) -> Option<DeltaResponse> {
        for kind in SEND_ORDER {
            let set = published.of(kind);
            let waits = match kind {
                ResourceKind::Cluster | ResourceKind::Endpoints if !self.routes_settled(published) => Waits::Removals,
                ResourceKind::Route => Waits::These(self.cold_routes(published, now)),
                _ => Waits::Nothing,
            };
            let Some(subscription) = &mut self.subscriptions[kind.index()] else {
                continue;
            };
            let (renewed, gone) = (subscription.renewed(kind, set), subscription.gone(kind, set, &waits));
            if let Some(response) = subscription.response(kind, set, &waits, self.nonce + 1) {
                self.nonce += 1;
                if let Dialect::Envoy(_) = self.dialect {
                    self.warm(&renewed, &gone);
                }
                return Some(response);
            }
        }
        None
    }

    fn wakes(&self) -> Option<Instant> {
        self.warming.wakes()
    }

    fn report(&self) -> Vec<SubscriptionReport> {
        let one = |kind: ResourceKind| Some(self.subscriptions[kind.index()].as_ref()?.report(kind));
        ResourceKind::ALL.into_iter().filter_map(one).collect()
    }
}

impl DeltaState {
    /// See [`StreamState`](super::ads::StreamState): a changed cluster is sent its endpoints again.
    fn warm(&mut self, renewed: &[Arc<str>], gone: &[Arc<str>]) {
        if let Some(endpoints) = &mut self.subscriptions[ResourceKind::Endpoints.index()] {
            endpoints.send_again(renewed);
            endpoints.forget(gone);
        }
    }

    /// See [`StreamState`](super::ads::StreamState): the route configurations that wait for clusters.
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
        self.warming
            .hold(routes.changed_names(set), set, clusters, is_warm, now)
    }

    /// Whether the client has said something to the newest listeners and routes.
    fn routes_settled(&self, published: &View) -> bool {
        [ResourceKind::Listener, ResourceKind::Route].into_iter().all(|kind| {
            let subscription = self.subscriptions[kind.index()].as_ref();
            subscription.is_none_or(|one| one.is_answered() && !one.differs(published.of(kind)))
        })
    }
}
