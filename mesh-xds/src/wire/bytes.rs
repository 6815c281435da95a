//! Messages that cross the wire inside others, as bytes: for fuzzers, which begin with bytes.

use prost::Message as _;

use crate::node::Node;
use crate::proto::{core, discovery, protobuf};

/// A node as it travels.
pub(crate) fn node(node: &Node) -> Vec<u8> {
    core::Node::from(node).encode_to_vec()
}

/// A node that travelled.
pub(crate) fn read_node(bytes: &[u8]) -> Option<Node> {
    core::Node::decode(bytes).ok().map(Node::from)
}

/// A resource in the envelope of its name.
pub(crate) fn envelope(name: &str, type_url: &str, bytes: Vec<u8>) -> Vec<u8> {
    let resource = protobuf::Any {
        type_url: type_url.into(),
        value: bytes,
    };
    let envelope = discovery::Resource {
        name: name.into(),
        resource: Some(resource),
        ..discovery::Resource::default()
    };
    envelope.encode_to_vec()
}
