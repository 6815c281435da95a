//! The future of the retry room.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::Service;

use super::Shared;
use super::kept::{Kept, Place, is_within};
use super::race::Race;
use super::turn::Turn;
use crate::body::ResponseBody;
use crate::error::Error;
use crate::request::{Attempt, Call, Payload, Routed};

pin_project! {
    /// Resolves to the answer of the last try, or of the first that is good enough where tries race.
    ///
    /// Dropping it cancels the tries that run and begins no other.
    pub struct RetryFuture<S: Service<Request<Attempt<B>>>, B> {
        inner: S,
        kept: Option<Kept<B>>,
        // Of the try that runs or waits, if it is not the first: off the common path, so in a box.
        place: Option<Box<Place>>,
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
        Waiting { turn: Turn },
        Racing { race: Box<Race<F>> },
    }
}

impl<S, B> RetryFuture<S, B>
where
    S: Service<Request<Attempt<B>>>,
    B: Body<Data = Bytes> + Unpin,
{
    /// Makes the first try at once: its request never moves into this future, which every room above has to move.
    #[inline]
    pub(super) fn begin(mut inner: S, request: Request<Routed<B>>, shared: Arc<Shared>) -> Self {
        let (parts, routed) = request.into_parts();
        let (payload, call) = match routed.into_payload() {
            Ok(both) => both,
            Err(error) => {
                return Self {
                    inner,
                    kept: None,
                    place: None,
                    shared,
                    state: State::Failed { error: Some(error) },
                };
            }
        };
        let hedged = is_hedged(&call, &payload);
        let (kept, first) = Kept::begin(&parts, payload, call, hedged);
        let future = inner.call(Request::from_parts(parts, first));
        Self {
            state: running(future, Some(&kept)),
            inner,
            kept: Some(kept),
            place: None,
            shared,
        }
    }
}

impl<S, B> RetryFuture<S, B>
where
    S: Service<Request<Attempt<B>>>,
{
    /// Of a call whose first try was made, and is to be followed by another.
    pub(crate) fn another(inner: S, kept: Kept<B>, place: Place, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            kept: Some(kept),
            state: State::Pausing {
                sleep: Box::pin(tokio::time::sleep(place.pause())),
            },
            place: Some(Box::new(place)),
            shared,
        }
    }
}

/// Whether slow tries of a call are raced.
#[inline]
pub(crate) fn is_hedged<B>(call: &Call, payload: &Payload<B>) -> bool {
    let policy = &call.route.retry;
    let hedges = (policy.hedge || call.asked.is_some()) && call.rules().hedges();
    hedges && matches!(payload, Payload::Whole(body) if is_within(body, policy))
}

impl<S, B> Future for RetryFuture<S, B>
where
    S: Service<Request<Attempt<B>>, Response = Response<ResponseBody>, Error = Error> + Clone,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    type Output = Result<Response<ResponseBody>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Failed { error } => {
                    return Poll::Ready(Err(error.take().expect("polled after it was done")));
                }
                StateProjection::Trying { future } => {
                    // Judged where it is: an answer is large, and mostly the caller's.
                    let mut polled = future.poll(cx);
                    let Poll::Ready(answer) = &mut polled else {
                        return Poll::Pending;
                    };
                    // What the last retry held is given back before another is asked for (Envoy).
                    *this.place = None;
                    let kept = this.kept.as_mut().expect("kept since the first try");
                    let Some(place) = kept.judge(answer, this.shared) else {
                        kept.tell_sent(answer);
                        return polled;
                    };
                    let sleep = Box::pin(tokio::time::sleep(place.pause()));
                    *this.place = Some(Box::new(place));
                    this.state.set(State::Pausing { sleep });
                }
                StateProjection::Pausing { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    let kept = this.kept.as_ref().expect("kept since the first try");
                    let turn = Turn::of(kept);
                    this.state.set(State::Waiting { turn });
                }
                StateProjection::Waiting { turn } => {
                    let kept = this.kept.as_mut().expect("kept since the first try");
                    let refused = match ready!(turn.poll(cx, this.inner)) {
                        Ok(()) => {
                            if let Some(place) = this.place {
                                place.begin();
                            }
                            let future = this.inner.call(kept.again(turn));
                            this.state.set(running(future, Some(kept)));
                            continue;
                        }
                        Err(error) => error,
                    };
                    // It is how this try ended, which did not reach a host and costs nothing.
                    *this.place = None;
                    let mut answer = Err(refused);
                    let Some(place) = kept.judge(&mut answer, this.shared) else {
                        return Poll::Ready(answer);
                    };
                    let sleep = Box::pin(tokio::time::sleep(place.pause()));
                    *this.place = Some(Box::new(place));
                    this.state.set(State::Pausing { sleep });
                }
                StateProjection::Racing { race } => {
                    let kept = this.kept.as_mut().expect("kept since the first try");
                    let mut answer = ready!(race.poll(cx, this.inner, kept, this.shared));
                    kept.tell_sent(&mut answer);
                    return Poll::Ready(answer);
                }
            }
        }
    }
}

/// A try that was begun: alone, or the first of a race.
#[inline]
fn running<F, B>(future: F, kept: Option<&Kept<B>>) -> State<F> {
    let hedged = kept.filter(|kept| kept.aside.hedged);
    match hedged.and_then(|kept| kept.aside.call().rules().per_try_timeout()) {
        None => State::Trying { future },
        Some(slow) => State::Racing {
            race: Box::new(Race::begin(future, slow)),
        },
    }
}

impl<S: Service<Request<Attempt<B>>>, B> std::fmt::Debug for RetryFuture<S, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
