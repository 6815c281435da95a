//! The door for benches: a client without a socket, fed with encoded responses, one step at a time.
//!
//! Not part of the API: it is there with the feature `measuring` alone, hidden from the documentation, and may change with any
//! commit. It exists because what the size of a mesh must not slow down (decoding, assembly, the report) is private, and to
//! time it through a stream would time the stream. What runs is the task's own `State` and nothing beside it.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mesh_core::config::{Cluster, ClusterName, Endpoint, Localities, RouteTree, Version};
use mesh_core::link::{Guard, Parts};
use mesh_core::{Link, live};
use prost::Message as _;
use tokio::sync::watch;

use super::ads::AdsState;
use super::assemble::Naming;
use super::cache;
use super::line::Line;
use super::report::Report;
use super::state::{self, State};
use crate::bootstrap::Profile;
use crate::decode::{Context, admit};
use crate::encode::{self, Dialect};
use crate::node::Node;
use crate::resource::ResourceKind;
use crate::wire::weigh::weigh;
use crate::wire::{Raw, Response, Sotw, Variant};

/// The place of the only control plane.
const LINE: usize = 0;

/// A client that hears what it is handed.
pub struct Client {
    state: State<Sotw>,
    link: Link,
    _wants: Guard,
}

impl Client {
    /// One that wants `target`, whose routes have the same name.
    pub fn new(target: &str) -> Self {
        let (source, link) = Link::new(Parts::default());
        let wants = link.interest().watch(target);
        let ads = AdsState::new(Arc::new(Node::default()), Context::default());
        let (reports, _) = watch::channel(Arc::new(Report::default()));
        let state = State::new(state::Parts {
            link: &link,
            snapshots: source.snapshots,
            lines: vec![Line::new(ads, "measured".into(), vec![String::new()])],
            authorities: vec![state::Authority::new(vec![LINE])],
            disk: None,
            directory: cache::Authorities::new([]),
            naming: Naming {
                profile: Profile::Grpc,
                names: "%s".into(),
            },
            reports,
            lookups: watch::Sender::default(),
            interest_changed: Arc::default(),
        });
        let mut client = Self {
            state,
            link,
            _wants: wants,
        };
        client.assemble();
        client.state.opened(LINE);
        client.assemble();
        client
    }

    /// What channels are made from.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The version that was published last.
    pub fn published(&self) -> Version {
        let snapshots: &live::Reader<_> = self.link.snapshots();
        snapshots.load().version()
    }

    /// Reads a message off the wire into the cache. Whether all of it was good.
    pub fn decode(&mut self, message: &[u8]) -> bool {
        let Ok(message) = <Sotw as Variant>::ResponseMessage::decode(message) else {
            return false;
        };
        let updates = |state: &State<Sotw>| state.line(LINE).connection.updates.clone();
        let before = updates(&self.state);
        let read = self.state.listen(LINE, Response::from(message)).read();
        let heard = self.state.hear(LINE, read, Instant::now());
        let mut kinds = ResourceKind::ALL.into_iter();
        heard && kinds.all(|kind| updates(&self.state).invalid(kind) == before.invalid(kind))
    }

    /// What follows: assembly, subscription, publication, the report. And the requests that come of it, unsent.
    pub fn assemble(&mut self) {
        let now = Instant::now();
        self.state.refresh(now);
        while self.state.next_request(LINE, now).is_some() {}
    }
}

/// A message as it is weighed before it is decoded: itself, and each of its resources.
pub struct Scale {
    message: Vec<u8>,
    resources: Vec<Raw>,
}

impl Scale {
    /// `None`: it is no message.
    pub fn of(message: &[u8]) -> Option<Self> {
        let read = <Sotw as Variant>::ResponseMessage::decode(message).ok()?;
        Some(Self {
            message: message.to_vec(),
            resources: Response::from(read).resources,
        })
    }

    /// What the stream and the reader weigh. Whether it is all admitted.
    pub fn weigh(&self) -> bool {
        let held = weigh(&self.message, &Sotw::RESPONSE, usize::MAX).is_ok();
        let admitted = |raw: &Raw| {
            admit(
                ResourceKind::from_type_url(&raw.type_url),
                &raw.bytes,
                self.message.len(),
            )
            .is_ok()
        };
        held && self.resources.iter().all(admitted)
    }
}

impl fmt::Debug for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scale")
            .field("bytes", &self.message.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// A message with the listener of `target`.
pub fn listener(target: &str) -> Vec<u8> {
    message(
        ResourceKind::Listener,
        vec![encode::listener(target, target, &encode::Calls::default())],
    )
}

/// A message with a route configuration.
pub fn routes(tree: &RouteTree) -> Vec<u8> {
    message(ResourceKind::Route, vec![encode::routes(tree)])
}

/// A message with these clusters.
pub fn clusters<'a>(clusters: impl IntoIterator<Item = &'a Cluster>) -> Vec<u8> {
    let encoded = clusters
        .into_iter()
        .map(|cluster| encode::cluster(cluster, Dialect::Mesh));
    message(ResourceKind::Cluster, encoded.collect())
}

/// A message with the endpoints of these clusters.
pub fn endpoints<'a>(lists: impl IntoIterator<Item = (&'a ClusterName, &'a [Endpoint])>) -> Vec<u8> {
    let encoded = lists
        .into_iter()
        .map(|(name, list)| encode::endpoints(name, list, &[], &Localities::default()));
    message(ResourceKind::Endpoints, encoded.collect())
}

fn message(kind: ResourceKind, resources: Vec<Vec<u8>>) -> Vec<u8> {
    let raw = |bytes| Raw {
        type_url: kind.type_url().into(),
        bytes,
    };
    let response = Response {
        type_url: kind.type_url().into(),
        version: "1".into(),
        nonce: "1".into(),
        resources: resources.into_iter().map(raw).collect(),
        errors: Vec::new(),
    };
    <Sotw as Variant>::ResponseMessage::from(response).encode_to_vec()
}
