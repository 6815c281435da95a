//! Discovery messages as plain values, so that the state machines on both ends know nothing of generated types.

#[cfg(feature = "fuzzing")]
pub(crate) mod bytes;
mod client;
mod codec;
pub(crate) mod csds;
mod delta;
#[cfg(feature = "fuzzing")]
pub(crate) mod filters;
pub(crate) mod load;
mod method;
mod node;
#[cfg(feature = "server")]
mod node_matcher;
#[cfg(feature = "server")]
mod server;
mod variant;
pub(crate) mod weigh;

use std::sync::Arc;
use std::time::Duration;

use crate::decode::clip;
use crate::node::Node;
use crate::proto::{discovery, protobuf, rpc};
use crate::resource::ResourceKind;

pub(crate) use client::{Incoming, MAX_RESPONSE_BYTES};
pub(crate) use delta::{DeltaRequest, DeltaResponse, Versioned};
#[cfg(feature = "server")]
pub(crate) use node::size as node_size;
#[cfg(feature = "server")]
pub(crate) use server::{AdsServer, Requests, Responses, Serve, routes, service};
pub(crate) use variant::{Delta, Sotw, Variant};

/// The most bytes that are taken of what a client says to a response; our own says no more. What is kept of it is kept for as
/// long as the client refuses, and shown with all others' to who asks for their status.
pub(crate) const MAX_REFUSAL_BYTES: usize = 4096;
/// The code of every NACK: gRPC's INVALID_ARGUMENT, as Envoy and gRPC send it.
const INVALID_ARGUMENT: i32 = 3;
/// gRPC's NOT_FOUND.
pub(crate) const NOT_FOUND: i32 = 5;

/// An encoded resource and the URL of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) type_url: String,
    pub(crate) bytes: Vec<u8>,
}

/// What a client says in the state-of-the-world variant: a subscription, an acknowledgement, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Request {
    pub(crate) type_url: String,
    /// The last version the client accepted.
    pub(crate) version: String,
    /// The response this answers; empty when it answers none.
    pub(crate) nonce: String,
    /// Every name the client is subscribed to.
    pub(crate) names: Vec<Arc<str>>,
    /// Set when the response was refused: why.
    pub(crate) error: Option<String>,
    /// Who asks. Only in the first request of a stream.
    pub(crate) node: Option<Arc<Node>>,
}

/// What a server says in the state-of-the-world variant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) type_url: String,
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Raw>,
    /// Resources that the server has an error for instead of a value (xRFC TP3).
    pub(crate) errors: Vec<ResourceError>,
}

/// An error in the place of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourceError {
    pub(crate) name: String,
    /// A gRPC status code.
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl Response {
    /// The kind answered, if it is known here.
    pub(crate) fn kind(&self) -> Option<ResourceKind> {
        ResourceKind::from_type_url(&self.type_url)
    }
}

impl From<Request> for discovery::DiscoveryRequest {
    fn from(request: Request) -> Self {
        Self {
            version_info: request.version,
            node: request.node.map(|node| (&*node).into()),
            resource_names: request.names.iter().map(|name| String::from(&**name)).collect(),
            type_url: request.type_url,
            response_nonce: request.nonce,
            error_detail: request.error.map(status),
            resource_locators: Vec::new(),
        }
    }
}

impl From<discovery::DiscoveryRequest> for Request {
    fn from(request: discovery::DiscoveryRequest) -> Self {
        Self {
            type_url: request.type_url,
            version: request.version_info,
            nonce: request.response_nonce,
            names: request.resource_names.into_iter().map(Arc::from).collect(),
            error: request.error_detail.as_ref().map(refusal),
            node: request.node.map(|node| Arc::new(node.into())),
        }
    }
}

