//! The body of the room's answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use mesh_core::inherit::{Inherited, enter};
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::BoxError;
use super::future::{DEADLINE_EXCEEDED, MESSAGE};

pin_project! {
    /// The service's body while there is time; after it, a gRPC answer ends with its status and any other is cut off.
    #[derive(Debug)]
    pub struct BoundBody<R> {
        // `None` once time was up, and for an answer of the room's own.
        #[pin]
        body: Option<R>,
        text: Bytes,
        scope: Option<Inherited>,
        until: Option<Pin<Box<Sleep>>>,
        grpc: bool,
    }
}

impl<R> BoundBody<R> {
    pub(super) fn new(body: R, scope: Option<Inherited>, until: Option<Pin<Box<Sleep>>>, grpc: bool) -> Self {
        Self {
            body: Some(body),
            text: Bytes::new(),
            scope,
            until,
            grpc,
        }
    }

    pub(super) fn text(text: &'static str) -> Self {
        Self {
            body: None,
            text: Bytes::from_static(text.as_bytes()),
            scope: None,
            until: None,
            grpc: false,
        }
    }
}

impl<R> Body for BoundBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            let text = std::mem::take(this.text);
            return Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))));
        };
        // A body that always has another frame does not outlive its time.
        let late = this.until.as_ref().is_some_and(|until| until.is_elapsed());
        if !late && let Poll::Ready(frame) = enter(this.scope, || body.poll_frame(cx)) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let over = late
            || this
                .until
                .as_mut()
                .is_some_and(|until| until.as_mut().poll(cx).is_ready());
        if !over {
            return Poll::Pending;
        }
        this.body.set(None);
        Poll::Ready(Some(match *this.grpc {
            true => Ok(Frame::trailers(HeaderMap::from_iter([
                (HeaderName::from_static("grpc-status"), DEADLINE_EXCEEDED),
                (
                    HeaderName::from_static("grpc-message"),
                    HeaderValue::from_static(MESSAGE),
                ),
            ]))),
            false => Err(Box::new(TimeUp)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Some(body) => body.is_end_stream(),
            None => self.text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(self.text.len() as u64),
        }
    }
}

/// Why an answer is cut off.
#[derive(Debug)]
struct TimeUp;

impl fmt::Display for TimeUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MESSAGE)
    }
}

impl std::error::Error for TimeUp {}
