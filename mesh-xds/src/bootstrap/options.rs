//! What only this client reads: the object `x_mesh`, which other readers of the file skip.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mesh_core::identity::TrustDomain;
use serde::{Deserialize, Serialize};

use super::BootstrapError;
use crate::convention::{TELL_AS_GRPC, TELL_AS_SIDECAR};
use crate::node::{Node, distinct, nullable};

/// The variant of xDS that the stream speaks: `x_mesh.protocol`. State of the world unless the file says otherwise, since
/// every control plane serves that, and the `GENERATOR=grpc` of istiod is not tested with the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// State of the world (`"sotw"`): listeners and clusters come whole with every change.
    #[default]
    Sotw,
    /// Incremental (`"delta"`): only what changed comes, and after a lost stream only what changed meanwhile.
    Delta,
}

/// For whom the control plane shapes its resources: `x_mesh.profile`.
///
/// Unless the file says otherwise it follows from the node, as istiod's choice does: an Istio node (`a~b~c~d`) whose
/// metadata have no `GENERATOR` of `grpc` is sent what a sidecar gets; every other node what a gRPC client gets. A control
/// plane that takes its client for a proxy sends a good deal that only a proxy can use, and nothing of that is a mistake. Where the
/// file says otherwise our own control plane is told (a client feature); others go by the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Profile {
    /// For gRPC clients (`"grpc"`): an API listener per target, certificate providers. Judged by the gRFCs.
    #[default]
    Grpc,
    /// For Envoy as a sidecar (`"envoy"`): listeners per port, secrets by SDS names. What is meant for a proxy is honoured or
    /// passed over, and said so. What guards is refused in both.
    Envoy,
}

impl Profile {
    /// By what the node says of itself.
    pub(crate) fn of(node: &Node) -> Self {
        let is_istio = node.id.split('~').count() == 4;
        match is_istio && node.metadata_text("GENERATOR") != Some("grpc") {
            true => Self::Envoy,
            false => Self::Grpc,
        }
    }

    /// By what a client of ours says in its node, see [`feature`](Self::feature).
    #[cfg(feature = "server")]
    pub(crate) fn told(node: &Node) -> Self {
        let says = |profile: &Self| node.features.iter().any(|feature| feature == profile.feature());
        [Self::Grpc, Self::Envoy]
            .into_iter()
            .find(says)
            .unwrap_or_else(|| Self::of(node))
    }

    /// The word for it among a client's abilities.
    pub(crate) fn feature(self) -> &'static str {
        match self {
            Self::Grpc => TELL_AS_GRPC,
            Self::Envoy => TELL_AS_SIDECAR,
        }
    }
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Options {
    #[serde(default)]
    pub(super) protocol: Protocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<Profile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cache_directory: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "nullable")]
    pub(super) fallback_on_reachability_only: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "distinct")]
    pub(super) trust_bundles: BTreeMap<String, String>,
}

impl Options {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The trust bundles, if all of it can be used.
    pub(super) fn check(&self) -> Result<BTreeMap<TrustDomain, PathBuf>, BootstrapError> {
        if self.cache_directory.as_deref() == Some("") {
            return Err(BootstrapError::at("x_mesh.cache_directory", "is empty"));
        }
        let bundle = |(name, path): (&String, &String)| {
            let at = format!("x_mesh.trust_bundles.{name}");
            let domain = TrustDomain::parse(name).map_err(|error| BootstrapError::at(&*at, error))?;
            match path.as_str() {
                "" => Err(BootstrapError::at(&*at, "is empty")),
                path => Ok((domain, path.into())),
            }
        };
        self.trust_bundles.iter().map(bundle).collect()
    }
}
