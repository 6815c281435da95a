//! A connection that was let in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::beginning::Peeked;
use super::{ConnectionInfo, PeerIdentity, Tenure};

/// A connection that was let in, under mutual TLS unless the server's configuration says otherwise: reads and writes are the
/// application's bytes.
#[derive(Debug)]
pub struct MeshStream<IO> {
    io: Wire<IO>,
    info: ConnectionInfo,
    valid_for: Duration,
    tenure: Option<Tenure>,
}

/// What the bytes travel in.
#[derive(Debug)]
enum Wire<IO> {
    Plaintext(Peeked<IO>),
    Tls(Box<TlsStream<Peeked<IO>>>),
}

impl<IO> MeshStream<IO> {
    pub(super) fn plaintext(io: Peeked<IO>, tenure: Tenure) -> Self {
        Self::new(Wire::Plaintext(io), tenure)
    }

    pub(super) fn encrypted(tls: TlsStream<Peeked<IO>>, tenure: Tenure) -> Self {
        Self::new(Wire::Tls(Box::new(tls)), tenure)
    }

    fn new(io: Wire<IO>, tenure: Tenure) -> Self {
        Self {
            io,
            info: tenure.info().clone(),
            valid_for: tenure.valid_for(),
            tenure: Some(tenure),
        }
    }

    /// Who is at the other end; `None` where the configuration let somebody in unasked.
    pub fn peer(&self) -> Option<PeerIdentity> {
        self.info.peer()
    }

    /// What is known of the connection. Put it, or the peer, into the extensions of each request.
    pub fn connection(&self) -> &ConnectionInfo {
        &self.info
    }

    /// How long after the handshake the first of the two certificates expires. TLS does not end a connection then, so
    /// whoever serves it must.
    pub fn valid_for(&self) -> Duration {
        self.valid_for
    }

    /// Resolves when nothing new may come by the connection: a certificate behind it has expired, or the rules that let it in
    /// have changed. Whoever serves it must drain it then. To be asked once; a second future never resolves.
    pub fn over(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let tenure = self.tenure.take();
        async move {
            match tenure {
                Some(tenure) => tenure.over().await,
                None => std::future::pending().await,
            }
        }
    }

    /// The connection below.
    pub fn inner(&self) -> &IO {
        match &self.io {
            Wire::Plaintext(io) => io.get_ref(),
            Wire::Tls(tls) => tls.get_ref().0.get_ref(),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for MeshStream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Wire::Plaintext(io) => Pin::new(io).poll_read(cx, buf),
            Wire::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MeshStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Wire::Plaintext(io) => Pin::new(io).poll_write(cx, buf),
            Wire::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Wire::Plaintext(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Wire::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Wire::Plaintext(io) => io.is_write_vectored(),
            Wire::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Wire::Plaintext(io) => Pin::new(io).poll_flush(cx),
            Wire::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Wire::Plaintext(io) => Pin::new(io).poll_shutdown(cx),
            Wire::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
