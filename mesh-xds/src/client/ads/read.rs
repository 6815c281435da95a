//! The reading of a response: bytes to values, each resource by itself. It needs nothing of what the client knows, so it is
//! done before the state is locked: a response may hold a hundred thousand endpoints, and whoever else has something to tell
//! or to ask meanwhile is not to wait for it. What is made of the values is [`Taking`](super::take::Taking)'s.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::RouteTree;

use super::Variant;
use crate::client::cache::normal_form;
use crate::decode::{Context, Decoded, ENVELOPE, Fault, Rejected, Resource, Unwrapped, admit, decode, unwrap};
use crate::resource::{ClusterSpec, Endpoints, Extension, Listener, ResourceKind};
use crate::wire::{Raw, weigh};

/// A response that is to be read, with all that this needs.
#[derive(Debug)]
pub(crate) struct Reading<V: Variant> {
    rest: V::Response,
    /// `None` of a type that is not known, or was not asked for: it is not read.
    kind: Option<ResourceKind>,
    resources: Vec<Unread>,
    context: Context,
}

/// A response that was read.
#[derive(Debug)]
pub(crate) struct Read<V: Variant> {
    /// What else it says.
    pub(super) rest: V::Response,
    pub(super) items: Items,
}

/// A resource as it came.
#[derive(Debug)]
pub(crate) struct Unread {
    /// `None` is a heartbeat.
    pub(super) raw: Option<Raw>,
    /// The name it goes by outside, where it has one.
    pub(super) label: Option<Arc<str>>,
    pub(super) version: Arc<str>,
    pub(super) ttl: Option<Duration>,
}

/// The resources of a response, by kind.
#[derive(Debug)]
pub(super) enum Items {
    Unread,
    Listeners(Vec<Item<Listener>>),
    Routes(Vec<Item<RouteTree>>),
    Clusters(Vec<Item<ClusterSpec>>),
    Endpoints(Vec<Item<Endpoints>>),
    Extensions(Vec<Item<Extension>>),
}

/// What came for one resource.
#[derive(Debug)]
pub(crate) struct Item<R> {
    /// The version it came with: of its response, in state of the world.
    pub(super) version: Arc<str>,
    /// The one on an envelope inside; empty where there is none.
    pub(super) own: Arc<str>,
    pub(super) ttl: Option<Duration>,
    pub(super) what: What<R>,
}

/// Names are in their normal form.
#[derive(Debug)]
pub(super) enum What<R> {
    /// It is as it was.
    Heartbeat(Arc<str>),
    /// Not even its name could be read.
    Nameless(Rejected),
    Resource {
        decoded: Decoded<R>,
        /// As it came; empty where that was no resource of this kind. The buffer itself: a slice would be a copy, and this may be
        /// as large as a message may be.
        bytes: Arc<Vec<u8>>,
    },
}

impl<V: Variant> Reading<V> {
    pub(super) fn new(mut response: V::Response, kind: Option<ResourceKind>, context: Context) -> Self {
        let resources = V::resources(&mut response);
        Self {
            rest: response,
            kind,
            resources,
            context,
        }
    }

    /// How much there is to read.
    pub(crate) fn bytes(&self) -> usize {
        let raw = self.resources.iter().filter_map(|one| one.raw.as_ref());
        self.kind.map_or(0, |_| raw.map(|raw| raw.bytes.len()).sum())
    }

    pub(crate) fn read(self) -> Read<V> {
        let response = self.bytes();
        let Self {
            rest,
            kind,
            resources,
            context,
        } = self;
        let items = match kind {
            None => Items::Unread,
            Some(ResourceKind::Listener) => Items::Listeners(items(resources, &context, response)),
            Some(ResourceKind::Route) => Items::Routes(items(resources, &context, response)),
            Some(ResourceKind::Cluster) => Items::Clusters(items(resources, &context, response)),
            Some(ResourceKind::Endpoints) => Items::Endpoints(items(resources, &context, response)),
            Some(ResourceKind::ExtensionConfig) => Items::Extensions(items(resources, &context, response)),
        };
        Read { rest, items }
    }
}

impl Items {
    pub(super) fn kind(&self) -> Option<ResourceKind> {
        match self {
            Self::Unread => None,
            Self::Listeners(_) => Some(ResourceKind::Listener),
            Self::Routes(_) => Some(ResourceKind::Route),
            Self::Clusters(_) => Some(ResourceKind::Cluster),
            Self::Endpoints(_) => Some(ResourceKind::Endpoints),
            Self::Extensions(_) => Some(ResourceKind::ExtensionConfig),
        }
    }
}

