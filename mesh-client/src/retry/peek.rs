//! Is the body whole already? Asked by polling, without waiting.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::replay::Replay;
use crate::request::Payload;

/// Looks at what the body has ready: at most one frame and the end behind it.
///
/// At most `limit` bytes of one that streams are kept. `None` when the caller's body failed: nothing was sent then.
pub(super) fn peek<B>(mut body: B, limit: u64) -> Option<Payload<B>>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Some(Payload::Whole(Bytes::new()));
    }
    // Nobody is to be woken: who waits for the rest polls it again.
    let cx = &mut Context::from_waker(Waker::noop());
    let first = match Pin::new(&mut body).poll_frame(cx) {
        Poll::Ready(None) => return Some(Payload::Whole(Bytes::new())),
        Poll::Ready(Some(Ok(frame))) => frame,
        Poll::Ready(Some(Err(_))) => return None,
        Poll::Pending => return Some(streaming(vec![], body, limit)),
    };
    let data = match first.into_data() {
        Ok(data) => data,
        Err(trailers) => return Some(streaming(vec![trailers], body, limit)),
    };
    if body.is_end_stream() {
        return Some(Payload::Whole(data));
    }
    // tonic's encoder does not know that its one message was the last until it is asked again.
    match Pin::new(&mut body).poll_frame(cx) {
        Poll::Ready(None) => Some(Payload::Whole(data)),
        Poll::Ready(Some(Err(_))) => None,
        Poll::Ready(Some(Ok(second))) => Some(streaming(vec![Frame::data(data), second], body, limit)),
        Poll::Pending => Some(streaming(vec![Frame::data(data)], body, limit)),
    }
}

fn streaming<B>(first: Vec<Frame<Bytes>>, rest: B, limit: u64) -> Payload<B> {
    Payload::Streaming(Arc::new(Replay::new(first, rest, limit)))
}
