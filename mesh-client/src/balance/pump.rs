//! Sends a streaming body: waits for the peer's window before it asks the caller for more, so a slow peer slows the caller
//! and nothing piles up in between.
//!
//! It runs in a task of its own, because a bidirectional call is answered while its request goes on, and is aborted when the
//! response body is dropped.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};

use crate::replay::Reader;

/// Sends the body to its end. One that fails resets the stream, so that the peer does not take the part for the whole.
pub(super) async fn pump<B>(mut body: Reader<B>, mut stream: SendStream<Bytes>)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display + Send,
{
    loop {
        let next = tokio::select! {
            biased;
            // The peer may end its interest while the caller has nothing to send.
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
            next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => next,
        };
        let sent = match next {
            Some(Ok(frame)) => send_frame(frame, &mut stream).await,
            Some(Err(error)) => {
                tracing::debug!(%error, "the request's body failed");
                stream.send_reset(Reason::CANCEL);
                return;
            }
            None => {
                // An error means that the stream is over, which the answer tells.
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
        };
        if sent.is_none() {
            return;
        }
    }
}

/// Sends one frame, in as many pieces as the window asks; `None` when the stream is over.
async fn send_frame(frame: Frame<Bytes>, stream: &mut SendStream<Bytes>) -> Option<()> {
    let mut data = match frame.into_data() {
        Ok(data) => data,
        Err(frame) => {
            let trailers = frame.into_trailers().ok()?;
            // Trailers are the end.
            let _ = stream.send_trailers(trailers);
            return None;
        }
    };
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        let piece = data.split_to(capacity.min(data.len()));
        stream.send_data(piece, false).ok()?;
    }
    Some(())
}
