//! From an address to a live HTTP/2 connection: TCP, mutual TLS with the peer's identity checked, HTTP/2 preface.
//!
//! The destination of a call is chosen innermost, so the connector stands inside the stack and takes an address. It is
//! injected once per [`Link`](mesh_core::Link), since all channels of a process share their connections; everything above TCP
//! is the mesh's own and is not replaceable.

mod coalesce;
mod http2;
mod pool;
mod tcp;
mod tls;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{MutualTls, Reason};
use mesh_core::identity::Identity;
use mesh_core::identity::verify::Refusal;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use http2::{Connection, Permit};
pub(crate) use pool::Pool;
pub use tcp::Tcp;
pub(crate) use tls::TlsConfigs;

/// A byte stream to an endpoint.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What [`Connect::connect`] returns.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Opens byte streams. The default is [`Tcp`]; a simulator, a proxy or a test brings its own.
///
/// The future is dropped when the cluster's connect timeout runs out.
pub trait Connect: Send + Sync + 'static {
    /// Connects to `address`.
    fn connect(&self, address: SocketAddr) -> Connecting;
}

impl<F> Connect for F
where
    F: Fn(SocketAddr) -> Connecting + Send + Sync + 'static,
{
    fn connect(&self, address: SocketAddr) -> Connecting {
        self(address)
    }
}

/// How a connection is secured.
#[derive(Clone)]
pub(crate) enum Security {
    Plaintext,
    Mutual {
        identity: Identity,
        tls: Arc<MutualTls>,
        configs: Arc<TlsConfigs>,
    },
}

/// Makes a connection, within `timeout` for all of it.
pub(crate) async fn dial(
    connector: &dyn Connect,
    address: SocketAddr,
    security: Security,
    timeout: Duration,
) -> Result<Arc<Connection>, ConnectError> {
    let whole = async {
        let io = connector.connect(address).await.map_err(ConnectError::tcp)?;
        match security {
            Security::Plaintext => http2::handshake(io).await,
            Security::Mutual { identity, tls, configs } => {
                let io = tls::handshake(io, address, &identity, &tls, &configs).await?;
                http2::handshake(io).await
            }
        }
    };
    match tokio::time::timeout(timeout, whole).await {
        Ok(result) => result,
        Err(_elapsed) => Err(ConnectError::new(ConnectKind::Timeout(timeout))),
    }
}

/// Why no connection could be made. Cheap to clone: all calls that waited for one attempt get the same.
#[derive(Clone, Debug)]
pub struct ConnectError {
    kind: Arc<ConnectKind>,
}

#[derive(Debug)]
pub(crate) enum ConnectKind {
    Tcp(io::Error),
    Tls(io::Error),
    PeerRefused(Refusal),
    Config(mesh_core::identity::tls::TlsError),
    Alpn,
    Http2(h2::Error),
    Timeout(Duration),
    NoIdentity(Reason),
}

impl ConnectError {
    pub(crate) fn new(kind: ConnectKind) -> Self {
        Self { kind: Arc::new(kind) }
    }

    fn tcp(error: io::Error) -> Self {
        Self::new(ConnectKind::Tcp(error))
    }

    /// Why the peer's certificate was refused, if that is what happened.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &*self.kind {
            ConnectKind::PeerRefused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether it says something of the peer. What is lacking on this side says nothing.
    pub(crate) fn is_the_peers(&self) -> bool {
        !matches!(&*self.kind, ConnectKind::Config(_) | ConnectKind::NoIdentity(_))
    }

    /// A stable word for the kind of failure, fit for a metric label.
    pub fn as_str(&self) -> &'static str {
        match &*self.kind {
            ConnectKind::Tcp(_) => "tcp",
            ConnectKind::Tls(_) => "tls",
            ConnectKind::PeerRefused(refusal) => refusal.as_str(),
            ConnectKind::Config(_) => "tls_config",
            ConnectKind::Alpn => "alpn",
            ConnectKind::Http2(_) => "http2",
            ConnectKind::Timeout(_) => "timeout",
            ConnectKind::NoIdentity(_) => "no_identity",
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.kind {
            ConnectKind::Tcp(error) => write!(f, "TCP connect: {error}"),
            ConnectKind::Tls(error) => write!(f, "TLS handshake: {error}"),
            ConnectKind::PeerRefused(refusal) => write!(f, "the peer's certificate was refused: {refusal}"),
            ConnectKind::Config(error) => write!(f, "TLS configuration: {error}"),
            ConnectKind::Alpn => f.write_str("the peer did not agree to HTTP/2 (ALPN h2)"),
            ConnectKind::Http2(error) => write!(f, "HTTP/2 preface: {error}"),
            ConnectKind::Timeout(limit) => write!(f, "not connected within {limit:?}"),
            ConnectKind::NoIdentity(reason) => write!(f, "mutual TLS needs an identity: {reason}"),
        }
    }
}

impl std::error::Error for ConnectError {}
