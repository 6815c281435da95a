//! Does a workload answer a caller who does not speak TLS?

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Failure;
use super::mesh::Service;

/// What a plain HTTP/1.1 client sends, and what one that knows HTTP/2 beforehand sends.
const GREETINGS: [&[u8]; 2] = [
    b"POST /payment.v1.Payment/Charge HTTP/1.1\r\nhost: payment\r\ncontent-length: 0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
];
/// A server that says nothing is given so long before that counts as an answer of its own.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether every greeting ended in a closed connection, without a byte of HTTP and without a handler run.
pub(super) async fn plaintext_is_refused(service: &Service) -> Result<bool, Failure> {
    let before = service.payments.counts();
    for greeting in GREETINGS {
        let mut stream = TcpStream::connect(service.address).await?;
        stream.write_all(greeting).await?;
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        // A reset is a close as well; what was read before it counts.
        if closed.is_err() || looks_like_http(&answer) {
            return Ok(false);
        }
    }
    Ok(service.payments.counts() == before && service.link.tally().get("handshake_refused", "plaintext") >= 2)
}

/// An HTTP/1 status line, or an HTTP/2 SETTINGS frame. A TLS alert is neither.
fn looks_like_http(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/") || answer.get(3) == Some(&0x04)
}
