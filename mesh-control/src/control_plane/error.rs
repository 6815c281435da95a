//! Why a control plane does not start.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::ca::CaError;
use crate::enrol::EnrolError;

/// The control plane cannot start.
#[derive(Debug)]
pub struct StartError {
    kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    TrustDomain(Box<str>),
    Bind { address: SocketAddr, source: io::Error },
    Socket(io::Error),
    NotLoopback(SocketAddr),
    Ca(CaError),
    Enrol(EnrolError),
}

impl StartError {
    /// Whether a port could not be had.
    pub fn is_bind(&self) -> bool {
        matches!(self.kind, Kind::Bind { .. } | Kind::Socket(_))
    }

    /// Whether the plaintext port was to be on something else than loopback.
    pub fn is_not_loopback(&self) -> bool {
        matches!(self.kind, Kind::NotLoopback(_))
    }

    /// Whether another control plane runs with the state directory.
    pub fn is_state_in_use(&self) -> bool {
        matches!(&self.kind, Kind::Ca(error) if error.is_in_use())
    }

    /// Whether the state directory cannot be used.
    pub fn is_state(&self) -> bool {
        matches!(self.kind, Kind::Ca(_) | Kind::Enrol(_))
    }
}

impl From<Kind> for StartError {
    fn from(kind: Kind) -> Self {
        Self { kind }
    }
}

impl From<CaError> for StartError {
    fn from(error: CaError) -> Self {
        Kind::Ca(error).into()
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::TrustDomain(name) => write!(f, "{name:?} is not the name of a trust domain"),
            Kind::Bind { address, .. } => write!(f, "cannot listen on {address}"),
            Kind::Socket(_) => f.write_str("a listening socket has no address"),
            Kind::NotLoopback(address) => write!(f, "a port in plaintext must be on loopback, not on {address}"),
            Kind::Ca(error) => write!(f, "{error}"),
            Kind::Enrol(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Bind { source, .. } | Kind::Socket(source) => Some(source),
            Kind::Ca(error) => error.source(),
            Kind::Enrol(error) => error.source(),
            Kind::TrustDomain(_) | Kind::NotLoopback(_) => None,
        }
    }
}
