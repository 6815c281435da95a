//! The answer of a room that may refuse: the service's, or a refusal.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{MaybeRefused, Refusal};

pin_project! {
    /// The future of a room that may refuse a request. Dropping it drops the service's call.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Admitted { #[pin] call: F },
        Refused { refusal: Refusal },
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) fn admitted(call: F) -> Self {
        Self {
            state: State::Admitted { call },
        }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self {
            state: State::Refused { refusal },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<MaybeRefused<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Admitted { call } => {
                let response = ready!(call.poll(cx))?;
                Poll::Ready(Ok(response.map(MaybeRefused::admitted)))
            }
            StateProjection::Refused { refusal } => Poll::Ready(Ok(refusal.response())),
        }
    }
}
