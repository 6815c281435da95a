//! Tries that race: hedging (Envoy `hedge_on_per_try_timeout`).
//!
//! A try that reaches its own time is not ended; another begins beside it, if the policy has one left and the budget pays. The
//! first answer that the policy would not try again wins, and the others are cancelled. A try that fails while others run is
//! waited over; when the last one fails, it is judged as ever.
//!
//! Only for bodies that are whole: a streaming one can be read by one try at a time. All of it is in one box that a call without
//! hedging never makes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use tokio::time::{Instant, Sleep};
use tower::Service;

use super::Shared;
use super::kept::{Answer, Kept, Place};
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
        S: Service<Request<Attempt<B>>, Future = F>,
        F: Future<Output = Answer>,
    {
        loop {
            if let Poll::Ready(mut answer) = self.poll_tries(cx) {
                if !self.tries.is_empty() && kept.is_worth_another(&answer) {
                    // The others may do better, and are under way already.
                    continue;
                }
                let Some(place) = kept.judge(&mut answer, shared) else {
                    return Poll::Ready(answer);
                };
                self.timer.as_mut().reset(Instant::now() + place.pause());
                self.pausing = Some(place);
            }
            if self.pausing.is_none() && !self.armed {
                return Poll::Pending;
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.pausing.is_none() {
                kept.note_slow();
            }
            let place = self.pausing.take().or_else(|| kept.hedge(shared));
            let Some(mut place) = place else {
                self.armed = false;
                return Poll::Pending;
            };
            place.begin();
            self.tries.push(Entry {
                future: Box::pin(inner.call(kept.again())),
                _place: Some(place),
            });
            self.armed = true;
            self.timer.as_mut().reset(Instant::now() + self.slow);
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
