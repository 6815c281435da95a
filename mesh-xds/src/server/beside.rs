//! Resources that somebody else encoded, served beside a snapshot's: what an embedding control plane has to say and no snapshot has
//! a word for, such as a server's routes and filters that are resources of their own (RDS, ECDS), and listeners that name them.
//!
//! They are read back before they are sent, like all others, and what a client would refuse is not published.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::encoded::Resources;
use crate::bootstrap::Profile;
use crate::resource::ResourceKind;

/// Resources by shape and kind. Default: none.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    grpc: BTreeMap<ResourceKind, Resources>,
    sidecar: BTreeMap<ResourceKind, Resources>,
}

impl Beside {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more: a listener, a route configuration or an extension's configuration as protobuf, for clients of this shape that ask for
    /// it by `name`. It takes the place of the snapshot's of this name, and of one that was given before. Clusters and endpoints are
    /// the snapshot's alone: those given here are not served.
    #[must_use]
    pub fn with(mut self, profile: Profile, kind: ResourceKind, name: &str, bytes: &[u8]) -> Self {
        let of = match profile {
            Profile::Grpc => &mut self.grpc,
            Profile::Envoy => &mut self.sidecar,
        };
        of.entry(kind).or_default().insert(name.into(), bytes.into());
        self
    }

    /// Lays those of this shape and kind over the snapshot's.
    pub(super) fn over(&self, profile: Profile, kind: ResourceKind, resources: &mut Resources) {
        let of = match profile {
            Profile::Grpc => &self.grpc,
            Profile::Envoy => &self.sidecar,
        };
        if let Some(own) = of.get(&kind) {
            let own = own.iter().map(|(name, bytes)| (Arc::clone(name), Arc::clone(bytes)));
            resources.extend(own);
        }
    }
}
