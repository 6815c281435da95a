//! Reads ahead of TLS.
//!
//! HTTP/2 asks for more until there is no more, twice for every answer, and TLS takes a long way to find out that the socket
//! has nothing. Here the socket is asked first. What it has is read in one piece, larger than those that TLS asks for, so that
//! large bodies take fewer system calls too.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once, and kept for each connection.
const SIZE: usize = 8 * 1024;

/// A byte stream that is read ahead.
#[derive(Debug)]
pub(super) struct Ahead<T> {
    inner: T,
    buffer: Box<[u8]>,
    /// What was read and not yet taken.
    taken: usize,
    filled: usize,
}

impl<T> Ahead<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            buffer: vec![0; SIZE].into(),
            taken: 0,
            filled: 0,
        }
    }
}

impl<T: AsyncRead + Unpin> Ahead<T> {
    /// Ready when there is something to take, or nothing more comes.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.taken == self.filled {
            let mut space = ReadBuf::new(&mut self.buffer);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut space))?;
            (self.taken, self.filled) = (0, space.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Ahead<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_fill(cx))?;
        let end = self.filled.min(self.taken + buf.remaining());
        buf.put_slice(&self.buffer[self.taken..end]);
        self.taken = end;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Ahead<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_was_sent_comes_in_its_order_and_then_the_end() {
        let (mut far, near) = tokio::io::duplex(3 * SIZE);
        let sent: Vec<u8> = (0..5 * SIZE + 7).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            far.write_all(&sent).await.unwrap();
            far.shutdown().await.unwrap();
        });
        let (mut ahead, mut read) = (Ahead::new(near), Vec::new());
        // Pieces that fit into the buffer a whole number of times, and pieces that do not.
        for size in [1, 100, SIZE, 2 * SIZE, 4096].into_iter().cycle() {
            let mut piece = vec![0; size];
            match ahead.read(&mut piece).await.unwrap() {
                0 => break,
                length => read.extend_from_slice(&piece[..length]),
            }
        }
        assert_eq!(read, expected);
        assert_eq!(ahead.read(&mut [0]).await.unwrap(), 0);
        writing.await.unwrap();
    }
}
