//! Why a name cannot be called now.
//!
//! A reason is data, not a failure of the configuration: a snapshot holds it in the place where the value would be, so that
//! one lost cluster fails the calls routed to it and no others (gRFC A74), and the caller is told which and why.

use std::fmt;
use std::sync::Arc;

/// The kind of a [`Reason`], for matching and for metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReasonKind {
    /// Nothing was heard of it yet.
    Waiting,
    /// The control plane has no listener of that name.
    NoListener,
    /// There is a listener, but no virtual host or route for the request.
    NoRoute,
    /// The cluster a route names does not exist.
    NoCluster,
    /// The resource was refused (NACK) and there is no last good one.
    Refused,
    /// The cluster has no endpoint that may be called.
    NoEndpoints,
    /// The workload has no certificate yet, or none that is valid.
    NoIdentity,
    /// The destination does not speak mutual TLS, and plaintext was not allowed in code.
    PlaintextRefused,
    /// The destination is outside of the mesh, and the application pinned whom it calls, or who it is is not to be asked; either
    /// has to be allowed in code.
    OutsideRefused,
}

impl ReasonKind {
    /// A stable lower-case word, fit for a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::NoListener => "no_listener",
            Self::NoRoute => "no_route",
            Self::NoCluster => "no_cluster",
            Self::Refused => "refused",
            Self::NoEndpoints => "no_endpoints",
            Self::NoIdentity => "no_identity",
            Self::PlaintextRefused => "plaintext_refused",
            Self::OutsideRefused => "outside_refused",
        }
    }
}

/// Why something cannot be called: a kind and a sentence. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    kind: ReasonKind,
    text: Arc<str>,
}

impl Reason {
    /// A reason of `kind`, told in `text`.
    pub fn new(kind: ReasonKind, text: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    /// What kind of reason it is.
    pub fn kind(&self) -> ReasonKind {
        self.kind
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Reason {}
