//! The future of the route room: usually the inner one from the start.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use mesh_core::config::{Reason, ReasonKind};
use mesh_core::live;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{Decision, Given, Shared};
use crate::body::ResponseBody;
use crate::error::Error;
use crate::request::Routed;
use crate::status::{Spoken, is_grpc};
use crate::wait::until;

/// The most parts of a target that a call's error names as awaited.
const MAX_NAMED: usize = 3;

pin_project! {
    /// Resolves to the answer of the chosen cluster.
    ///
    /// Dropping it cancels the call.
    pub struct RouteFuture<F> {
        #[pin]
        state: State<F>,
        grpc: bool,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Inner { #[pin] future: F, given: Option<Box<Given>> },
        // Boxed, since an answer is large and calls that come here have none in flight.
        Done { result: Option<Result<Box<Response<ResponseBody>>, Error>> },
        Waiting { waiting: Box<dyn Wait<F> + Send> },
    }
}

/// A call that waits for its target. Erased, so that what it will be sent by is no part of the future's type.
trait Wait<F> {
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<RouteFuture<F>>;
}

/// Off the common path, so in a box: most calls never wait.
struct Waiting<S, B> {
    call: Option<(S, Request<B>)>,
    shared: Arc<Shared>,
    began: Instant,
    limit: Duration,
    changed: Pin<Box<dyn Future<Output = bool> + Send>>,
}

impl<F> RouteFuture<F> {
    /// What comes is given this.
    #[inline]
    pub(super) fn go(future: F, given: Option<Box<Given>>, grpc: bool) -> Self {
        Self {
            state: State::Inner { future, given },
            grpc,
        }
    }

    pub(super) fn done(result: Result<Box<Response<ResponseBody>>, Error>, grpc: bool) -> Self {
        Self {
            state: State::Done { result: Some(result) },
            grpc,
        }
    }

    pub(super) fn wait<S, B>(inner: S, request: Request<B>, shared: Arc<Shared>, limit: Duration) -> Self
    where
        S: Service<Request<Routed<B>>, Future = F> + Send + 'static,
        B: Send + 'static,
    {
        let grpc = is_grpc(request.headers());
        let changed = Box::pin(first_answer(Arc::clone(&shared), limit));
        let waiting = Waiting {
            call: Some((inner, request)),
            shared,
            began: Instant::now(),
            limit,
            changed,
        };
        Self {
            state: State::Waiting {
                waiting: Box::new(waiting),
            },
            grpc,
        }
    }
}

impl<F> Spoken for RouteFuture<F> {
    #[inline]
    fn is_grpc(&self) -> bool {
        self.grpc
    }
}

impl<F> Future for RouteFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = Result<Response<ResponseBody>, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project().state.project() {
                StateProjection::Inner { future, given } => {
                    // Most are given nothing, and their answer is not moved for it.
                    if given.is_none() {
                        return future.poll(cx);
                    }
                    let mut result = ready!(future.poll(cx));
                    if let (Ok(response), Some(given)) = (&mut result, given.take()) {
                        given.write(response);
                    }
                    return Poll::Ready(result);
                }
                StateProjection::Done { result } => {
                    return Poll::Ready(
                        result
                            .take()
                            .expect("polled after it was done")
                            .map(|response| *response),
                    );
                }
                StateProjection::Waiting { waiting } => ready!(waiting.poll_wait(cx)),
            };
            self.set(next);
        }
    }
}

impl<S, B> Wait<S::Future> for Waiting<S, B>
where
    S: Service<Request<Routed<B>>>,
{
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<RouteFuture<S::Future>> {
        let answered = ready!(self.changed.as_mut().poll(cx));
        let (mut inner, request) = self.call.take().expect("a wait ends once");
        Poll::Ready(match self.shared.decide(&request) {
            Decision::Go(call, given) => {
                let request = Routed::new(request, call, self.began, self.began.elapsed());
                let grpc = request.body().is_grpc();
                RouteFuture::go(inner.call(request), given, grpc)
            }
            Decision::Answer(response) => self.shared.unrouted(&request, self.began.elapsed(), Ok(response)),
            Decision::Fail(error) => self.shared.unrouted(&request, self.began.elapsed(), Err(error)),
            Decision::Wait(reason) => {
                debug_assert!(!answered, "a target does not become unknown again");
                let gave_up = self.gave_up(&reason);
                self.shared.unrouted(&request, self.began.elapsed(), Err(gave_up))
            }
        })
    }
}

impl<S, B> Waiting<S, B> {
    /// What is told is what is waited for, and since when: of a target that lacks one cluster all else may have come.
    fn gave_up(&self, reason: &Reason) -> Error {
        let (now, Shared { link, name, .. }) = (Instant::now().into_std(), &*self.shared);
        let awaited = link.awaited(name);
        let mut lacks: Vec<String> = awaited.iter().take(MAX_NAMED).map(|one| one.told(now)).collect();
        if let Some(more @ 1..) = awaited.len().checked_sub(MAX_NAMED) {
            lacks.push(format!("{more} more"));
        }
        let lacks = match lacks[..] {
            [] => reason.to_string(),
            _ => format!("target {name:?} lacks {}", lacks.join(", ")),
        };
        let waited = self.limit;
        let told = match link.waiting_reason() {
            Some(because) => format!("waiting for control plane: {because} ({lacks}; the call waited {waited:?})"),
            None => format!("waiting for control plane: {lacks}; the call waited {waited:?}"),
        };
        Error::unavailable(ReasonKind::Waiting, told)
    }
}

/// Waits until the target is no longer unknown; `false` when the limit ran out first.
async fn first_answer(shared: Arc<Shared>, limit: Duration) -> bool {
    tokio::time::timeout(limit, heard_of(&shared.selector)).await.is_ok()
}

/// Resolves when something definite is known of the target.
pub(crate) async fn heard_of(selector: &live::Reader<super::Target>) {
    until(selector, |target| !matches!(target, super::Target::Waiting(_))).await;
}

impl<F> std::fmt::Debug for RouteFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteFuture").finish_non_exhaustive()
    }
}
