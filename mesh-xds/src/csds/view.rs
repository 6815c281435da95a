//! A client's status as plain values, the same at both ends: who tells it, and who reads it.

use std::fmt;
use std::time::SystemTime;

use serde_json::Value;

use crate::client::{CacheState, RawBytes};
use crate::convention::{self, SEEN};
use crate::node::Node;

/// One client: an `envoy.service.status.v3.ClientConfig`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ClientView {
    /// Who it is, by its own words.
    pub node: Node,
    /// What the configuration is for (`client_scope`); `#mesh` is a whole process.
    pub scope: String,
    /// Its resources. A client tells of each by name; a control plane of each type, under an empty one.
    pub resources: Vec<ResourceView>,
}

/// One resource, or all of one type: a `GenericXdsConfig`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ResourceView {
    /// The type's URL.
    pub type_url: String,
    /// The name. Where a control plane tells it is empty, for all resources of the type are meant; where a client does, an empty one is that
    /// of what it refuses without that its name could be read.
    pub name: String,
    /// The version: of the value in use, at a client; of the type as the client accepted it last, at a control plane. Empty when
    /// there is none.
    pub version: String,
    /// The value in use, as it came. Left out of an answer that would become too large, or when not asked for.
    pub contents: Option<RawBytes>,
    /// When that value came.
    pub updated: Option<SystemTime>,
    /// How the control plane sees it; unknown where a client tells.
    pub sync: Sync,
    /// How the client sees it, where that is known.
    pub state: Option<CacheState>,
    /// What is wrong, if something is.
    pub failure: Option<Failure>,
}

/// What is wrong with a resource: an `UpdateFailureState`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Why, in words.
    pub details: String,
    /// The version that was refused; empty when none came.
    pub version: String,
    /// When it was last found out.
    pub at: Option<SystemTime>,
    /// What was refused, as it came (`failed_configuration`): at a client, of a resource of at most 64 KiB, as long as those of
    /// its kind are not more than 1 MiB. Left out as [`contents`](ResourceView::contents) are. A control plane tells of types
    /// and not of resources, and has none.
    pub configuration: Option<RawBytes>,
}

/// How a control plane sees what it sent: a `ConfigStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sync {
    /// A client does not say.
    #[default]
    Unknown,
    /// Sent, and accepted.
    Synced,
    /// Asked for, and nothing was sent.
    NotSent,
    /// Sent, and not answered.
    Stale,
    /// Sent, and refused.
    Error,
}

/// In the words of `istioctl proxy-status`.
impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "UNKNOWN",
            Self::Synced => "SYNCED",
            Self::NotSent => "NOT SENT",
            Self::Stale => "STALE",
            Self::Error => "ERROR",
        })
    }
}

/// What our control plane knows of a client itself, beyond the client's words. It travels in the node's metadata, under a key
/// (`x_mesh`) that the control plane always sets, so that no client can fill it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The SPIFFE id of its certificate, if it showed one.
    pub identity: Option<String>,
    /// Where it is connected from.
    pub address: Option<String>,
    /// The group whose configuration it is told.
    pub group: String,
}

impl ClientView {
    /// What the control plane knows of the client itself. Only of an answer of our own control plane.
    pub fn seen(&self) -> Option<Seen> {
        let seen = self.node.metadata.get(SEEN)?;
        let text = |key: &str| seen.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Seen {
            identity: text("identity"),
            address: text("address"),
            group: text("group")?,
        })
    }

    /// Whether it refuses something.
    pub fn refuses(&self) -> bool {
        self.resources.iter().any(ResourceView::is_refused)
    }
}

impl ResourceView {
    /// Whether what came last was refused.
    pub fn is_refused(&self) -> bool {
        self.sync == Sync::Error || self.state == Some(CacheState::Nacked)
    }

    /// The type's name, such as `envoy.config.listener.v3.Listener`.
    pub fn type_name(&self) -> &str {
        convention::type_name(&self.type_url)
    }
}

impl Seen {
    /// Notes it in a node, in the place of whatever the client wrote there.
    #[cfg(feature = "server")]
    pub(crate) fn note(&self, node: &mut Node) {
        let value = serde_json::json!({ "identity": self.identity, "address": self.address, "group": self.group });
        node.metadata.insert(SEEN.into(), value);
    }
}
