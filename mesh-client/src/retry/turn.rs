//! The wait of a further try for its turn.
//!
//! What an application puts below retry may have a readiness of its own (tower's `ConcurrencyLimit`), and tower lets it panic when it is
//! called without. The first try is made by who was polled ready for the call; each further one is polled for here. Its time has begun: one
//! that comes too late ends as a try that was too slow, and all of it ends with the call's. Where readiness is there at once, as it is
//! where an application put nothing, this costs a look.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Request;
use tokio::time::{Instant, Sleep};
use tower::Service;

use super::kept::Kept;
use crate::attempt::late;
use crate::error::Error;
use crate::request::Attempt;
use crate::time::TryLimit;

/// A try that may be made as soon as what is below is ready for it.
pub(super) struct Turn {
    limit: Option<TryLimit>,
    /// When waiting for it ends; `None`: not before the call.
    ends: Option<Instant>,
    /// Made when there is something to wait for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Turn {
    /// Of the next try of a call, whose time begins.
    pub(super) fn of<B>(kept: &Kept<B>) -> Self {
        let call = kept.aside.call();
        let limit = call.try_limit(kept.aside.hedged);
        Self {
            limit,
            ends: limit.and_then(|limit| limit.ends(call.time.activity.as_deref())),
            timer: None,
        }
    }

    /// How long the try may take, from when it began to wait.
    pub(super) fn limit(&self) -> Option<TryLimit> {
        self.limit
    }

    /// Ready when `inner` may be called, which has to be done at once; or with why it may not.
    ///
    /// Who is dropped meanwhile leaves nothing behind but what `inner` holds.
    pub(super) fn poll<S, B>(&mut self, cx: &mut Context<'_>, inner: &mut S) -> Poll<Result<(), Error>>
    where
        S: Service<Request<Attempt<B>>, Error = Error> + Clone,
    {
        match inner.poll_ready(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => {
                // It will never be ready again (tower); of another one that is not said.
                *inner = inner.clone();
                return Poll::Ready(Err(error));
            }
        }
        let (Some(limit), Some(ends)) = (self.limit, self.ends) else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(ends)));
        ready!(timer.as_mut().poll(cx));
        // Its place in the queue is not kept for the try after it, which is made later if at all.
        *inner = inner.clone();
        Poll::Ready(Err(late(limit)))
    }
}
