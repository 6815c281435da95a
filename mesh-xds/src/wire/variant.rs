//! The two variants of the protocol, as the messages each is spoken in.

use std::fmt;
#[cfg(feature = "server")]
use std::sync::Arc;

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
    fn node(request: &DeltaRequest) -> Option<&Arc<Node>> {
        request.node.as_ref()
    }

    #[cfg(feature = "server")]
    fn type_url(request: &mut DeltaRequest) -> &mut String {
        &mut request.type_url
    }
}
