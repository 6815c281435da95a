//! The future of the fault room: usually the inner one from the start.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::Service;

use super::{Active, Delayed};
use crate::body::ResponseBody;
use crate::error::Error;
use crate::request::Routed;

pin_project! {
    /// Resolves as the inner future does, perhaps later; or with an injected fault.
    ///
    /// Dropping it cancels the call. One that is still held up was not sent.
    pub struct FaultFuture<S: Service<Request<Routed<B>>>, B> {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S: Service<Request<Routed<B>>>, B> {
        Inner { #[pin] future: S::Future },
        // Off the common path, so in boxes.
        Held { held: Box<Held<S, B>> },
        After { #[pin] future: S::Future, delay: Duration },
        Failed { error: Option<Error> },
    }
}

struct Held<S, B> {
    call: Option<(S, Request<Routed<B>>)>,
    abort: Option<Error>,
    sleep: Pin<Box<Sleep>>,
    delay: Duration,
    _active: Active,
}

/// The longest that a call is held up: what is longer is as good as endless, and tokio's timers reach about two years.
const MAX_DELAY: Duration = Duration::from_secs(365 * 24 * 3600);

impl<S: Service<Request<Routed<B>>>, B> FaultFuture<S, B> {
    #[inline]
    pub(super) fn go(future: S::Future) -> Self {
        Self {
            state: State::Inner { future },
        }
    }

    pub(super) fn fail(error: Error) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
        }
    }

    /// Waits, then makes the call or fails.
    pub(super) fn hold(
        call: Option<(S, Request<Routed<B>>)>,
        abort: Option<Error>,
        delay: Duration,
        active: Active,
    ) -> Self {
        let held = Held {
            call,
            abort,
            sleep: Box::pin(tokio::time::sleep(delay.min(MAX_DELAY))),
            delay,
            _active: active,
        };
        Self {
            state: State::Held { held: Box::new(held) },
        }
    }
}

impl<S, B> Future for FaultFuture<S, B>
where
    S: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error>,
{
    type Output = Result<Response<ResponseBody>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Inner { future } => return future.poll(cx),
                StateProjection::After { future, delay } => {
                    let mut result = ready!(future.poll(cx));
                    if let Ok(response) = &mut result {
                        response.extensions_mut().insert(Delayed(*delay));
                    }
                    return Poll::Ready(result);
                }
                StateProjection::Failed { error } => {
                    return Poll::Ready(Err(error.take().expect("polled after it was done")));
                }
                StateProjection::Held { held } => {
                    ready!(held.sleep.as_mut().poll(cx));
                    match held.call.take() {
                        Some((mut service, mut request)) => {
                            request.body_mut().held_up();
                            State::After {
                                future: service.call(request),
                                delay: held.delay,
                            }
                        }
                        None => State::Failed {
                            error: held.abort.take(),
                        },
                    }
                }
            };
            this.state.set(next);
        }
    }
}

impl<S: Service<Request<Routed<B>>>, B> std::fmt::Debug for FaultFuture<S, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultFuture").finish_non_exhaustive()
    }
}
