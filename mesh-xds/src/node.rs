//! Who asks the control plane, as the bootstrap file says and as the wire carries it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use mesh_core::report::standard::Workload;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The `node` of an xDS client (Envoy `core.v3.Node`). Sent as it was written: a control plane such as istiod decides by its
/// metadata (`GENERATOR`, `NAMESPACE`, `LABELS`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Names this process to the control plane.
    pub id: String,
    /// The group of processes it belongs to, by the control plane's meaning.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// Free-form facts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "distinct")]
    pub metadata: BTreeMap<String, Value>,
    /// Where it runs.
    #[serde(skip_serializing_if = "NodeLocality::is_unknown", deserialize_with = "nullable")]
    pub locality: NodeLocality,
    /// What software asks, such as `mesh-xds` or `gRPC C-core linux`. A bootstrap file cannot set it.
    #[serde(skip)]
    pub user_agent: String,
    /// The version of that software.
    #[serde(skip)]
    pub user_agent_version: String,
    /// Optional abilities of the client, by the xDS protocol's words.
    #[serde(skip)]
    pub features: Vec<String>,
}

/// The place a [`Node`] runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeLocality {
    /// Region.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Zone within the region.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Sub-zone within the zone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sub_zone: String,
}

impl NodeLocality {
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

impl Node {
    /// A text value of the metadata, such as `NAMESPACE`.
    pub fn metadata_text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key)?.as_str()
    }

    /// Which workload it is, as Istio's nodes say it, for the labels of metrics: `WORKLOAD_NAME`, else the name of its `OWNER`, else `NAME`, else,
    /// where no Kubernetes is around to name it, its `SERVICE_ACCOUNT`; `NAMESPACE`; `LABELS`; `CLUSTER_ID`, else `Kubernetes`. `None` for a node that names no workload.
    pub fn workload(&self) -> Option<Workload> {
        let text = |key| self.metadata_text(key).filter(|text| !text.is_empty());
        let owner = text("OWNER").and_then(|owner| owner.rsplit('/').next());
        let name = text("WORKLOAD_NAME").or(owner);
        let name = name.or_else(|| text("NAME")).or_else(|| text("SERVICE_ACCOUNT"))?;
        let labels = self.metadata.get("LABELS").and_then(|labels| labels.as_object());
        let label = |key: &str| labels?.get(key)?.as_str();
        let workload = Workload::labelled(name, text("NAMESPACE").unwrap_or_default(), label);
        Some(workload.in_cluster(text("CLUSTER_ID").unwrap_or_default()))
    }
}

/// Takes `null` as absent: a writer in Go leaves it for what has no value.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Takes an object whose keys are all different, or `null`. Of two values under one key each reader would take another, and
/// none would say so.
pub(crate) fn distinct<'de, D, T>(from: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Distinct<T>>::deserialize(from)?.map_or_else(BTreeMap::new, |distinct| distinct.0))
}

struct Distinct<T>(BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Distinct<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(DistinctVisitor(PhantomData)).map(Self)
    }
}

struct DistinctVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for DistinctVisitor<T> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry::<String, T>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
            map.insert(key, value);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_which_workload_it_is_as_istios_do() {
        let of = |metadata: Value| {
            let Value::Object(metadata) = metadata else {
                unreachable!()
            };
            let node = Node {
                metadata: metadata.into_iter().collect(),
                ..Node::default()
            };
            node.workload()
        };
        let whole = serde_json::json!({
            "NAME": "reviews-v1-6f7-x", "WORKLOAD_NAME": "reviews-v1", "NAMESPACE": "default", "CLUSTER_ID": "east",
            "OWNER": "kubernetes://apis/apps/v1/namespaces/default/deployments/owner", "SERVICE_ACCOUNT": "reviews",
            "LABELS": {"app": "reviews", "version": "v1", "odd": 3},
        });
        let workload = of(whole.clone()).unwrap();
        assert_eq!(
            (workload.name(), workload.namespace(), workload.cluster()),
            ("reviews-v1", "default", "east")
        );
        assert_eq!(
            (workload.canonical_name(), workload.canonical_revision()),
            ("reviews", "v1")
        );
        // Each name stands in for the one before.
        let mut left = whole;
        for (taken, next) in [
            ("WORKLOAD_NAME", "owner"),
            ("OWNER", "reviews-v1-6f7-x"),
            ("NAME", "reviews"),
        ] {
            left.as_object_mut().unwrap().remove(taken);
            assert_eq!(of(left.clone()).unwrap().name(), next);
        }
        left.as_object_mut().unwrap().remove("SERVICE_ACCOUNT");
        assert_eq!(of(left), None);
        let bare = of(serde_json::json!({"NAME": "a"})).unwrap();
        assert_eq!(
            (bare.namespace(), bare.cluster(), bare.version()),
            ("unknown", "Kubernetes", "unknown")
        );
    }
}
