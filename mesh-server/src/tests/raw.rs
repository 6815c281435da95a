//! HTTP/2 frames by hand, for peers that do what no library would.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113, 7).
pub(super) const REFUSED_STREAM: u32 = 7;

/// One frame as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The first four bytes of what it carries, which is the error of a reset, and eight for a GOAWAY.
    pub(super) fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The bytes of a frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET https://payment.shop/` in HPACK, by the static table and one literal that is not indexed.
pub(super) fn get_head() -> Vec<u8> {
    let mut head = vec![0x82, 0x84, 0x87, 0x01, 12];
    head.extend(b"payment.shop");
    head
}

/// A connection that began as HTTP/2.
pub(super) struct Raw<IO> {
    pub(super) io: IO,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Raw<IO> {
    pub(super) async fn begin(mut io: IO) -> io::Result<Self> {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        io.flush().await?;
        Ok(Self { io })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    pub(super) async fn get(&mut self, stream: u32) -> io::Result<()> {
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &get_head()))
            .await
    }

    /// The next frame; `None` when the connection has ended, in whichever way.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..].try_into().unwrap()),
            payload,
        })
    }

    /// The next frame of `kind`, with what comes before it read and forgotten.
    pub(super) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}
