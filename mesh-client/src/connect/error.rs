//! Why no connection could be made, and why an exchange over one broke off.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::Reason;
use mesh_core::identity::tls::TlsError;
use mesh_core::identity::verify::Refusal;

use super::http1::Unanswered;
use super::material::MaterialError;

/// Why no connection could be made. Cheap to clone: all calls that waited for one attempt get the same.
#[derive(Clone, Debug)]
pub struct ConnectError {
    kind: Arc<ConnectKind>,
}

#[derive(Debug)]
pub(crate) enum ConnectKind {
    Tcp(io::Error),
    /// This machine has nothing to connect with.
    Local(io::Error),
    /// The name that a request gave does not resolve.
    Resolve(Box<str>, io::Error),
    Tls(io::Error),
    PeerRefused(Refusal),
    Config(TlsError),
    /// What a server outside of the mesh is judged by, or shown, is not to be had.
    Material(MaterialError),
    Alpn,
    Http2(h2::Error),
    Http1(hyper::Error),
    Timeout(Duration),
    NoIdentity(Reason),
    /// The peer accepts connections and ends them before it answers anything.
    Unserved,
    /// The endpoint was taken out of its cluster, or is called by other rules now.
    Retired,
    /// The process is shutting down.
    Stopped,
}

impl ConnectError {
    pub(crate) fn new(kind: ConnectKind) -> Self {
        Self { kind: Arc::new(kind) }
    }

    pub(super) fn tcp(error: io::Error) -> Self {
        let kind = match is_local(&error) {
            true => ConnectKind::Local(error),
            false => ConnectKind::Tcp(error),
        };
        Self::new(kind)
    }

    /// Whether this machine, and not the peer, is at fault: it has no port, no file descriptor or no memory for one more connection.
    pub fn is_local(&self) -> bool {
        matches!(&*self.kind, ConnectKind::Local(_))
    }

