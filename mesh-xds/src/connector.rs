//! How connections to a control plane are dialled, so that tests and simulations can do it their way.

use std::fmt;
use std::future::Future;
use std::io;
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

/// How connections to a control plane are dialled. Default: TCP. Tests and simulations inject their own.
#[derive(Clone)]
pub struct Connector(Arc<Dial>);

impl Connector {
    /// TCP, with Nagle's algorithm off.
    pub fn tcp() -> Self {
        Self::new(|uri: ServerUri| async move {
            let stream = TcpStream::connect((uri.host(), uri.port())).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
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
