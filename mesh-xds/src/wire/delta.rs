//! The messages of the incremental variant as plain values.

use std::sync::Arc;
use std::time::Duration;

use super::{Raw, ResourceError, duration, refusal, status, time_to_live};
use crate::node::Node;
use crate::proto::discovery;
use crate::resource::ResourceKind;

/// What a client says: a change of its subscription, an answer, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DeltaRequest {
    pub(crate) type_url: String,
    /// The response this answers; empty when it answers none.
    pub(crate) nonce: String,
    pub(crate) subscribe: Vec<Arc<str>>,
    pub(crate) unsubscribe: Vec<Arc<str>>,
    /// Names and versions of what is held from before this stream. Only in the first request of a type.
    pub(crate) held: Vec<(Arc<str>, Arc<str>)>,
    /// Set when something of the response was refused: what and why.
    pub(crate) error: Option<String>,
    /// Who asks. Only in the first request of a stream.
    pub(crate) node: Option<Arc<Node>>,
}

/// What a server says: what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeltaResponse {
    pub(crate) type_url: String,
    /// For people; the protocol looks at the versions of the resources.
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Versioned>,
    pub(crate) removed: Vec<Arc<str>>,
    /// Resources that the server has an error for instead of a value (xRFC TP3).
    pub(crate) errors: Vec<ResourceError>,
}

/// A resource with a name and a version of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versioned {
    pub(crate) name: Arc<str>,
    pub(crate) version: Arc<str>,
    /// `None` is a heartbeat: the client holds this version already.
    pub(crate) raw: Option<Raw>,
    /// How long it is valid if nothing more is heard of it.
    pub(crate) ttl: Option<Duration>,
}

impl DeltaResponse {
    /// The kind answered, if it is known here.
    pub(crate) fn kind(&self) -> Option<ResourceKind> {
        ResourceKind::from_type_url(&self.type_url)
    }
}

impl From<DeltaRequest> for discovery::DeltaDiscoveryRequest {
    fn from(request: DeltaRequest) -> Self {
        let texts = |names: Vec<Arc<str>>| names.iter().map(|name| String::from(&**name)).collect();
        let held = request.held.iter();
        Self {
            node: request.node.map(|node| (&*node).into()),
            type_url: request.type_url,
            resource_names_subscribe: texts(request.subscribe),
            resource_names_unsubscribe: texts(request.unsubscribe),
            initial_resource_versions: held
                .map(|(name, version)| ((**name).into(), (**version).into()))
                .collect(),
            response_nonce: request.nonce,
            error_detail: request.error.map(status),
            ..Self::default()
        }
    }
}

impl From<discovery::DeltaDiscoveryRequest> for DeltaRequest {
    fn from(request: discovery::DeltaDiscoveryRequest) -> Self {
        let names = |texts: Vec<String>| texts.into_iter().map(Arc::from).collect();
        let held = request.initial_resource_versions.into_iter();
        Self {
            type_url: request.type_url,
            nonce: request.response_nonce,
            subscribe: names(request.resource_names_subscribe),
            unsubscribe: names(request.resource_names_unsubscribe),
            held: held.map(|(name, version)| (name.into(), version.into())).collect(),
            error: request.error_detail.map(refusal),
            node: request.node.map(|node| Arc::new(node.into())),
        }
    }
}

impl From<DeltaResponse> for discovery::DeltaDiscoveryResponse {
    fn from(response: DeltaResponse) -> Self {
        let resource = |one: Versioned| discovery::Resource {
            name: String::from(&*one.name),
            version: String::from(&*one.version),
            resource: one.raw.map(Into::into),
            ttl: one.ttl.map(duration),
            ..discovery::Resource::default()
        };
        Self {
            system_version_info: response.version,
            resources: response.resources.into_iter().map(resource).collect(),
            type_url: response.type_url,
            removed_resources: response.removed.iter().map(|name| String::from(&**name)).collect(),
            nonce: response.nonce,
            resource_errors: response.errors.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl From<discovery::DeltaDiscoveryResponse> for DeltaResponse {
    fn from(response: discovery::DeltaDiscoveryResponse) -> Self {
        let resource = |one: discovery::Resource| Versioned {
            name: one.name.into(),
            version: one.version.into(),
            raw: one.resource.map(Into::into),
            ttl: time_to_live(one.ttl.as_ref()),
        };
        Self {
            type_url: response.type_url,
            version: response.system_version_info,
            nonce: response.nonce,
            resources: response.resources.into_iter().map(resource).collect(),
            removed: response.removed_resources.into_iter().map(Arc::from).collect(),
            errors: response.resource_errors.into_iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delta_messages_cross_the_wire_unchanged() {
        let request = DeltaRequest {
            type_url: "t".into(),
            nonce: "n".into(),
            subscribe: vec!["a".into()],
            unsubscribe: vec!["b".into()],
            held: vec![("a".into(), "1".into())],
            error: Some("no".into()),
            node: Some(Arc::new(Node::default())),
        };
        let there = discovery::DeltaDiscoveryRequest::from(request.clone());
        assert_eq!(DeltaRequest::from(there), request);
        let raw = Raw {
            type_url: "t".into(),
            bytes: vec![1],
        };
        let one = |raw| Versioned {
            name: "a".into(),
            version: "1".into(),
            raw,
            ttl: Some(Duration::from_millis(1500)),
        };
        let response = DeltaResponse {
            type_url: "t".into(),
            version: "s".into(),
            nonce: "n".into(),
            resources: vec![one(Some(raw)), one(None)],
            removed: vec!["b".into()],
            errors: vec![ResourceError {
                name: "c".into(),
                code: 5,
                message: "no".into(),
            }],
        };
        let there = discovery::DeltaDiscoveryResponse::from(response.clone());
        assert_eq!(DeltaResponse::from(there), response);
    }
}
