//! The server's side of one ADS stream, state of the world, as a state machine: requests in, responses pulled out.
//!
//! It holds what this client is subscribed to and what it was sent, and compares that with what is published: the next
//! response is whatever differs, in the order clusters, endpoints, listeners, routes, so that nothing is named before it is
//! there (xDS protocol, "Eventual consistency considerations"). Rules learned from real clients:
//!
//! - Only types that were asked for are sent; gRPC C-core stops reading a stream that brings another.
//! - A listener or cluster response holds all that is subscribed, since absence deletes. A cluster that is no longer
//!   published stays in it until the client has settled on routes that do not need it; clients fail calls otherwise.
//! - A request with a nonce other than the newest is stale: nothing is taken from it. One without a nonce is answered even
//!   if it is not the first.
//! - A refusal is known by its error and nonce alone; its version may be anything.

use std::sync::Arc;

use super::clients::{Acknowledged, SubscriptionReport};
use super::encoded::View;
use super::machine::{MAX_NAMES, Machine, Misuse, SEND_ORDER};
use super::subscription::Subscription;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{Request, Response, Sotw};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct StreamState {
    dialect: Dialect,
    subscriptions: [Option<Subscription>; ResourceKind::COUNT],
    next_nonce: u64,
}

impl Machine for StreamState {
    type Variant = Sotw;

    fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            subscriptions: Default::default(),
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
        if !first && !request.nonce.is_empty() && request.nonce != subscription.nonce {
            return Ok(());
        }
        if !first && !request.nonce.is_empty() {
            subscription.acknowledge(request.error.as_deref());
        }
        subscription.subscribe(kind, request.names, first);
        if request.nonce.is_empty() || first {
            subscription.owed = true;
            subscription.sent.clear();
            subscription.told_absent.clear();
        }
        Ok(())
    }

    fn next_response(&mut self, published: &View) -> Option<Response> {
        for kind in SEND_ORDER {
            let set = published.of(kind);
            let hold = kind == ResourceKind::Cluster && !self.routes_settled(published);
            let Some(subscription) = &mut self.subscriptions[kind.index()] else {
                continue;
            };
            let renewed = subscription.renewed(kind, set);
            let Some(mut response) = subscription.response(kind, set, hold, self.dialect) else {
                continue;
            };
            response.nonce = self.next_nonce.to_string();
            self.next_nonce += 1;
            subscription.nonce.clone_from(&response.nonce);
            if let Dialect::Envoy(_) = self.dialect {
                self.warm(&renewed);
            }
            return Some(response);
        }
        None
    }

    fn report(&self) -> Vec<SubscriptionReport> {
        let one = |kind: ResourceKind| {
            let subscription = self.subscriptions[kind.index()].as_ref()?;
            Some(SubscriptionReport {
                refused_at: None,
                kind,
                names: subscription.names.iter().cloned().collect(),
                sent: subscription.version.clone(),
                acknowledged: subscription.acknowledged.clone(),
            })
        };
        ResourceKind::ALL.into_iter().filter_map(one).collect()
    }
}

impl StreamState {
    /// Envoy makes a changed cluster anew and waits for its endpoints before it uses it, even if they are those that it has
    /// (xDS protocol, "Resource warming").
    fn warm(&mut self, clusters: &[Arc<str>]) {
        if let Some(endpoints) = &mut self.subscriptions[ResourceKind::Endpoints.index()] {
            endpoints.sent.retain(|name, _| !clusters.contains(name));
        }
    }

    /// Whether the client has said something to the newest listeners and routes: what it is still subscribed to after
    /// that, it needs for nothing that is published.
    fn routes_settled(&self, published: &View) -> bool {
        [ResourceKind::Listener, ResourceKind::Route].into_iter().all(|kind| {
            let Some(subscription) = &self.subscriptions[kind.index()] else {
                return true;
            };
            let waiting = subscription.version.is_some() && subscription.acknowledged == Acknowledged::Waiting;
            !waiting && !subscription.differs(kind, published.of(kind))
        })
    }
}