/// The resources of a response of so many bytes.
fn items<R: Resource>(resources: Vec<Unread>, context: &Context, response: usize) -> Vec<Item<R>> {
    let resources = resources.into_iter().enumerate();
    resources
        .map(|(index, unread)| item(index, unread, context, response))
        .collect()
}

/// The `index`th resource of its response.
fn item<R: Resource>(index: usize, unread: Unread, context: &Context, response: usize) -> Item<R> {
    let Unread {
        raw,
        label,
        version,
        mut ttl,
    } = unread;
    let mut label = label.map(normal);
    let mut own = Arc::default();
    let light = |raw: Raw| match &*raw.type_url {
        ENVELOPE => admit(None, &raw.bytes, response)
            .map_err(|heavy| Fault::new("", heavy))
            .map(|()| raw),
        _ => Ok(raw),
    };
    let read = match raw.map(|raw| light(raw).and_then(unwrap)) {
        None => {
            let what = What::Heartbeat(label.unwrap_or_default());
            return Item {
                version,
                own,
                ttl,
                what,
            };
        }
        Some(Ok(Unwrapped::Heartbeat {
            name,
            version: own,
            ttl,
        })) => {
            let what = What::Heartbeat(normal(name));
            return Item {
                version,
                own,
                ttl,
                what,
            };
        }
        Some(Ok(Unwrapped::Plain(raw))) => named::<R>(raw, context, response),
        Some(Ok(Unwrapped::Envelope {
            raw,
            name,
            version: inside,
            ttl: lives,
        })) => {
            own = inside;
            ttl = lives.or(ttl);
            // The name on an envelope is one outside as well as the protocol's own is (gRFC A53); an envelope in another has both.
            let outer = Some(normal(name)).filter(|name| !name.is_empty());
            match (&label, outer) {
                (Some(said), Some(outer)) if *said != outer => {
                    let fault = Fault::new("name", format!("is {outer:?} on the envelope inside"));
                    Err((Rejected::new(R::KIND, "", fault), Vec::new()))
                }
                (_, outer) => {
                    label = label.or(outer);
                    named::<R>(raw, context, response)
                }
            }
        }
        Some(Err(fault)) => Err((Rejected::new(R::KIND, "", fault), Vec::new())),
    };
    let (mut decoded, bytes) = match (read, &label) {
        (Ok(read), _) => read,
        (Err((nameless, bytes)), Some(name)) => (refused(name, nameless.of(name)), bytes),
        (Err((nameless, _)), None) => {
            let what = What::Nameless(nameless.at(index));
            return Item {
                version,
                own,
                ttl,
                what,
            };
        }
    };
    decoded.name = normal(decoded.name);
    if let Some(label) = &label
        && *label != decoded.name
    {
        let fault = Fault::new("name", format!("is {:?} inside", decoded.name));
        decoded = refused(label, Rejected::new(R::KIND, Arc::clone(label), fault));
    }
    let what = What::Resource {
        decoded,
        bytes: bytes.into(),
    };
    Item {
        version,
        own,
        ttl,
        what,
    }
}

/// A resource that can say its name, or why it cannot, with its bytes if they are of this kind.
type Named<R> = Result<(Decoded<R>, Vec<u8>), (Rejected, Vec<u8>)>;

fn named<R: Resource>(raw: Raw, context: &Context, response: usize) -> Named<R> {
    if let Err(heavy) = admit(Some(R::KIND), &raw.bytes, response) {
        let fault = Fault::new("", heavy);
        return match weigh::name(&raw.bytes) {
            Some(name) => {
                let name = Arc::from(name);
                Ok((
                    refused(&name, Rejected::new(R::KIND, Arc::clone(&name), fault)),
                    raw.bytes,
                ))
            }
            None => Err((Rejected::new(R::KIND, "", fault), raw.bytes)),
        };
    }
    match decode::<R>(&raw, context) {
        Ok(decoded) => Ok((decoded, raw.bytes)),
        Err(nameless) if raw.type_url == R::KIND.type_url() => Err((nameless, raw.bytes)),
        Err(nameless) => Err((nameless, Vec::new())),
    }
}

fn refused<R>(name: &Arc<str>, why: Rejected) -> Decoded<R> {
    Decoded {
        name: Arc::clone(name),
        value: Err(why),
        notes: Vec::new(),
    }
}

/// A name as it is remembered. What comes for one that was subscribed to may be spelt another way (gRFC A47).
pub(super) fn normal(name: Arc<str>) -> Arc<str> {
    match normal_form(&name) {
        Cow::Borrowed(_) => name,
        Cow::Owned(normal) => normal.into(),
    }
}
