//! A connection whose peer is known.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::PeerIdentity;

/// A verified mutual TLS connection: reads and writes are the application's bytes.
#[derive(Debug)]
pub struct MeshStream<IO> {
    tls: TlsStream<IO>,
    peer: PeerIdentity,
    valid_for: Duration,
}

impl<IO> MeshStream<IO> {
    pub(super) fn new(tls: TlsStream<IO>, peer: PeerIdentity, now: UnixTime, valid_until: UnixTime) -> Self {
        let valid_for = valid_until.as_secs().saturating_sub(now.as_secs());
        Self {
            tls,
            peer,
            valid_for: Duration::from_secs(valid_for),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// How long after the handshake the first of the two certificates expires. TLS does not end a connection then, so
    /// whoever serves it must.
    pub fn valid_for(&self) -> Duration {
        self.valid_for
    }

    /// The connection below.
    pub fn inner(&self) -> &IO {
        self.tls.get_ref().0
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for MeshStream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MeshStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
