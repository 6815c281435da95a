//! The future of the retry room.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::retry::RetryState;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::Service;

use super::Shared;
use super::head::Head;
use super::kept::{Kept, Place};
use super::peek::peek;
use super::race::Race;
use crate::body::ResponseBody;
use crate::error::{Error, Kind};
use crate::request::{Attempt, Payload, Routed, Tried};

pin_project! {
    /// Resolves to the answer of the last try, or of the first that is good enough where tries race.
    ///
    /// Dropping it cancels the tries that run and begins no other.
    pub struct RetryFuture<S: Service<Request<Attempt<B>>>, B> {
        inner: S,
        first: Option<Request<Routed<B>>>,
        kept: Option<Kept<B>>,
        // Of the try that runs or waits, if it is not the first.
        place: Option<Place>,
        shared: Arc<Shared>,
        #[pin]
        state: State<S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Start,
        Trying { #[pin] future: F },
        // Off the common path, so in boxes.
        Pausing { sleep: Pin<Box<Sleep>> },
        Racing { race: Box<Race<F>> },
    }
}

impl<S: Service<Request<Attempt<B>>>, B> RetryFuture<S, B> {
    pub(super) fn new(inner: S, request: Request<Routed<B>>, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            first: Some(request),
            kept: None,
            place: None,
            shared,
            state: State::Start,
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
                StateProjection::Start => {
                    let request = this.first.take().expect("polled after it was done");
                    match first_attempt(request, this.kept, cx) {
                        Ok(attempt) => attempt,
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                StateProjection::Trying { future } => {
                    let answer = ready!(future.poll(cx));
                    // What the last retry held is given back before another is asked for (Envoy).
                    *this.place = None;
                    let kept = this.kept.as_mut().expect("kept since the first try");
                    match kept.judge(answer, this.shared) {
                        Err(answer) => return Poll::Ready(answer),
                        Ok(place) => {
                            let sleep = Box::pin(tokio::time::sleep(place.pause()));
                            *this.place = Some(place);
                            this.state.set(State::Pausing { sleep });
                            continue;
                        }
                    }
                }
                StateProjection::Pausing { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    if let Some(place) = this.place {
                        place.begin();
                    }
                    this.kept.as_ref().expect("kept since the first try").again()
                }
                StateProjection::Racing { race } => {
                    let kept = this.kept.as_mut().expect("kept since the first try");
                    return race.poll(cx, this.inner, kept, this.shared);
                }
            };
            let future = this.inner.call(attempt);
            let slow = this.kept.as_ref().filter(|kept| kept.hedged);
            match slow.and_then(|kept| kept.call.rules().per_try_timeout()) {
                None => this.state.set(State::Trying { future }),
                Some(slow) => this.state.set(State::Racing {
                    race: Box::new(Race::begin(future, slow)),
                }),
            }
        }
    }
}

/// Peeks at the body and keeps what a second try would need.
fn first_attempt<B>(
    request: Request<Routed<B>>,
    kept: &mut Option<Kept<B>>,
    cx: &mut Context<'_>,
) -> Result<Request<Attempt<B>>, Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let head = Head::of(&request);
    let (parts, routed) = request.into_parts();
    let (body, call) = routed.into_parts();
    let policy = &call.route.retry;
    let payload =
        peek(body, policy.replay_limit(), cx).ok_or_else(|| Error::new(Kind::InvalidRequest("its body failed")))?;
    call.cluster.budget().deposit();
    let hedges = (policy.hedge || call.asked.is_some()) && call.rules().hedges();
    let hedged = hedges && matches!(payload, Payload::Whole(_));
    let limit = call.try_limit().filter(|_| !hedged);
    let retries = RetryState::begin(policy, &parts.headers, call.time.is_retry);
    *kept = Some(Kept {
        head,
        payload: payload.clone(),
        call: call.clone(),
        retries,
        tried: Tried::new(),
        hedged,
    });
    Ok(Request::from_parts(
        parts,
        Attempt {
            payload,
            call,
            number: 1,
            tried: Tried::new(),
            limit,
        },
    ))
}

impl<S: Service<Request<Attempt<B>>>, B> std::fmt::Debug for RetryFuture<S, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
