//! Why a connection was not accepted: one static word for the counter, one sentence for the log.

use std::{fmt, io};

use mesh_core::config::{NotTaken, Reason};
use mesh_core::identity::tls::TlsError;
use mesh_core::identity::verify::Refusal;
use rustls::{AlertDescription, Error};

/// A connection that was refused. No handler has seen it.
#[derive(Debug)]
pub struct Refused {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    NoIdentity(Reason),
    OwnCertificateExpired,
    Config(TlsError),
    Timeout,
    CrowdedOut,
    NotTaken(NotTaken),
    NotTls(Error),
    Peer(Refusal),
    NoProtocol,
    Alert(AlertDescription),
    Tls(Error),
    Io(io::Error),
}

impl Refused {
    /// This workload has no identity to show.
    pub(crate) fn no_identity(reason: Reason) -> Self {
        Kind::NoIdentity(reason).into()
    }

    /// This workload's certificate has run out.
    pub(crate) fn own_certificate_expired() -> Self {
        Kind::OwnCertificateExpired.into()
    }

    pub(super) fn config(error: TlsError) -> Self {
        Kind::Config(error).into()
    }

    pub(super) fn timeout() -> Self {
        Kind::Timeout.into()
    }

    /// Too many came after it while it was not through.
    pub(super) fn crowded_out() -> Self {
        Kind::CrowdedOut.into()
    }

    /// The server's rules do not take the connection.
    pub(super) fn not_taken(why: NotTaken) -> Self {
        Kind::NotTaken(why).into()
    }

    pub(super) fn io(error: io::Error) -> Self {
        Kind::Io(error).into()
    }

    pub(super) fn no_protocol() -> Self {
        Kind::NoProtocol.into()
    }

    /// What the end of a handshake means.
    pub(super) fn handshake(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            None => Kind::Io(error).into(),
            Some(tls) => Self::tls(tls.clone()),
        }
    }

    pub(super) fn peer(refusal: Refusal) -> Self {
        Kind::Peer(refusal).into()
    }

    fn tls(error: Error) -> Self {
        if let Some(refusal) = Refusal::from_error(&error) {
            return Self::peer(refusal.clone());
        }
        let kind = match error {
            Error::InvalidMessage(_) => Kind::NotTls(error),
            Error::AlertReceived(alert) => Kind::Alert(alert),
            other => Kind::Tls(other),
        };
        kind.into()
    }

    /// A stable lower-case word, fit for a metric label.
    pub fn reason(&self) -> &'static str {
        match &self.kind {
            Kind::NoIdentity(_) => "no_identity",
            Kind::OwnCertificateExpired => "own_certificate_expired",
            Kind::Config(_) => "configuration",
            Kind::Timeout => "timeout",
            Kind::CrowdedOut => "crowded_out",
            Kind::NotTaken(why) => why.as_str(),
            Kind::NotTls(_) => "not_tls",
            Kind::Peer(refusal) => refusal.as_str(),
            Kind::NoProtocol => "no_protocol",
            Kind::Alert(_) => "refused_by_peer",
            Kind::Tls(_) => "tls",
            Kind::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => "closed",
            Kind::Io(_) => "io",
        }
    }

    /// Whether the peer spoke plaintext where TLS was asked for.
    pub fn is_plaintext(&self) -> bool {
        matches!(self.kind, Kind::NotTaken(NotTaken::Plaintext))
    }

    /// Why the server's rules did not take the connection, if that is the reason.
    pub fn not_taken_because(&self) -> Option<&NotTaken> {
        match &self.kind {
            Kind::NotTaken(why) => Some(why),
            _ => None,
        }
    }

    /// Whether the fault is this workload's: it has no usable certificate.
    pub fn is_own_fault(&self) -> bool {
        matches!(
            self.kind,
            Kind::NoIdentity(_) | Kind::OwnCertificateExpired | Kind::Config(_)
        )
    }

    /// What is wrong with the peer's certificate, if that is the reason.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.kind {
            Kind::Peer(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether an alert is on its way that would tell a TLS peer why.
    pub(super) fn sends_alert(&self) -> bool {
        matches!(self.kind, Kind::Peer(_) | Kind::Tls(_))
    }
}

impl From<Kind> for Refused {
    fn from(kind: Kind) -> Self {
        Self { kind }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::NoIdentity(reason) => write!(f, "this workload has no identity: {reason}"),
            Kind::OwnCertificateExpired => f.write_str("this workload's own certificate has expired"),
            Kind::Config(_) => f.write_str("this workload's TLS cannot be configured"),
            Kind::Timeout => f.write_str("the handshake took too long"),
            Kind::CrowdedOut => f.write_str("too many others came before the handshake was through"),
            Kind::NotTaken(why) => why.fmt(f),
            Kind::NotTls(_) => f.write_str("what the peer sent is not TLS"),
            Kind::Peer(refusal) => refusal.fmt(f),
            Kind::NoProtocol => f.write_str("the peer asked for no application protocol (ALPN)"),
            // `AlertDescription` is one of a few dozen names, or a number.
            Kind::Alert(alert) => write!(f, "the peer refused this workload: {alert:?}"),
            Kind::Tls(_) => f.write_str("the peer broke the TLS protocol"),
            Kind::Io(_) => f.write_str("the connection ended during the handshake"),
        }
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Config(error) => Some(error),
            Kind::NotTls(error) | Kind::Tls(error) => Some(error),
            Kind::Peer(refusal) => Some(refusal),
            Kind::NotTaken(why) => Some(why),
            Kind::Io(error) => Some(error),
            _ => None,
        }
    }
}
