//! A connection that says why it broke. A peer that refuses our certificate finds out after our half of the TLS 1.3 handshake
//! is done: it sends an alert and closes. Whoever writes before reading meets the closed socket and would tell of a broken
//! pipe, while the alert that names the certificate lies there unread.
//!
//! So when a write fails, what came is read to its end first, and an error found there is the reason. It costs nothing as long
//! as nothing breaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read in search of the reason, in pieces of [`PIECE_BYTES`]: more than a peer sends between a handshake that it
/// refuses and its alert. What is read is lost, and so is the connection.
const MAX_PIECES: usize = 64;
const PIECE_BYTES: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct LastWord<S>(pub(crate) S);

impl<S: AsyncRead + Unpin> LastWord<S> {
    /// The peer's reason for the end, or ours when it said none.
    fn reason(&mut self, cx: &mut Context<'_>, ours: io::Error) -> io::Error {
        for _ in 0..MAX_PIECES {
            let mut piece = [0; PIECE_BYTES];
            let mut buffer = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.0).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                // The end of the stream says nothing; that a connection was reset is what we know.
                Poll::Ready(Err(theirs)) if theirs.kind() == io::ErrorKind::InvalidData => return theirs,
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        ours
    }

    fn told<T>(&mut self, cx: &mut Context<'_>, done: io::Result<T>) -> Poll<io::Result<T>> {
        Poll::Ready(done.map_err(|error| self.reason(cx, error)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWord<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LastWord<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = ready!(Pin::new(&mut self.0).poll_write(cx, bytes));
        self.told(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = ready!(Pin::new(&mut self.0).poll_write_vectored(cx, slices));
        self.told(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = ready!(Pin::new(&mut self.0).poll_flush(cx));
        self.told(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::config::ExpectedPeers;
    use mesh_core::identity::Identity;
    use mesh_core::identity::tls::{self, ClientAuth};
    use mesh_core::testing::TestCa;
    use rustls::pki_types::ServerName;
    use rustls::time_provider::DefaultTimeProvider;
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A connection whose server refused the certificate and went, before anything was written on it.
    async fn refused() -> impl AsyncRead + AsyncWrite + Unpin {
        let (ca, foreign) = (TestCa::new("a.test"), TestCa::new("b.test"));
        let (near, far) = duplex(1 << 16);
        let identity = ca.identity("spiffe://a.test/server");
        let config = tls::server_config(&identity, ClientAuth::Required, Arc::new(DefaultTimeProvider), &[]).unwrap();
        let server = tokio::spawn(async move { TlsAcceptor::from(config).accept(far).await.map(drop) });
        let shown = Identity::new(foreign.svid("spiffe://b.test/client"), ca.bundle());
        let expected = ExpectedPeers::exactly(["spiffe://a.test/server"]);
        let config = tls::client_config(&shown, &expected, Arc::new(DefaultTimeProvider), &[]).unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let client = TlsConnector::from(config).connect(name, near).await.unwrap();
        assert!(server.await.unwrap().is_err());
        client
    }

    #[tokio::test]
    async fn the_alert_is_told_and_not_the_broken_pipe() {
        let silent = refused().await.write_all(b"request").await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::BrokenPipe, "{silent}");
        let told = LastWord(refused().await).write_all(b"request").await.unwrap_err();
        let why = told.to_string();
        assert!(why.contains("alert") && !why.contains("pipe"), "{why}");
    }

    #[tokio::test]
    async fn where_nothing_was_said_the_write_says_it() {
        let (near, far) = duplex(16);
        drop(far);
        let error = LastWord(near).write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
