//! How a connection begins, looked at without taking it from whoever reads it next.
//!
//! One byte tells TLS from everything else (a handshake record begins with 22), as in Envoy's TLS inspector; of plaintext the
//! next few tell HTTP/2 with prior knowledge. What was read is kept in front of the connection and read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The most bytes read ahead. A client hello mostly fits, so that TLS needs no second read; who sends less is not waited for.
const MAX_PEEKED: usize = 2048;

/// The type of a TLS handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// What no other protocol's first bytes are (RFC 9113, 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    Tls,
    /// Plaintext HTTP/2 with prior knowledge.
    Http2,
    /// Any other plaintext.
    Other,
}

/// A connection with what was read ahead of it, which reads give first; and with somebody who watches them.
#[derive(Debug)]
pub(crate) struct Peeked<IO, W = ()> {
    read: Vec<u8>,
    given: usize,
    io: IO,
    watch: W,
}

/// Somebody who watches reads, and may have one fail.
pub(crate) trait Watch: Unpin {
    /// What comes of a read that came to `read`, with these bytes.
    fn watch(&mut self, cx: &mut Context<'_>, read: Poll<io::Result<()>>, bytes: &[u8]) -> Poll<io::Result<()>>;
}

impl Watch for () {
    fn watch(&mut self, _: &mut Context<'_>, read: Poll<io::Result<()>>, _: &[u8]) -> Poll<io::Result<()>> {
        read
    }
}

impl<IO> Peeked<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self {
            read: Vec::new(),
            given: 0,
            io,
            watch: (),
        }
    }

    /// The connection below.
    pub(super) fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Has `watch` see each read from here on.
    pub(crate) fn watched<W: Watch>(self, watch: W) -> Peeked<IO, W> {
        Peeked {
            read: self.read,
            given: self.given,
            io: self.io,
            watch,
        }
    }
}

impl<IO: AsyncRead + Unpin> Peeked<IO> {
    /// Waits for as much as tells how the peer begins. The caller bounds the time.
    ///
    /// # Errors
    ///
    /// When the peer ends before its first byte.
    pub(crate) async fn beginning(&mut self) -> io::Result<Beginning> {
        self.read.reserve_exact(MAX_PEEKED);
        loop {
            let begun = &self.read[..];
            match begun.first() {
                Some(&HANDSHAKE) => return Ok(Beginning::Tls),
                Some(_) if begun.starts_with(HTTP2) => return Ok(Beginning::Http2),
                Some(_) if !HTTP2.starts_with(begun) => return Ok(Beginning::Other),
                _ => {}
            }
            // Less than the preface is there, so there is room for more: each turn ends or grows it.
            let mut ahead = (&mut self.io).take((MAX_PEEKED - self.read.len()) as u64);
            match ahead.read_buf(&mut self.read).await? {
                0 if self.read.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 => return Ok(Beginning::Other),
                _ => {}
            }
        }
    }
}

impl<IO: AsyncRead + Unpin, W: Watch> AsyncRead for Peeked<IO, W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let ahead = &this.read[this.given..];
        if ahead.is_empty() {
            let before = buf.filled().len();
            let read = Pin::new(&mut this.io).poll_read(cx, buf);
            return this.watch.watch(cx, read, &buf.filled()[before..]);
        }
        let (some, before) = (ahead.len().min(buf.remaining()), buf.filled().len());
        buf.put_slice(&ahead[..some]);
        this.given += some;
        if this.given == this.read.len() {
            // Given back: the connection may live for days.
            (this.read, this.given) = (Vec::new(), 0);
        }
        this.watch.watch(cx, Poll::Ready(Ok(())), &buf.filled()[before..])
    }
}

impl<IO: AsyncWrite + Unpin, W: Unpin> AsyncWrite for Peeked<IO, W> {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What is seen of `parts`, sent one after the other, and what is read afterwards.
    async fn see(parts: &[&[u8]]) -> (io::Result<Beginning>, Vec<u8>) {
        let (mut peer, io) = tokio::io::duplex(1);
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let sent = async move {
            for part in parts {
                peer.write_all(&part).await.unwrap();
            }
        };
        let seen = async move {
            let mut io = Peeked::new(io);
            let beginning = io.beginning().await;
            let mut rest = Vec::new();
            io.read_to_end(&mut rest).await.unwrap();
            (beginning, rest)
        };
        tokio::join!(sent, seen).1
    }

    #[tokio::test]
    async fn a_beginning_is_seen_byte_by_byte_and_nothing_is_lost() {
        for (bytes, expected) in [
            (&b"\x16\x03\x01"[..], Beginning::Tls),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Beginning::Http2),
            (b"PRI * HTTP/1.1\r\n", Beginning::Other),
            (b"PUT / HTTP/1.1\r\n", Beginning::Other),
            (b"PRI", Beginning::Other),
            (b"GET / HTTP/1.1\r\n", Beginning::Other),
            (b"\0", Beginning::Other),
        ] {
            let (seen, read) = see(&[bytes]).await;
            assert_eq!((seen.unwrap(), &read[..]), (expected, bytes));
        }
        let silent = see(&[]).await.0.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::UnexpectedEof);
    }
}
