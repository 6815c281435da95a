//! The body of a request, which may be late, or too long.
//!
//! What a peer has promised and does not send holds a place of the server: a few connections of one peer could hold them all. So a body
//! that stops before the request was answered is waited for a while and no longer ([`BODY_TIMEOUT`], Envoy's `stream_idle_timeout`); and
//! when places run out, the one that has been waited for longest gives way, whatever is left of its time. Once there is an answer the two
//! are a stream, on which a peer may be silent for as long as it likes.
//!
//! Nothing of it costs where a body comes with its head: the timer is made when it has to be waited for.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{LengthLimitError, Limited};
use hyper::body::Incoming;
use mesh_core::crowd::Crowd;
use mesh_core::report::standard::{Messages, Protocol};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::places::Places;
use crate::telemetry::Received;

type BoxError = Box<dyn StdError + Send + Sync>;

/// How long the body of a request that is not answered may stop.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// A body that has stopped for less gives way to nobody: it may be on its way.
const BODY_GRACE: Duration = Duration::from_secs(1);

/// As long as a timer holds.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Bodies that are waited for, the one that has stopped longest first; whoever is told has to go.
pub(super) type Waiting = Crowd<oneshot::Sender<()>>;

/// What became of a request, for both of its halves.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    state: AtomicU8,
    /// How much of its body came, for whoever counts requests: in bytes, and in messages of gRPC.
    bytes: AtomicU64,
    messages: AtomicU64,
    /// Whether messages are counted.
    grpc: AtomicBool,
}

/// See [`Exchange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has no answer yet.
    Open,
    /// It has one.
    Answered,
    /// Its body stopped for too long.
    Stopped,
    /// Its body stopped, and others came.
    GaveWay,
    /// Its body is longer than the server takes.
    TooLarge,
}

impl Exchange {
    pub(super) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Open,
            1 => State::Answered,
            2 => State::Stopped,
            3 => State::GaveWay,
            _ => State::TooLarge,
        }
    }

    /// The service has answered. What became of the request if it is not that.
    pub(super) fn answer(&self) -> Option<State> {
        let answered = self.state.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        answered.is_err().then(|| self.state())
    }

    fn end(&self, state: State) {
        let to = match state {
            State::Open | State::Answered => return,
            State::Stopped => 2,
            State::GaveWay => 3,
            State::TooLarge => 4,
        };
        // An answer that has begun stays as it is.
        let _ = self.state.compare_exchange(0, to, Ordering::AcqRel, Ordering::Acquire);
    }

    fn count(&self, data: &[u8], messages: &mut Messages) {
        self.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        if self.grpc.load(Ordering::Relaxed) {
            self.messages.fetch_add(messages.take(data), Ordering::Relaxed);
        }
    }

    /// How many bytes of its body came, and how many messages.
    pub(crate) fn received(&self) -> (u64, u64) {
        (
            self.bytes.load(Ordering::Relaxed),
            self.messages.load(Ordering::Relaxed),
        )
    }
}

/// The body of a request that [`serve`](crate::serve()) took.
pub struct RequestBody {
    body: Limited<Incoming>,
    messages: Messages,
    bound: Option<Bound>,
}

struct Bound {
    exchange: Arc<Exchange>,
    places: Arc<Places>,
    timeout: Duration,
    /// While it is waited for.
    wait: Option<Box<Wait>>,
}

/// A body that has stopped.
struct Wait {
    timer: Pin<Box<Sleep>>,
    /// Once it may be told to give way.
    told: Option<(u64, oneshot::Receiver<()>)>,
}

impl RequestBody {
    pub(super) fn new(
        body: Incoming,
        most: usize,
        timeout: Duration,
        places: &Arc<Places>,
        exchange: Option<&Arc<Exchange>>,
    ) -> Self {
        Self {
            body: Limited::new(body, most),
            messages: Messages::default(),
            bound: exchange.map(|exchange| Bound {
                exchange: Arc::clone(exchange),
                places: Arc::clone(places),
                timeout,
                wait: None,
            }),
        }
    }
}

impl RequestBody {
    /// Counts what comes as what `protocol` has.
    pub(crate) fn counts(&self, protocol: Protocol) {
        if let Some(bound) = &self.bound {
            bound.exchange.grpc.store(protocol == Protocol::Grpc, Ordering::Relaxed);
        }
    }

    /// What is counted of it.
    pub(crate) fn received(&self) -> Received {
        match &self.bound {
            Some(bound) => Received::Counted(Arc::clone(&bound.exchange)),
            None => Received::Length(0),
        }
    }
}

impl Bound {
    /// Waits on, unless that was long enough.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<State> {
        if self.exchange.state() == State::Answered {
            self.go_on();
            return Poll::Pending;
        }
        let timeout = match self.timeout {
            Duration::ZERO => FOR_EVER,
            timeout => timeout,
        };
        let wait = self.wait.get_or_insert_with(|| {
            let timer = Box::pin(sleep(BODY_GRACE.min(timeout)));
            Box::new(Wait { timer, told: None })
        });
        loop {
            if let Some((_, told)) = &mut wait.told
                && Pin::new(told).poll(cx).is_ready()
            {
                return Poll::Ready(State::GaveWay);
            }
            ready!(wait.timer.as_mut().poll(cx));
            if wait.told.is_some() || timeout <= BODY_GRACE {
                return Poll::Ready(State::Stopped);
            }
            let (tell, told) = oneshot::channel();
            let (number, _) = self.places.waiting().enter(tell);
            wait.told = Some((number, told));
            wait.timer = Box::pin(sleep(timeout - BODY_GRACE));
        }
    }

    /// It goes on, or nobody waits any more.
    fn go_on(&mut self) {
        if let Some((number, _)) = self.wait.take().and_then(|mut wait| wait.told.take()) {
            drop(self.places.waiting().leave(number));
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.go_on();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Some(bound) = &mut this.bound else {
            return polled;
        };
        match polled {
            Poll::Pending => {
                let state = ready!(bound.poll_wait(cx));
                bound.go_on();
                bound.exchange.end(state);
                Poll::Ready(Some(Err(Stopped.into())))
            }
            Poll::Ready(polled) => {
                bound.go_on();
                match &polled {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            bound.exchange.count(data, &mut this.messages);
                        }
                    }
                    Some(Err(error)) if error.is::<LengthLimitError>() => bound.exchange.end(State::TooLarge),
                    Some(Err(_)) | None => {}
                }
                Poll::Ready(polled)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// What a service sees of a body that was waited for long enough.
#[derive(Debug)]
struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body has stopped")
    }
}

impl StdError for Stopped {}
