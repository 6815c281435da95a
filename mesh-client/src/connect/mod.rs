//! From an address to a live connection: TCP, mutual TLS with the peer's identity checked, HTTP/2's preface or HTTP/1.1.
//!
//! The destination of a call is chosen innermost, so the connector stands inside the stack and takes an address. It is
//! injected once per [`Link`](mesh_core::Link), since all channels of a process share their connections; everything above TCP
//! is the mesh's own and is not replaceable.

mod ahead;
mod coalesce;
mod cut;
mod dial;
mod error;
mod http1;
mod http2;
mod material;
mod pool;
mod tcp;
mod terms;
mod tls;
mod watched;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use mesh_core::config::Connections;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use dial::{Plan, Security};
pub use error::ConnectError;
pub(crate) use error::{ConnectKind, StreamError};
pub(crate) use http1::{Answer as Http1Answer, Exchange, Http1, Outgoing};
pub(crate) use http2::{Mark, NotOpened, Permit as Http2Permit};
pub(crate) use pool::{Means, Permit, Pool};
pub use tcp::Tcp;
pub(crate) use tls::TlsConfigs;

/// A byte stream to an endpoint.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What [`Connect::connect`] returns.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// What [`Connect::resolve`] returns.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Opens byte streams. The default is [`Tcp`]; a simulator, a proxy or a test brings its own.
///
/// The future is dropped when the cluster's connect timeout runs out.
pub trait Connect: Send + Sync + 'static {
    /// Connects to `address`.
    fn connect(&self, address: SocketAddr) -> Connecting;

    /// Connects to `address` as `settings` ask. They are about HTTP, but for TCP's keep-alive, which a connector that does not
    /// open TCP connections may pass over: this one does unless it says otherwise.
    fn connect_with(&self, address: SocketAddr, _settings: &Connections) -> Connecting {
        self.connect(address)
    }

    /// The addresses of a name that no configuration knows, best first: by the system's resolver unless this says otherwise.
    /// The names of clusters are resolved by whoever configures them.
    fn resolve(&self, host: &str, port: u16) -> Resolving {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
    }
}

impl<F> Connect for F
where
    F: Fn(SocketAddr) -> Connecting + Send + Sync + 'static,
{
    fn connect(&self, address: SocketAddr) -> Connecting {
        self(address)
    }
}