    /// Why the peer's certificate was refused, if that is what happened.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &*self.kind {
            ConnectKind::PeerRefused(refusal) => Some(refusal),
            _ => None,
        }
    }

    pub(crate) fn is_retired(&self) -> bool {
        matches!(&*self.kind, ConnectKind::Retired)
    }

    /// Whether it says something of the peer. What is lacking on this side says nothing, nor does a change of what is wanted.
    pub(crate) fn is_the_peers(&self) -> bool {
        match &*self.kind {
            ConnectKind::Tcp(_)
            | ConnectKind::Tls(_)
            | ConnectKind::PeerRefused(_)
            | ConnectKind::Alpn
            | ConnectKind::Http2(_)
            | ConnectKind::Http1(_)
            | ConnectKind::Timeout(_)
            | ConnectKind::Unserved => true,
            ConnectKind::Local(_)
            | ConnectKind::Resolve(..)
            | ConnectKind::Config(_)
            | ConnectKind::Material(_)
            | ConnectKind::NoIdentity(_)
            | ConnectKind::Retired
            | ConnectKind::Stopped => false,
        }
    }

    /// A stable word for the kind of failure, fit for a metric label.
    pub fn as_str(&self) -> &'static str {
        match &*self.kind {
            ConnectKind::Tcp(_) => "tcp",
            ConnectKind::Local(_) => "local",
            ConnectKind::Resolve(..) => "resolve",
            ConnectKind::Tls(_) => "tls",
            ConnectKind::PeerRefused(refusal) => refusal.as_str(),
            ConnectKind::Config(_) => "tls_config",
            ConnectKind::Material(_) => "credentials",
            ConnectKind::Alpn => "alpn",
            ConnectKind::Http2(_) => "http2",
            ConnectKind::Http1(_) => "http1",
            ConnectKind::Timeout(_) => "timeout",
            ConnectKind::NoIdentity(_) => "no_identity",
            ConnectKind::Unserved => "unserved",
            ConnectKind::Retired => "retired",
            ConnectKind::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.kind {
            ConnectKind::Tcp(error) => write!(f, "TCP connect: {error}"),
            ConnectKind::Local(error) => write!(f, "this machine cannot connect: {error}"),
            ConnectKind::Resolve(host, error) => write!(f, "resolving {host:?}: {error}"),
            ConnectKind::Tls(error) => write!(f, "TLS handshake: {error}"),
            ConnectKind::PeerRefused(refusal) => write!(f, "the peer's certificate was refused: {refusal}"),
            ConnectKind::Config(error) => write!(f, "TLS configuration: {error}"),
            ConnectKind::Material(error) => write!(f, "TLS with a server outside of the mesh: {error}"),
            ConnectKind::Alpn => f.write_str("the peer did not agree to a protocol that was asked for (ALPN)"),
            ConnectKind::Http2(error) => write!(f, "HTTP/2 preface: {error}"),
            ConnectKind::Http1(error) => write!(f, "HTTP/1.1: {error}"),
            ConnectKind::Timeout(limit) => write!(f, "not connected within {limit:?}"),
            ConnectKind::NoIdentity(reason) => write!(f, "mutual TLS needs an identity: {reason}"),
            ConnectKind::Unserved => f.write_str("the last connections ended before they served a single request"),
            ConnectKind::Retired => f.write_str("the endpoint was removed, or is called by other rules, meanwhile"),
            ConnectKind::Stopped => f.write_str("the process is shutting down"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Whether connecting failed for what this machine lacks: ports (EADDRNOTAVAIL), file descriptors (EMFILE, ENFILE), buffers or memory
/// (ENOBUFS, ENOMEM).
fn is_local(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    error.kind() == io::ErrorKind::AddrNotAvailable
        || matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}

/// Why an exchange over a live connection broke off, in the words of who speaks its protocol.
#[derive(Debug)]
pub(crate) enum StreamError {
    Http2(h2::Error),
    Http1(hyper::Error),
    /// The connection went away before the request was sent.
    Gone,
}

impl StreamError {
    /// The transport ended, and every exchange over it.
    pub(crate) fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_io())
    }

    /// The connection went, for all that its protocol knows for no reason: the peer broke no rule, and the caller's body did not fail.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Http2(_) => self.is_connection_lost(),
            Self::Http1(error) => !error.is_parse() && !error.is_user(),
            Self::Gone => false,
        }
    }

    /// One stream ended and not its connection: only HTTP/2 has that.
    pub(crate) fn is_reset(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_reset())
    }

    /// One stream ended, and this side ended it.
    pub(crate) fn is_local_reset(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_reset() && !error.is_remote())
    }

    /// What the peer sent breaks the rules of the protocol (Envoy `UPE`).
    pub(crate) fn is_protocol_error(&self) -> bool {
        match self {
            Self::Http2(error) => error.is_library(),
            Self::Http1(error) => error.is_parse(),
            Self::Gone => false,
        }
    }

    /// HTTP/2's word for it.
    pub(crate) fn reason(&self) -> Option<h2::Reason> {
        match self {
            Self::Http2(error) => error.reason(),
            Self::Http1(_) | Self::Gone => None,
        }
    }

    /// Whether the peer provably did not process the request. Two things of HTTP/2 prove it: the peer's own REFUSED_STREAM,
    /// and a GOAWAY of the peer below the stream, which `h2` reports to exactly those streams (RFC 9113 6.8 and 8.7).
    /// HTTP/1.1 has no such word; a request that was never written is told apart by who wrote it.
    pub(crate) fn is_unprocessed(&self) -> bool {
        match self {
            Self::Http2(error) => {
                let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
                error.is_remote() && (refused || error.is_go_away())
            }
            Self::Http1(_) => false,
            Self::Gone => true,
        }
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}

impl From<hyper::Error> for StreamError {
    fn from(error: hyper::Error) -> Self {
        Self::Http1(error)
    }
}

impl From<Unanswered> for StreamError {
    fn from(Unanswered { error, unsent }: Unanswered) -> Self {
        if unsent { Self::Gone } else { Self::Http1(error) }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http2(error) => error.fmt(f),
            Self::Http1(error) => error.fmt(f),
            Self::Gone => f.write_str("the connection went away before the request was sent"),
        }
    }
}

impl std::error::Error for StreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Http2(error) => error.source(),
            Self::Http1(error) => error.source(),
            Self::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    /// A machine that is out of ports says nothing of any endpoint: none is taken out for it.
    #[test]
    fn res_2_what_this_machine_lacks_is_not_the_endpoints_failure() {
        const EADDRNOTAVAIL: i32 = 99;
        for (error, is_local) in [
            (io::Error::from_raw_os_error(EADDRNOTAVAIL), true),
            (io::Error::from_raw_os_error(24), true),
            (io::Error::from(io::ErrorKind::ConnectionRefused), false),
            (io::Error::from(io::ErrorKind::ConnectionReset), false),
        ] {
            let error = ConnectError::tcp(error);
            assert_eq!(
                (error.is_local(), error.as_str() == "local"),
                (is_local, is_local),
                "{error}"
            );
            let call = Error::new(Kind::Connect(error));
            assert_eq!(call.observation().is_none(), is_local, "{call}");
            // Nothing was sent, whoever is at fault.
            assert_eq!((call.is_connect(), call.was_processed()), (true, Some(false)));
        }
    }
}
