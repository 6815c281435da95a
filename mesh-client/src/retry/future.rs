//! The future of the retry room.

use std::future::Future;
use std::ops::ControlFlow;
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
        Failed { error: Option<Error> },
        Trying { #[pin] future: F },
        // Off the common path, so in boxes.
        Pausing { sleep: Pin<Box<Sleep>> },
        Racing { race: Box<Race<F>> },
    }
}

impl<S, B> RetryFuture<S, B>
where
    S: Service<Request<Attempt<B>>>,
    B: Body<Data = Bytes> + Unpin,
{
    /// Makes the first try at once: its request never moves into this future, which every room above has to move.
    pub(super) fn begin(mut inner: S, request: Request<Routed<B>>, shared: Arc<Shared>) -> Self {
        let mut kept = None;
        let state = match first_attempt(request, &mut kept) {
            Ok(attempt) => running(inner.call(attempt), kept.as_ref()),
            Err(error) => State::Failed { error: Some(error) },
        };
        Self {
            inner,
            kept,
            place: None,
            shared,
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
                    let answer = ready!(future.poll(cx));
                    // What the last retry held is given back before another is asked for (Envoy).
                    *this.place = None;
                    let kept = this.kept.as_mut().expect("kept since the first try");
                    match kept.judge(answer, this.shared) {
                        ControlFlow::Break(answer) => return Poll::Ready(answer),
                        ControlFlow::Continue(place) => {
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
            this.state.set(running(future, this.kept.as_ref()));
        }
    }
}

/// A try that was begun: alone, or the first of a race.
fn running<F, B>(future: F, kept: Option<&Kept<B>>) -> State<F> {
    let hedged = kept.filter(|kept| kept.hedged);
    match hedged.and_then(|kept| kept.call.rules().per_try_timeout()) {
        None => State::Trying { future },
        Some(slow) => State::Racing {
            race: Box::new(Race::begin(future, slow)),
        },
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
    let policy = &call.route.retry;
    let payload =
        peek(body, policy.replay_limit()).ok_or_else(|| Error::new(Kind::InvalidRequest("its body failed")))?;
    call.cluster.budget().deposit();
    let hedges = (policy.hedge || call.asked.is_some()) && call.rules().hedges();
    let hedged = hedges && matches!(payload, Payload::Whole(_));
    let limit = call.try_limit().filter(|_| !hedged);
    let retries = RetryState::begin(policy, &parts.headers, call.time.is_retry);
    let first = Attempt::first(payload.clone(), call.clone(), limit);
    *kept = Some(Kept {
        head,
        payload,
        call,
        retries,
        tried: Tried::new(),
        gone_to: first.gone_to.clone(),
        hedged,
    });
    Ok(Request::from_parts(parts, first))
}

impl<S: Service<Request<Attempt<B>>>, B> std::fmt::Debug for RetryFuture<S, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
