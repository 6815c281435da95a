//! Reads, and then calls.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use mesh_core::ext_authz::ReadBody;
use mesh_core::report::Tally;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::Service;

use super::{READ_TIMEOUT, ShownBody};
use crate::refusal::{Denial, MaybeRefused};

pin_project! {
    /// The future of [`ShowBody`](super::ShowBody). Dropping it drops the request, or the service's call.
    #[derive(Debug)]
    pub struct ResponseFuture<S, B, F> {
        #[pin]
        state: State<S, B, F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<S, B, F> {
        Calling { #[pin] call: F },
        Reading { reading: Option<Box<Reading<S, B>>> },
        Refused { denial: Option<Denial> },
    }
}

struct Reading<S, B> {
    service: S,
    request: Request<()>,
    body: B,
    /// As far as anybody is to see.
    most: usize,
    read: BytesMut,
    trailers: Option<HeaderMap>,
    late: Pin<Box<Sleep>>,
    tally: Tally,
}

impl<S, B, F> ResponseFuture<S, B, F> {
    pub(super) fn calling(call: F) -> Self {
        Self {
            state: State::Calling { call },
        }
    }

    pub(super) fn reading(service: S, request: Request<B>, most: usize, tally: Tally) -> Self {
        let (head, body) = request.into_parts();
        let reading = Reading {
            service,
            request: Request::from_parts(head, ()),
            body,
            most,
            read: BytesMut::new(),
            trailers: None,
            late: Box::pin(sleep(READ_TIMEOUT)),
            tally,
        };
        Self {
            state: State::Reading {
                reading: Some(Box::new(reading)),
            },
        }
    }
}

impl<S, B: Body<Data = Bytes> + Unpin> Reading<S, B> {
    /// Whether the body is at its end; `Err`: what the sender is told.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, (StatusCode, &'static str)>> {
        // Each turn takes a frame, and frames of nothing are the sender's own time.
        while self.read.len() <= self.most {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(Ok(true)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.read.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err((StatusCode::BAD_REQUEST, "body_broken"))),
                Poll::Pending => {
                    ready!(self.late.as_mut().poll(cx));
                    return Poll::Ready(Err((StatusCode::REQUEST_TIMEOUT, "body_too_slow")));
                }
            }
        }
        Poll::Ready(Ok(self.body.is_end_stream()))
    }
}

impl<S, B, F, R, E> Future for ResponseFuture<S, B, F>
where
    S: Service<Request<ShownBody<B>>, Future = F>,
    B: Body<Data = Bytes> + Unpin,
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<MaybeRefused<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // Reading, and then one of the two others.
        loop {
            match this.state.as_mut().project() {
                StateProjection::Calling { call } => {
                    let response = ready!(call.poll(cx))?;
                    return Poll::Ready(Ok(response.map(MaybeRefused::admitted)));
                }
                StateProjection::Refused { denial } => {
                    let denial = denial.take().expect("a future is not polled after it was ready");
                    return Poll::Ready(Ok(denial.response()));
                }
                StateProjection::Reading { reading } => {
                    let own = reading.as_mut().expect("it is taken out only to become another state");
                    let ended = ready!(own.poll(cx));
                    let taken = *reading.take().expect("it was there a line ago");
                    let next = match ended {
                        Ok(ended) => State::Calling {
                            call: taken.call(ended),
                        },
                        Err((status, why)) => {
                            taken.tally.count("request_refused", why);
                            tracing::debug!(reason = why, "request refused: its body is not shown to an authorizer");
                            let denial = Some(Denial::bare(&taken.request, status));
                            State::Refused { denial }
                        }
                    };
                    this.state.set(next);
                }
            }
        }
    }
}

impl<S, B> Reading<S, B>
where
    S: Service<Request<ShownBody<B>>>,
{
    fn call(mut self, ended: bool) -> S::Future {
        let bytes = self.read.freeze();
        let shown = ReadBody {
            bytes: bytes.clone(),
            partial: !ended,
        };
        let rest = (!ended).then_some(self.body);
        let mut request = self.request.map(|()| ShownBody::new(bytes, self.trailers, rest));
        request.extensions_mut().insert(shown);
        self.service.call(request)
    }
}

impl<S, B> fmt::Debug for Reading<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("read", &self.read.len())
            .finish_non_exhaustive()
    }
}
