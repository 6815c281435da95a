//! Is the body whole already? Asked by polling, without waiting.
//!
//! Whoever wants to know it first asks: the deadline room where a limit begins with the end of the request, else the retry room.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};

/// What was found of a body.
#[derive(Debug, Default)]
pub(crate) enum Peeked {
    /// Nobody looked yet.
    #[default]
    Unseen,
    /// All of it; `None` once that was handed out.
    Whole(Option<Bytes>),
    /// It streams, and this is its begin, the last first.
    Part(Vec<Frame<Bytes>>),
    /// It failed, and is not to be asked again.
    Failed,
}

/// Looks at what the body has ready: at most one frame and the end behind it. `None` when the caller's body failed: nothing was sent
/// then.
pub(crate) fn peek<B>(body: &mut B) -> Option<Peeked>
where
    B: Body<Data = Bytes> + Unpin,
{
    let whole = |data| Some(Peeked::Whole(Some(data)));
    if body.is_end_stream() {
        return whole(Bytes::new());
    }
    // Nobody is to be woken: who waits for the rest polls it again.
    let cx = &mut Context::from_waker(Waker::noop());
    let first = match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(None) => return whole(Bytes::new()),
        Poll::Ready(Some(Ok(frame))) => frame,
        Poll::Ready(Some(Err(_))) => return None,
        Poll::Pending => return Some(Peeked::Part(vec![])),
    };
    let data = match first.into_data() {
        Ok(data) => data,
        Err(trailers) => return Some(Peeked::Part(vec![trailers])),
    };
    if body.is_end_stream() {
        return whole(data);
    }
    // tonic's encoder does not know that its one message was the last until it is asked again.
    match Pin::new(body).poll_frame(cx) {
        Poll::Ready(None) => whole(data),
        Poll::Ready(Some(Err(_))) => None,
        Poll::Ready(Some(Ok(second))) => Some(Peeked::Part(vec![second, Frame::data(data)])),
        Poll::Pending => Some(Peeked::Part(vec![Frame::data(data)])),
    }
}
