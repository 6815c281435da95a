//! The head of an HTTP/1.1 request, which may not come one byte a minute.
//!
//! hyper has one bound for a head and for the wait before it. A kept connection should wait longer than a head may take, or its
//! client would send into a connection that is just being closed; so that one stays as it is, and this one runs from the first
//! byte of a head. Nothing of it costs where a head comes in one piece: the timer is made when a read has to wait in mid-head.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::conduct::Conduct;
use super::connection::HEAD_TIMEOUT;

/// A connection whose heads are timed, if its protocol is HTTP/1.1.
#[derive(Debug)]
pub(super) struct Timed<IO> {
    io: IO,
    conduct: Option<Arc<Conduct>>,
    /// How many requests had come when bytes came last that belong to none.
    in_head_after: Option<u64>,
    /// When the head that has begun must be there.
    until: Option<Pin<Box<Sleep>>>,
}

impl<IO> Timed<IO> {
    /// Times the heads of `io` where `conduct`, which counts its requests, is given.
    pub(super) fn new(io: IO, conduct: Option<Arc<Conduct>>) -> Self {
        Self {
            io,
            conduct,
            in_head_after: None,
            until: None,
        }
    }

    /// Whether bytes have come that no request was made of yet, while none is being answered.
    fn is_in_head(&self, conduct: &Conduct) -> bool {
        conduct.is_quiet() && self.in_head_after == Some(conduct.begun())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Timed<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        let Some(conduct) = &this.conduct else {
            return read;
        };
        if read.is_ready() {
            if buf.filled().len() > before {
                this.in_head_after = Some(conduct.begun());
            }
            return read;
        }
        if !this.is_in_head(conduct) {
            this.until = None;
            return Poll::Pending;
        }
        let until = this.until.get_or_insert_with(|| Box::pin(sleep(HEAD_TIMEOUT)));
        match until.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Timed<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
