//! How connections to a control plane are dialled, so that tests and simulations can do it their way.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::bootstrap::ServerUri;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Dial = dyn Fn(ServerUri) -> Boxed<io::Result<Io>> + Send + Sync;
/// A dialled connection.
pub(crate) type Io = Box<dyn Duplex>;

/// Both directions of a byte stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How connections to a control plane are dialled. Default: as the address says, TCP or a socket file. Tests and simulations inject their own.
#[derive(Clone)]
pub struct Connector(Arc<Dial>);

impl Connector {
    /// TCP, with Nagle's algorithm off; and the Unix socket of an address that is one.
    pub fn tcp() -> Self {
        Self::new(|uri: ServerUri| async move {
            if let Some(path) = uri.socket_path() {
                return socket(path).await;
            }
            let stream = TcpStream::connect((uri.host(), uri.port())).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Io)
        })
    }

    /// Dials with `dial`.
    pub fn new<F, R, S>(dial: F) -> Self
    where
        F: Fn(ServerUri) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Arc::new(move |uri| {
            let dialling = dial(uri);
            Box::pin(async move { Ok(Box::new(dialling.await?) as Io) })
        }))
    }

    pub(crate) async fn dial(&self, uri: ServerUri) -> io::Result<Io> {
        (self.0)(uri).await
    }
}

#[cfg(unix)]
async fn socket(path: &Path) -> io::Result<Io> {
    Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
}

#[cfg(not(unix))]
async fn socket(_: &Path) -> io::Result<Io> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Default for Connector {
    fn default() -> Self {
        Self::tcp()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}
