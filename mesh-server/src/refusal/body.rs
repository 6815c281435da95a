//! The body of the answer of a room that may refuse.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The service's body, untouched, or the few bytes of a refusal.
    #[derive(Debug)]
    pub struct MaybeRefused<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<B> {
        Admitted { #[pin] body: B },
        Refused { text: Bytes },
    }
}

impl<B> MaybeRefused<B> {
    pub(crate) fn admitted(body: B) -> Self {
        Self {
            kind: Kind::Admitted { body },
        }
    }

    pub(crate) fn refused(text: &'static str) -> Self {
        Self::told(Bytes::from_static(text.as_bytes()))
    }

    pub(crate) fn told(text: Bytes) -> Self {
        Self {
            kind: Kind::Refused { text },
        }
    }
}

impl<B: Body<Data = Bytes>> Body for MaybeRefused<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.project().kind.project() {
            KindProjection::Admitted { body } => body.poll_frame(cx),
            KindProjection::Refused { text } if text.is_empty() => Poll::Ready(None),
            KindProjection::Refused { text } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Admitted { body } => body.is_end_stream(),
            Kind::Refused { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Admitted { body } => body.size_hint(),
            Kind::Refused { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}
