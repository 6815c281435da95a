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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::clients::{Acknowledged, SubscriptionReport};
use super::encoded::{Encoded, TypeSet};
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::{NOT_FOUND, Raw, Request, ResourceError, Response};

/// Make before break.
const SEND_ORDER: [ResourceKind; 4] = [
    ResourceKind::Cluster,
    ResourceKind::Endpoints,
    ResourceKind::Listener,
    ResourceKind::Route,
];

/// The name that asks for everything (xDS protocol, "Wildcard").
const WILDCARD: &str = "*";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct StreamState {
    dialect: Dialect,
    subscriptions: [Option<Subscription>; 4],
    next_nonce: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// A request waits for its answer, even if that has nothing new.
    owed: bool,
    /// Of the newest response.
    nonce: String,
    version: Option<Arc<str>>,
    sent: BTreeMap<Arc<str>, Arc<[u8]>>,
    /// Names that the client was told are not there.
    told_absent: BTreeSet<Arc<str>>,
    acknowledged: Acknowledged,
}

impl StreamState {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            subscriptions: Default::default(),
            next_nonce: 1,
        }
    }

    /// Takes a request in.
    pub(super) fn on_request(&mut self, request: Request) {
        // A type that is not served is not answered: an error would end the stream for all the others.
        let Some(kind) = request.kind() else { return };
        let first = self.subscriptions[kind.index()].is_none();
        let subscription = self.subscriptions[kind.index()].get_or_insert_default();
        if !first && !request.nonce.is_empty() && request.nonce != subscription.nonce {
            return;
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
    }

    /// What to send next, if anything differs from what was sent.
    pub(super) fn next_response(&mut self, published: &Encoded) -> Option<Response> {
        for kind in SEND_ORDER {
            let set = published.of(self.dialect, kind);
            let hold = kind == ResourceKind::Cluster && !self.routes_settled(published);
            let Some(subscription) = &mut self.subscriptions[kind.index()] else {
                continue;
            };
            let Some(mut response) = subscription.response(kind, set, hold, self.dialect) else {
                continue;
            };
            response.nonce = self.next_nonce.to_string();
            self.next_nonce += 1;
            subscription.nonce.clone_from(&response.nonce);
            return Some(response);
        }
        None
    }

    pub(super) fn report(&self) -> Vec<SubscriptionReport> {
        let one = |kind: ResourceKind| {
            let subscription = self.subscriptions[kind.index()].as_ref()?;
            Some(SubscriptionReport {
                kind,
                names: subscription.names.iter().cloned().collect(),
                sent: subscription.version.clone(),
                acknowledged: subscription.acknowledged.clone(),
            })
        };
        ResourceKind::ALL.into_iter().filter_map(one).collect()
    }

    /// Whether the client has said something to the newest listeners and routes: what it is still subscribed to after
    /// that, it needs for nothing that is published.
    fn routes_settled(&self, published: &Encoded) -> bool {
        [ResourceKind::Listener, ResourceKind::Route].into_iter().all(|kind| {
            let Some(subscription) = &self.subscriptions[kind.index()] else {
                return true;
            };
            let waiting = subscription.version.is_some() && subscription.acknowledged == Acknowledged::Waiting;
            !waiting && !subscription.differs(published.of(self.dialect, kind))
        })
    }
}

impl Subscription {
    fn acknowledge(&mut self, error: Option<&str>) {
        match error {
            Some(why) => self.acknowledged = Acknowledged::Refused(why.into()),
            // A change of names after a refusal carries the same nonce and no error: it takes nothing back.
            None if self.acknowledged == Acknowledged::Waiting => self.acknowledged = Acknowledged::Accepted,
            None => {}
        }
    }

    fn subscribe(&mut self, kind: ResourceKind, names: Vec<Arc<str>>, first: bool) {
        let mut names: BTreeSet<Arc<str>> = names.into_iter().collect();
        let star = names.remove(WILDCARD);
        if kind.absence_means_deleted() {
            // An empty list is a wildcard as a stream's first word, and stays one until names are said.
            self.wildcard = star || (names.is_empty() && (first || self.wildcard));
        }
        let (wildcard, kept) = (self.wildcard, &names);
        self.sent.retain(|name, _| wildcard || kept.contains(name));
        self.told_absent.retain(|name| kept.contains(name));
        self.names = names;
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether something that is wanted and published was not sent, or not so.
    fn differs(&self, set: &TypeSet) -> bool {
        let mut wanted = set.resources.iter().filter(|(name, _)| self.wants(name));
        wanted.any(|(name, bytes)| self.sent.get(name) != Some(bytes))
    }

    fn response(&mut self, kind: ResourceKind, set: &TypeSet, hold: bool, dialect: Dialect) -> Option<Response> {
        let whole = kind.absence_means_deleted();
        let mut wanted: BTreeMap<Arc<str>, Arc<[u8]>> = BTreeMap::new();
        for (name, bytes) in &set.resources {
            let new = whole || self.sent.get(name) != Some(bytes);
            if new && self.wants(name) {
                wanted.insert(Arc::clone(name), Arc::clone(bytes));
            }
        }
        let mut held = false;
        if hold {
            for (name, bytes) in &self.sent {
                if !set.resources.contains_key(name) {
                    held = true;
                    wanted.insert(Arc::clone(name), Arc::clone(bytes));
                }
            }
        }
        let errors = self.absent(kind, set, &wanted, dialect);
        let changed = if whole { wanted != self.sent } else { !wanted.is_empty() };
        // Of routes and endpoints, absence says nothing: the answer comes when there is something to say.
        let owed = std::mem::take(&mut self.owed) && (whole || !wanted.is_empty());
        if !changed && !owed && errors.is_empty() {
            return None;
        }
        let raw = |bytes: &Arc<[u8]>| Raw {
            type_url: kind.type_url().into(),
            bytes: bytes.to_vec(),
        };
        let response = Response {
            type_url: kind.type_url().into(),
            version: format!("{}{}", set.version, if held { "+held" } else { "" }),
            nonce: String::new(),
            resources: wanted.values().map(raw).collect(),
            errors,
        };
        if whole {
            self.sent = wanted;
        } else {
            self.sent.extend(wanted);
        }
        self.version = Some(response.version.as_str().into());
        self.acknowledged = Acknowledged::Waiting;
        Some(response)
    }

    /// Tells our own client at once of names that do not exist (xRFC TP3), where others find out by waiting.
    fn absent(
        &mut self,
        kind: ResourceKind,
        set: &TypeSet,
        held: &BTreeMap<Arc<str>, Arc<[u8]>>,
        dialect: Dialect,
    ) -> Vec<ResourceError> {
        self.told_absent.retain(|name| !set.resources.contains_key(name));
        if dialect != Dialect::Mesh {
            return Vec::new();
        }
        let missing: Vec<Arc<str>> = self
            .names
            .iter()
            .filter(|name| !set.resources.contains_key(*name) && !held.contains_key(*name))
            .filter(|name| !self.told_absent.contains(*name))
            .cloned()
            .collect();
        self.told_absent.extend(missing.iter().cloned());
        let error = |name: Arc<str>| ResourceError {
            message: format!("there is no {kind} {name:?}"),
            name: String::from(&*name),
            code: NOT_FOUND,
        };
        missing.into_iter().map(error).collect()
    }
}
