//! A request's body, of which the beginning may have been read.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// What was read, and then the rest.
#[derive(Debug)]
pub struct ShownBody<B> {
    read: Bytes,
    trailers: Option<HeaderMap>,
    /// `None`: all was read.
    rest: Option<B>,
}

impl<B> ShownBody<B> {
    pub(super) fn unread(rest: B) -> Self {
        Self {
            read: Bytes::new(),
            trailers: None,
            rest: Some(rest),
        }
    }

    pub(super) fn new(read: Bytes, trailers: Option<HeaderMap>, rest: Option<B>) -> Self {
        Self { read, trailers, rest }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ShownBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref().is_none_or(B::is_end_stream);
        self.read.is_empty() && self.trailers.is_none() && rest
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.len() as u64;
        let rest = self
            .rest
            .as_ref()
            .map(B::size_hint)
            .unwrap_or_else(|| SizeHint::with_exact(0));
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}
