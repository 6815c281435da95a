//! Is the body whole already? Asked by polling, without waiting.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::request::{OnceBody, Payload};

/// Looks at what the body has ready: at most one frame and the end behind it.
///
/// `None` when the caller's body failed: nothing was sent then.
pub(super) fn peek<B>(mut body: B) -> Option<Payload<B>>
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
        Poll::Pending => return Some(streaming(None, body)),
    };
    let data = match first.into_data() {
        Ok(data) => data,
        Err(trailers) => return Some(streaming(Some(trailers), body)),
    };
    if body.is_end_stream() {
        return Some(Payload::Whole(data));
    }
    // tonic's encoder does not know that its one message was the last until it is asked again.
    match Pin::new(&mut body).poll_frame(cx) {
        Poll::Ready(None) => Some(Payload::Whole(data)),
        Poll::Ready(Some(Err(_))) => None,
        Poll::Ready(Some(Ok(second))) => {
            let rest = Payload::Streaming(Arc::new(OnceBody::new(vec![Frame::data(data), second], body)));
            Some(rest)
        }
        Poll::Pending => Some(streaming(Some(Frame::data(data)), body)),
    }
}

fn streaming<B>(first: Option<Frame<Bytes>>, rest: B) -> Payload<B> {
    Payload::Streaming(Arc::new(OnceBody::new(first.into_iter().collect(), rest)))
}
