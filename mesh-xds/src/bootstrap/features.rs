//! What a bootstrap says a control plane can do or be trusted with.

use std::collections::BTreeSet;

use serde_json::Value;

/// A known entry of `server_features`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ServerFeature {
    /// `xds_v3` (gRFC A30). Implied today.
    XdsV3,
    /// `ignore_resource_deletion` (gRFC A53): a deleted listener or cluster stays in use.
    IgnoreResourceDeletion,
    /// `trusted_xds_server` (gRFC A81): it may rewrite authorities.
    TrustedXdsServer,
    /// `fail_on_data_errors` (gRFC A88): a refused or deleted resource goes out of use.
    FailOnDataErrors,
    /// `resource_timer_is_transient_error` (gRFC A88): silence means that the control plane is ill, not that a resource does
    /// not exist.
    ResourceTimerIsTransientError,
}

impl ServerFeature {
    const ALL: [Self; 5] = [
        Self::XdsV3,
        Self::IgnoreResourceDeletion,
        Self::TrustedXdsServer,
        Self::FailOnDataErrors,
        Self::ResourceTimerIsTransientError,
    ];

    /// The feature's word in a bootstrap.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::XdsV3 => "xds_v3",
            Self::IgnoreResourceDeletion => "ignore_resource_deletion",
            Self::TrustedXdsServer => "trusted_xds_server",
            Self::FailOnDataErrors => "fail_on_data_errors",
            Self::ResourceTimerIsTransientError => "resource_timer_is_transient_error",
        }
    }
}

/// The known features of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerFeatures(BTreeSet<ServerFeature>);

impl ServerFeatures {
    /// Whether `feature` is one of them.
    pub fn contains(&self, feature: ServerFeature) -> bool {
        self.0.contains(&feature)
    }

    /// Each, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = ServerFeature> {
        self.0.iter().copied()
    }

    /// What is not known is ignored, whatever its JSON type (gRFC A30).
    pub(super) fn known(entries: &[Value]) -> Self {
        let known = |entry: &Value| {
            let word = entry.as_str()?;
            ServerFeature::ALL.into_iter().find(|feature| feature.as_str() == word)
        };
        Self(entries.iter().filter_map(known).collect())
    }
}
