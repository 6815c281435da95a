//! The body of an answer that counts when it ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::call::Call;

pin_project! {
    /// The service's body, untouched. Dropping it before its end counts as the caller's going away.
    #[derive(Debug)]
    pub struct CountedBody<R> {
        #[pin]
        body: R,
        call: Call,
    }
}

impl<R: Body<Data = Bytes>> CountedBody<R> {
    pub(super) fn new(body: R, mut call: Call) -> Self {
        // Nobody polls an answer that is at its end already.
        if body.is_end_stream() {
            call.ended();
        }
        Self { body, call }
    }
}

impl<R: Body<Data = Bytes>> Body for CountedBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let mut this = self.project();
        let polled = ready!(this.body.as_mut().poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                this.call.sent(frame);
                // Who sends it does not ask again then.
                if frame.is_trailers() || this.body.is_end_stream() {
                    this.call.ended();
                }
            }
            Some(Err(_)) => this.call.broke_off(),
            None => this.call.ended(),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
