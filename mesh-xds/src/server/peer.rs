//! Who is at the other end of a connection, as whoever accepted it found out, and how to be rid of it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use mesh_core::identity::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::pace::Rate;

/// The peer of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Whom its certificate names, if it showed one and that was verified.
    pub identity: Option<SpiffeId>,
    /// Which one that was.
    pub certificate: Option<Shown>,
    /// Where it is.
    pub address: Option<SocketAddr>,
}

/// What tells a certificate from others of the same name. Read from one that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The first second of its validity, since 1970.
    pub not_before: u64,
    /// The SHA-256 of it.
    pub sha256: [u8; 32],
}

/// A connection as each request on it knows it (in the request's extensions): who is there, and a way to hang up. Clones are
/// one connection.
#[derive(Clone, Debug, Default)]
pub struct Line {
    peer: Peer,
    cut: Arc<Mutex<Cut>>,
    /// How many streams it has.
    streams: Arc<AtomicUsize>,
    /// How fast they begin.
    rate: Arc<Mutex<Rate>>,
}

#[derive(Debug, Default)]
struct Cut {
    done: bool,
    /// Whoever waits to read: the task that serves the connection.
    reader: Option<Waker>,
}

impl Line {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Counts another stream, unless it has so many.
    pub(super) fn begin(&self, most: usize) -> bool {
        let more = |streams| (streams < most).then_some(streams + 1);
        self.streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// One of them ended.
    pub(super) fn end(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection and with it every stream on it, whatever waits to be sent.
    pub(super) fn hang_up(&self) {
        let mut cut = self.lock();
        cut.done = true;
        if let Some(reader) = cut.reader.take() {
            reader.wake();
        }
    }

    fn check(&self) -> io::Result<()> {
        match self.lock().done {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }

    fn check_and_watch(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut cut = self.lock();
        if cut.done {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match &mut cut.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Cut> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Peer> for Line {
    fn from(peer: Peer) -> Self {
        Self {
            peer,
            ..Self::default()
        }
    }
}

/// A connection that knows its [`Peer`], to be handed to `tonic`'s `serve_with_incoming`.
pub struct Io<S> {
    inner: S,
    line: Line,
}

impl<S> Io<S> {
    /// `inner`, from `peer`.
    pub fn new(inner: S, peer: Peer) -> Self {
        Self {
            inner,
            line: peer.into(),
        }
    }
}

impl<S> Connected for Io<S> {
    type ConnectInfo = Line;

    fn connect_info(&self) -> Line {
        self.line.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.line.check_and_watch(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.line.check()?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.line.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S> fmt::Debug for Io<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io")
            .field("peer", &self.line.peer)
            .finish_non_exhaustive()
    }
}
