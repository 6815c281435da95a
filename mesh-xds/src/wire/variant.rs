//! The two variants of the protocol, as the messages each is spoken in.

use std::fmt;
#[cfg(feature = "server")]
use std::sync::Arc;

#[cfg(feature = "server")]
use super::method::Measure;
use super::weigh::{Heavy, Inside, Shape};
use super::{DeltaRequest, DeltaResponse, Request, Response};
#[cfg(feature = "server")]
use crate::node::Node;
use crate::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

/// The largest of what else discovery messages repeat: a `Node`'s extensions, 168 bytes.
pub(super) const MESSAGE: Shape = Shape {
    first: 64,
    more: 256,
    heavy: &[],
};

/// The most bytes of a request: as many names as a stream may ask for are 6 to 8 MiB, and an incremental client that comes back says
/// the version of each as well.
#[cfg(feature = "server")]
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;
/// What a request may take with all that is made of it. Those names, as texts of their own, are a third of it.
#[cfg(feature = "server")]
const MAX_HELD_REQUEST_BYTES: usize = 4 * MAX_REQUEST_BYTES;

/// A text that has its place in what is around it.
#[cfg(feature = "server")]
const fn text(number: u64) -> Heavy {
    Heavy {
        number,
        bytes: 0,
        inside: Inside::Sealed,
    }
}

/// A list of texts, which are bytes once more.
#[cfg(feature = "server")]
const fn texts(number: u64) -> Heavy {
    Heavy {
        number,
        bytes: size_of::<String>() + size_of::<Arc<str>>(),
        inside: Inside::Sealed,
    }
}

/// What a byte of a node may become at most: where its metadata is nothing but maps of one entry, which become JSON besides.
#[cfg(feature = "server")]
const NODE_FACTOR: usize = 256;

/// Who asks.
#[cfg(feature = "server")]
pub(super) const fn node(number: u64) -> Heavy {
    Heavy {
        number,
        bytes: 0,
        inside: Inside::Times(NODE_FACTOR),
    }
}

/// What a resource costs on its way to the cache, by however little it is said: an `Any`, and what is read of it. More than are kept
/// ([`MAX_RESOURCES`](crate::client::cache::MAX_RESOURCES)) find room.
const RESOURCE_BYTES: usize = 448;

/// The resource itself.
const SEALED_ANY: Inside = Inside::Message(&[Heavy {
    number: 2,
    bytes: 0,
    inside: Inside::Sealed,
}]);

/// One variant: its messages as plain values and as generated types, and the method that carries them.
pub(crate) trait Variant: fmt::Debug + Send + Sync + 'static {
    type Request: From<Self::RequestMessage> + Into<Self::RequestMessage> + fmt::Debug + Send + 'static;
    type Response: From<Self::ResponseMessage> + Into<Self::ResponseMessage> + fmt::Debug + Send + 'static;
    type RequestMessage: prost::Message + Default + 'static;
    type ResponseMessage: prost::Message + Default + 'static;

    /// The method that carries it.
    const METHOD: &'static str;

    /// What responses cost. Their resources are weighed one by one, when they are read.
    const RESPONSE: Shape;

    /// What requests may be.
    #[cfg(feature = "server")]
    const REQUEST: &'static Measure;

    /// Who asks, if the request says so.
    #[cfg(feature = "server")]
    fn node(request: &Self::Request) -> Option<&Arc<Node>>;

    /// What the request is about.
    #[cfg(feature = "server")]
    fn type_url(request: &mut Self::Request) -> &mut String;
}

/// State of the world: a request lists every name, and a response is taken as one version.
#[derive(Debug)]
pub(crate) enum Sotw {}

/// Incremental: only differences are said, and every resource has a version of its own.
#[derive(Debug)]
pub(crate) enum Delta {}

impl Variant for Sotw {
    type Request = Request;
    type Response = Response;
    type RequestMessage = DiscoveryRequest;
    type ResponseMessage = DiscoveryResponse;

    const METHOD: &'static str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

    const RESPONSE: Shape = Shape {
        heavy: &[Heavy {
            number: 2,
            bytes: RESOURCE_BYTES,
            inside: SEALED_ANY,
        }],
        ..MESSAGE
    };

    #[cfg(feature = "server")]
    const REQUEST: &'static Measure = &Measure {
        bytes: MAX_REQUEST_BYTES,
        held: MAX_HELD_REQUEST_BYTES,
        shape: &Shape {
            heavy: &[node(2), texts(3)],
            ..MESSAGE
        },
    };

    #[cfg(feature = "server")]
    fn node(request: &Request) -> Option<&Arc<Node>> {
        request.node.as_ref()
    }

    #[cfg(feature = "server")]
    fn type_url(request: &mut Request) -> &mut String {
        &mut request.type_url
    }
}

impl Variant for Delta {
    type Request = DeltaRequest;
    type Response = DeltaResponse;
    type RequestMessage = DeltaDiscoveryRequest;
    type ResponseMessage = DeltaDiscoveryResponse;

    const METHOD: &'static str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

    const RESPONSE: Shape = Shape {
        heavy: &[Heavy {
            number: 2,
            bytes: size_of::<Resource>() + RESOURCE_BYTES,
            inside: Inside::Message(&[Heavy {
                number: 2,
                bytes: 0,
                inside: SEALED_ANY,
            }]),
        }],
        ..MESSAGE
    };

    #[cfg(feature = "server")]
    const REQUEST: &'static Measure = &Measure {
        bytes: MAX_REQUEST_BYTES,
        held: MAX_HELD_REQUEST_BYTES,
        shape: &Shape {
            heavy: &[
                node(1),
                texts(3),
                texts(4),
                // A map, whose entries are texts twice over.
                Heavy {
                    number: 5,
                    bytes: 2 * size_of::<(String, String)>(),
                    inside: Inside::Message(&[text(1), text(2)]),
                },
            ],
            ..MESSAGE
        },
    };

    #[cfg(feature = "server")]
    fn node(request: &DeltaRequest) -> Option<&Arc<Node>> {
        request.node.as_ref()
    }

    #[cfg(feature = "server")]
    fn type_url(request: &mut DeltaRequest) -> &mut String {
        &mut request.type_url
    }
}