impl From<Response> for discovery::DiscoveryResponse {
    fn from(response: Response) -> Self {
        Self {
            version_info: response.version,
            resources: response.resources.into_iter().map(Into::into).collect(),
            type_url: response.type_url,
            nonce: response.nonce,
            resource_errors: response.errors.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl From<discovery::DiscoveryResponse> for Response {
    fn from(response: discovery::DiscoveryResponse) -> Self {
        Self {
            type_url: response.type_url,
            version: response.version_info,
            nonce: response.nonce,
            resources: response.resources.into_iter().map(Into::into).collect(),
            errors: response.resource_errors.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Raw> for protobuf::Any {
    fn from(raw: Raw) -> Self {
        Self {
            type_url: raw.type_url,
            value: raw.bytes,
        }
    }
}

impl From<protobuf::Any> for Raw {
    fn from(any: protobuf::Any) -> Self {
        Self {
            type_url: any.type_url,
            bytes: any.value,
        }
    }
}

impl From<ResourceError> for discovery::ResourceError {
    fn from(error: ResourceError) -> Self {
        Self {
            resource_name: Some(discovery::ResourceName {
                name: error.name,
                dynamic_parameter_constraints: None,
            }),
            error_detail: Some(rpc::Status {
                code: error.code,
                message: error.message,
                details: Vec::new(),
            }),
        }
    }
}

impl From<discovery::ResourceError> for ResourceError {
    fn from(error: discovery::ResourceError) -> Self {
        let status = error.error_detail.unwrap_or_default();
        Self {
            name: error.resource_name.unwrap_or_default().name,
            code: status.code,
            message: status.message,
        }
    }
}

/// A time to live; one that is no positive duration is none, and the resource then stays for good.
pub(crate) fn time_to_live(ttl: Option<&protobuf::Duration>) -> Option<Duration> {
    let protobuf::Duration { seconds, nanos } = ttl?;
    let nanos = u32::try_from(*nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let ttl = Duration::new(u64::try_from(*seconds).ok()?, nanos);
    (!ttl.is_zero()).then_some(ttl)
}

fn duration(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: value.subsec_nanos() as i32,
    }
}

/// What a NACK says, and how much of it: a text that was cut ends with `...`.
fn refusal(status: &rpc::Status) -> String {
    const CUT: &str = "...";
    clip(&status.message, MAX_REFUSAL_BYTES - CUT.len()).into_owned()
}

/// What becomes of a refusal of this text on its way.
#[cfg(feature = "fuzzing")]
pub(crate) fn refused(text: String) -> String {
    refusal(&status(text))
}

/// The `error_detail` of a NACK.
fn status(message: String) -> rpc::Status {
    rpc::Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

/// What becomes of a refusal of this text in either variant.
#[cfg(all(test, feature = "server"))]
pub(crate) fn long_refusals(text: &str) -> (Option<String>, Option<String>) {
    let sotw = discovery::DiscoveryRequest {
        error_detail: Some(status(text.into())),
        ..discovery::DiscoveryRequest::default()
    };
    let delta = discovery::DeltaDiscoveryRequest {
        error_detail: Some(status(text.into())),
        ..discovery::DeltaDiscoveryRequest::default()
    };
    (Request::from(sotw).error, DeltaRequest::from(delta).error)
}

/// A resource in an envelope, with a time to live; without one, a heartbeat.
#[cfg(test)]
pub(crate) fn enveloped(name: &str, resource: Option<Raw>, ttl: Duration) -> Raw {
    use prost::{Message as _, Name as _};
    let envelope = discovery::Resource {
        name: name.into(),
        resource: resource.map(Into::into),
        ttl: Some(duration(ttl)),
        ..discovery::Resource::default()
    };
    Raw {
        type_url: discovery::Resource::type_url(),
        bytes: envelope.encode_to_vec(),
    }
}

/// An envelope that says a version of its own.
#[cfg(test)]
pub(crate) fn of_version(version: &str, envelope: Raw) -> Raw {
    use prost::Message as _;
    let mut inside = discovery::Resource::decode(&*envelope.bytes).expect("an envelope");
    inside.version = version.into();
    Raw {
        bytes: inside.encode_to_vec(),
        ..envelope
    }
}
