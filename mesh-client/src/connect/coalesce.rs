//! One buffer for what `h2` hands over in pieces.
//!
//! `h2` writes the frames' heads and the caller's payload as separate slices. rustls, given several, collects them into a
//! list of its own for every record; given one, it encrypts from it directly. Copying a small message into a buffer that is
//! kept is cheaper than that list, and the record leaves in one write either way.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::ahead::Ahead;

/// The most that is copied, and kept: one TLS record's payload (RFC 8446 5.1).
const MAX_COALESCED: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Coalesce<T> {
    inner: T,
    buffer: Vec<u8>,
}

impl<T> Coalesce<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Coalesce<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { inner, buffer } = &mut *self;
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total > MAX_COALESCED {
            return Pin::new(inner).poll_write_vectored(cx, slices);
        }
        buffer.clear();
        for slice in slices {
            buffer.extend_from_slice(slice);
        }
        // When this is not ready nothing was taken, and the same pieces come again.
        Pin::new(inner).poll_write(cx, buffer)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Coalesce<TlsStream<Ahead<T>>> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut took = false;
        loop {
            let (io, session) = self.inner.get_mut();
            // TLS has nothing left to hand out: whether there is something for it is found out without it.
            if session.wants_read() {
                if took {
                    return Poll::Ready(Ok(()));
                }
                ready!(io.poll_fill(cx))?;
            }
            let chunk = match Pin::new(&mut self.inner).poll_fill_buf(cx) {
                Poll::Ready(Ok(chunk)) => chunk,
                // What was handed out already comes first; the same comes again.
                _ if took => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            let length = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..length]);
            Pin::new(&mut self.inner).consume(length);
            if length == 0 || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            took = true;
        }
    }
}
