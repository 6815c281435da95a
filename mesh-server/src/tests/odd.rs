//! Requests as bytes, for what no library of requests would write.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::raw::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame};

/// How long an answer may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a request over HTTP/1.1 was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status; 0: none came.
    pub(super) status: u16,
    /// Whether the connection was closed after it.
    pub(super) closed: bool,
}

/// Sends `bytes`, reads one answer, and then tries the connection with a request that is good beyond doubt.
pub(super) async fn http1<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO, bytes: &[u8]) -> Answer {
    io.write_all(bytes).await.unwrap();
    let status = head(&mut io).await;
    let probe = b"OPTIONS * HTTP/1.1\r\nhost: probe.test\r\nconnection: close\r\n\r\n";
    // A connection that is closed may tell so at once or when it is read from.
    let open = status != 0 && io.write_all(probe).await.is_ok() && head(&mut io).await != 0;
    Answer { status, closed: !open }
}

/// The status of the next answer whose body is of a known length.
async fn head<IO: AsyncRead + Unpin>(io: &mut IO) -> u16 {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match timeout(PATIENCE, io.read_u8()).await.expect("an answer or an end") {
            Ok(byte) => head.push(byte),
            Err(_) => return 0,
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    io.read_exact(&mut body).await.unwrap();
    head[9..12].parse().unwrap()
}

/// An HTTP/2 connection written frame by frame.
pub(super) struct Http2<IO> {
    io: IO,
    stream: u32,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Http2<IO> {
    pub(super) async fn new(mut io: IO) -> Self {
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        io.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        // Room for the answers to thousands of requests.
        io.write_all(&frame(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes()))
            .await
            .unwrap();
        Self { io, stream: 1 }
    }

    /// A request without a body. Returns when it was answered or reset; `false`: the connection has ended, with it or before.
    pub(super) async fn request(&mut self, fields: &[(&[u8], &[u8])]) -> bool {
        let mut block = Vec::new();
        for (name, value) in fields {
            // A literal that is in no table (RFC 7541, 6.2.2).
            block.push(0);
            text(name, &mut block);
            text(value, &mut block);
        }
        let stream = self.stream;
        self.stream += 2;
        if self
            .io
            .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block))
            .await
            .is_err()
        {
            return false;
        }
        loop {
            let mut header = [0; 9];
            let read = timeout(PATIENCE, self.io.read_exact(&mut header)).await;
            if read.expect("an answer or an end").is_err() {
                return false;
            }
            let [a, b, c, kind, flags, ids @ ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            if self.io.read_exact(&mut payload).await.is_err() {
                return false;
            }
            let of = u32::from_be_bytes(ids);
            match kind {
                DATA | HEADERS if of == stream && flags & END_STREAM != 0 => return true,
                RST_STREAM if of == stream => return true,
                GOAWAY => return false,
                _ => {}
            }
        }
    }
}

/// A string without Huffman coding (RFC 7541, 5.1 and 5.2).
fn text(text: &[u8], block: &mut Vec<u8>) {
    if text.len() < 127 {
        block.push(text.len() as u8);
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend(text);
}
