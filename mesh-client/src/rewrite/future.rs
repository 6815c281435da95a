//! The future of the rewrite room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use mesh_core::route::Answer;
use pin_project_lite::pin_project;

use crate::body::ResponseBody;
use crate::error::Error;

pin_project! {
    /// Resolves as the inner future does, with the answer's headers edited.
    #[derive(Debug)]
    pub struct RewriteFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Plain { #[pin] inner: F },
        Edited { #[pin] inner: F, answer: Answer },
        Failed { error: Option<Error> },
    }
}

impl<F> RewriteFuture<F> {
    #[inline]
    pub(crate) fn go(inner: F, answer: Option<Answer>) -> Self {
        let state = match answer {
            None => State::Plain { inner },
            Some(answer) => State::Edited { inner, answer },
        };
        Self { state }
    }

    pub(super) fn fail(error: Error) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
        }
    }
}

impl<F> Future for RewriteFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Plain { inner } => inner.poll(cx),
            StateProjection::Edited { inner, answer } => {
                let mut polled = inner.poll(cx);
                if let Poll::Ready(Ok(response)) = &mut polled {
                    answer.apply(response.status(), response.headers_mut());
                }
                polled
            }
            StateProjection::Failed { error } => Poll::Ready(Err(error.take().expect("polled after it was done"))),
        }
    }
}
