//! A node as it crosses the wire.

use serde_json::Value;

use crate::node::{Node, NodeLocality};
use crate::proto::{core, protobuf};

/// How deep `metadata` may nest before the rest is left out: protobuf decoders refuse messages nested deeper than 100, and
/// each level of JSON takes three.
const MAX_METADATA_DEPTH: usize = 30;

/// How many bytes a node takes on the wire, without what is not kept of it.
#[cfg(feature = "server")]
pub(crate) fn size(node: &Node) -> usize {
    prost::Message::encoded_len(&core::Node::from(node))
}

impl From<&Node> for core::Node {
    fn from(node: &Node) -> Self {
        let locality = core::Locality {
            region: node.locality.region.clone(),
            zone: node.locality.zone.clone(),
            sub_zone: node.locality.sub_zone.clone(),
        };
        Self {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            metadata: (!node.metadata.is_empty()).then(|| to_struct(node.metadata.iter(), 0)),
            locality: (!node.locality.is_unknown()).then_some(locality),
            user_agent_name: node.user_agent.clone(),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
                node.user_agent_version.clone(),
            )),
            client_features: node.features.clone(),
            ..Self::default()
        }
    }
}

impl From<core::Node> for Node {
    fn from(node: core::Node) -> Self {
        let locality = node.locality.unwrap_or_default();
        let fields = node.metadata.unwrap_or_default().fields;
        Self {
            id: node.id,
            cluster: node.cluster,
            metadata: fields
                .into_iter()
                .map(|(key, value)| (key, from_value(value)))
                .collect(),
            locality: NodeLocality {
                region: locality.region,
                zone: locality.zone,
                sub_zone: locality.sub_zone,
            },
            user_agent: node.user_agent_name,
            user_agent_version: match node.user_agent_version_type {
                Some(core::node::UserAgentVersionType::UserAgentVersion(version)) => version,
                Some(core::node::UserAgentVersionType::UserAgentBuildVersion(_)) | None => String::new(),
            },
            features: node.client_features,
        }
    }
}

fn to_struct<'a>(fields: impl Iterator<Item = (&'a String, &'a Value)>, depth: usize) -> protobuf::Struct {
    protobuf::Struct {
        fields: fields
            .map(|(key, value)| (key.clone(), to_value(value, depth + 1)))
            .collect(),
    }
}

fn to_value(value: &Value, depth: usize) -> protobuf::Value {
    use protobuf::value::Kind;
    let kind = match value {
        _ if depth > MAX_METADATA_DEPTH => Kind::NullValue(0),
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(protobuf::ListValue {
            values: items.iter().map(|item| to_value(item, depth + 1)).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(to_struct(fields.iter(), depth)),
    };
    protobuf::Value { kind: Some(kind) }
}

// Bounded by the protobuf decoder's own limit of nesting.
fn from_value(value: protobuf::Value) -> Value {
    use protobuf::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::NumberValue(number)) => Value::from(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(from_value).collect(),
        Some(Kind::StructValue(fields)) => fields
            .fields
            .into_iter()
            .map(|(key, value)| (key, from_value(value)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_crosses_the_wire_unchanged() {
        let json = r#"{"id":"a~b","cluster":"c","metadata":{"N":1.0,"L":{"app":["x",null,true]}},
            "locality":{"zone":"z"},"UserAgentVersionType":"ignored"}"#;
        let mut node: Node = serde_json::from_str(json).unwrap();
        node.user_agent = "mesh-xds".into();
        node.features = vec!["f".into()];
        assert_eq!(Node::from(core::Node::from(&node)), node);
    }
}
