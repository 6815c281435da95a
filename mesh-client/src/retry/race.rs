//! Tries that race: hedging (Envoy `hedge_on_per_try_timeout`).
//!
//! A try that reaches its own time is not ended; another begins beside it, if the policy has one left and the budget pays. The
//! first answer that the policy would not try again wins, and the others are cancelled. A try that fails while others run is
//! waited over; when the last one fails, it is judged as ever. One that what is below is not ready for counts as one that runs, and one that
//! it refuses as none: those that run decide.
//!
//! Only for bodies that are whole: a streaming one can be read by one try at a time. All of it is in one box that a call without
//! hedging never makes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use tokio::time::{Instant, Sleep};
use tower::Service;

use super::Shared;
use super::kept::{Answer, Kept, Place};
use super::turn::Turn;
use crate::error::Error;
use crate::request::Attempt;

/// The tries of one call that run.
pub(super) struct Race<F> {
    /// How long a try may take until another begins.
    slow: Duration,
    tries: Vec<Entry<F>>,
    timer: Pin<Box<Sleep>>,
    /// Another may still begin when the timer goes off.
    armed: bool,
    /// A try that was decided on and waits for its pause.
    pausing: Option<Place>,
    /// One that waits for what is below to be ready.
    waiting: Option<(Place, Turn)>,
}

struct Entry<F> {
    future: Pin<Box<F>>,
    /// Held while the try runs; the first has none.
    _place: Option<Place>,
}

impl<F> Race<F> {
    pub(super) fn begin(first: F, slow: Duration) -> Self {
        Self {
            slow,
            tries: vec![Entry {
                future: Box::pin(first),
                _place: None,
            }],
            timer: Box::pin(tokio::time::sleep(slow)),
            armed: true,
            pausing: None,
            waiting: None,
        }
    }

    pub(super) fn poll<S, B>(
        &mut self,
        cx: &mut Context<'_>,
        inner: &mut S,
        kept: &mut Kept<B>,
        shared: &Shared,
    ) -> Poll<Answer>
    where
        S: Service<Request<Attempt<B>>, Error = Error, Future = F> + Clone,
        F: Future<Output = Answer>,
    {
        loop {
            if let Poll::Ready(mut answer) = self.poll_tries(cx) {
                if self.has_others() && kept.is_worth_another(&answer) {
                    // The others may do better, and are under way already.
                    continue;
                }
                let Some(place) = kept.judge(&mut answer, shared) else {
                    return Poll::Ready(answer);
                };
                self.pause(place);
            }
            let (mut place, mut turn) = match self.waiting.take() {
                Some(waiting) => waiting,
                None => (ready!(self.poll_next(cx, kept, shared)), Turn::of(kept)),
            };
            match turn.poll(cx, inner) {
                Poll::Pending => {
                    self.waiting = Some((place, turn));
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => {
                    place.begin();
                    self.tries.push(Entry {
                        future: Box::pin(inner.call(kept.again(&turn))),
                        _place: Some(place),
                    });
                    self.armed = true;
                    self.timer.as_mut().reset(Instant::now() + self.slow);
                }
                Poll::Ready(Err(_)) if !self.tries.is_empty() => self.armed = false,
                Poll::Ready(Err(error)) => {
                    drop(place);
                    let mut answer = Err(error);
                    let Some(place) = kept.judge(&mut answer, shared) else {
                        return Poll::Ready(answer);
                    };
                    self.pause(place);
                }
            }
        }
    }

    /// Whether a try runs, or is about to.
    fn has_others(&self) -> bool {
        !self.tries.is_empty() || self.waiting.is_some()
    }

    fn pause(&mut self, place: Place) {
        self.timer.as_mut().reset(Instant::now() + place.pause());
        self.pausing = Some(place);
    }

    /// The place of the try that is to begin now: one that had its pause, or one beside those that are slow.
    fn poll_next<B>(&mut self, cx: &mut Context<'_>, kept: &mut Kept<B>, shared: &Shared) -> Poll<Place> {
        if self.pausing.is_none() && !self.armed {
            return Poll::Pending;
        }
        ready!(self.timer.as_mut().poll(cx));
        if self.pausing.is_none() {
            kept.note_slow();
        }
        match self.pausing.take().or_else(|| kept.hedge(shared)) {
            Some(place) => Poll::Ready(place),
            None => {
                self.armed = false;
                Poll::Pending
            }
        }
    }

    /// The answer of the first try that has one, which is over with it.
    fn poll_tries(&mut self, cx: &mut Context<'_>) -> Poll<Answer>
    where
        F: Future<Output = Answer>,
    {
        for index in 0..self.tries.len() {
            if let Poll::Ready(answer) = self.tries[index].future.as_mut().poll(cx) {
                drop(self.tries.swap_remove(index));
                return Poll::Ready(answer);
            }
        }
        Poll::Pending
    }
}
