//! The future of the retry room.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use mesh_core::Entropy;
use mesh_core::retry::{RetryState, TryEnd, Verdict};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::Service;

use super::head::Head;
use super::peek::peek;
use crate::body::{ResponseBody, grpc_status};
use crate::error::{Error, Kind};
use crate::request::{Attempt, Call, Payload, Routed, Tried};

pin_project! {
    /// Resolves to the answer of the last try.
    ///
    /// Dropping it cancels the try that runs and begins no other.
    pub struct RetryFuture<S: Service<Request<Attempt<B>>>, B> {
        inner: S,
        kept: Option<Kept<B>>,
        entropy: Entropy,
        #[pin]
        state: State<S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Failed { error: Option<Error> },
        Trying { #[pin] future: F },
        // Off the common path, so in a box.
        Pausing { sleep: Pin<Box<Sleep>> },
    }
}

/// What another try would need.
struct Kept<B> {
    head: Head,
    payload: Payload<B>,
    call: Call,
    retries: RetryState,
    tried: Tried,
}

impl<S, B> RetryFuture<S, B>
where
    S: Service<Request<Attempt<B>>>,
    B: Body<Data = Bytes> + Unpin,
{
    /// Makes the first try at once: its request never moves into this future, which every room above has to move.
    pub(super) fn begin(mut inner: S, request: Request<Routed<B>>, entropy: Entropy) -> Self {
        let mut kept = None;
        let state = match first_attempt(request, &mut kept) {
            Ok(attempt) => State::Trying {
                future: inner.call(attempt),
            },
            Err(error) => State::Failed { error: Some(error) },
        };
        Self {
            inner,
            kept,
            entropy,
            state,
        }
    }
}

impl<S, B> Future for RetryFuture<S, B>
where
    S: Service<Request<Attempt<B>>, Response = Response<ResponseBody>, Error = Error>,
    B: Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<ResponseBody>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let attempt = match this.state.as_mut().project() {
                StateProjection::Failed { error } => {
                    return Poll::Ready(Err(error.take().expect("polled after it was done")));
                }
                StateProjection::Trying { future } => {
                    let result = ready!(future.poll(cx));
                    let kept = this.kept.as_mut().expect("kept since the first try");
                    match kept.judge(&result, this.entropy) {
                        Verdict::GiveUp => return Poll::Ready(result),
                        Verdict::After(pause) => {
                            let sleep = Box::pin(tokio::time::sleep(pause));
                            this.state.set(State::Pausing { sleep });
                            continue;
                        }
                    }
                }
                StateProjection::Pausing { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    this.kept.as_ref().expect("kept since the first try").again()
                }
            };
            let future = this.inner.call(attempt);
            this.state.set(State::Trying { future });
        }
    }
}

/// Peeks at the body and keeps what a second try would need.
fn first_attempt<B>(request: Request<Routed<B>>, kept: &mut Option<Kept<B>>) -> Result<Request<Attempt<B>>, Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let head = Head::of(&request);
    let (parts, routed) = request.into_parts();
    let (body, call) = routed.into_parts();
    let payload = peek(body).ok_or_else(|| Error::new(Kind::InvalidRequest("its body failed")))?;
    call.cluster.budget().deposit();
    *kept = Some(Kept {
        head,
        payload: payload.clone(),
        call: call.clone(),
        retries: RetryState::default(),
        tried: Tried::new(),
    });
    Ok(Request::from_parts(parts, Attempt::first(payload, call)))
}

impl<B> Kept<B> {
    fn judge(&mut self, result: &Result<Response<ResponseBody>, Error>, entropy: &Entropy) -> Verdict {
        let (end, peer) = match result {
            Ok(response) => (Some(answered(response)), response.body().peer()),
            Err(error) => (error.try_end(), error.peer()),
        };
        let Some(end) = end.filter(|_| self.can_be_sent_again()) else {
            return Verdict::GiveUp;
        };
        if is_good(end) {
            return Verdict::GiveUp;
        }
        let budget = self.call.cluster.budget();
        let verdict = self.retries.judge(
            &self.call.route.retry,
            self.head.method(),
            end,
            budget,
            &mut entropy.draw(),
        );
        if verdict != Verdict::GiveUp {
            self.note_tried(peer);
        }
        verdict
    }

    fn can_be_sent_again(&self) -> bool {
        match &self.payload {
            Payload::Whole(_) => true,
            Payload::Streaming(once) => once.is_untouched(),
        }
    }

    fn note_tried(&mut self, peer: Option<SocketAddr>) {
        self.tried.extend(peer.filter(|peer| !self.tried.contains(peer)));
    }

    fn again(&self) -> Request<Attempt<B>> {
        let attempt = Attempt {
            payload: self.payload.clone(),
            call: self.call.clone(),
            number: self.retries.retried() + 1,
            tried: self.tried.clone(),
        };
        let mut request = self.head.rebuild(attempt);
        // gRFC A6: how often this call was tried before.
        let previous = HeaderValue::from(self.retries.retried());
        request
            .headers_mut()
            .insert(HeaderName::from_static("grpc-previous-rpc-attempts"), previous);
        request
    }
}

fn answered(response: &Response<ResponseBody>) -> TryEnd {
    TryEnd::Answered {
        status: response.status(),
        grpc: grpc_status(response.headers()),
    }
}

/// The common end, decided without a look at policy or budget.
fn is_good(end: TryEnd) -> bool {
    matches!(end, TryEnd::Answered { status, grpc: None | Some(0) } if status.is_success())
}

impl<S: Service<Request<Attempt<B>>>, B> std::fmt::Debug for RetryFuture<S, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
