//! HTTP/1.1 connections: each carries one request at a time, and whoever makes the request drives it.
//!
//! hyper speaks the protocol; its connection is a future that somebody must poll. The usual way is a task per connection, which
//! costs each call two hops between tasks. Here a connection belongs to one call at a time, so that call polls it, from its
//! own task, along with the answer it waits for; while nobody uses it nobody polls it, and whether the peer closed it in the
//! meantime is seen by polling it once before it is used again. What remains is the race that HTTP/1.1 has (RFC 9112 9.3): a
//! peer may close while a request is on its way. Such a request may have been processed, and is told so.
//!
//! Nobody but its call could end a connection in use, when what was agreed with its peer holds no more: [`super::cut`] does.
//!
//! Not carried: CONNECT and upgrades, which take the connection away from HTTP.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::cut::{Cut, Cuttable};
use super::pool::Pool;
use super::terms::Terms;
use super::{ConnectError, ConnectKind, Io};
use crate::cluster::ConnectionPlace;
use crate::telemetry::{INTRODUCTION, Party};

type Driver = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

/// A live connection, used by nobody else. In one box for as long as it lives, since every call that uses it moves it.
pub(crate) struct Http1(Box<Connection>);

struct Connection {
    send: SendRequest<Outgoing>,
    driver: Driver,
    terms: Terms,
    served: u32,
    used: Instant,
    epoch: u32,
    /// Its place among the cluster's connections. It is given back before whoever waits in the pool is told of the other one.
    counted: Option<ConnectionPlace>,
    place: Place,
    /// Who is at the other end, and where calls are counted. Shared with them, since the connection may end before they do.
    party: Arc<Party>,
}

/// A counted place among a pool's HTTP/1.1 connections, and what ends the one that has it.
pub(super) struct Place {
    pub(super) pool: Weak<Pool>,
    pub(super) cut: Arc<Cut>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cut.end();
        if let Some(pool) = self.pool.upgrade() {
            pool.lost_http1();
        }
    }
}

/// Starts HTTP/1.1 on a byte stream: nothing is sent before a request is. What is read ahead, and how long a head may be, is
/// bounded by hyper (about 400 KiB).
pub(super) async fn handshake<T: Io>(
    io: T,
    terms: Terms,
    epoch: u32,
    place: Place,
    party: Party,
) -> Result<Http1, ConnectError> {
    let (send, connection) = Builder::new()
        .handshake(TokioIo::new(Cuttable::new(io, Arc::clone(&place.cut))))
        .await
        .map_err(|error| ConnectError::new(ConnectKind::Http1(error)))?;
    place.cut.with_certificates(&terms);
    Ok(Http1(Box::new(Connection {
        send,
        driver: Box::pin(connection),
        terms,
        served: 0,
        used: Instant::now(),
        epoch,
        counted: None,
        place,
        party: Arc::new(party),
    })))
}

impl Http1 {
    /// Who is at the other end.
    pub(crate) fn party(&self) -> &Arc<Party> {
        &self.0.party
    }

    /// Under which of the pool's rules it was made.
    pub(super) fn epoch(&self) -> u32 {
        self.0.epoch
    }

    /// It counts among its cluster's connections until it is gone.
    pub(super) fn counts(&mut self, place: ConnectionPlace) {
        self.0.counted = Some(place);
    }

    /// Whether it can take a request now. Looks at what the peer did meanwhile.
    pub(super) fn is_usable(&mut self, now: Instant) -> bool {
        let worn = self.0.terms.max_requests.is_some_and(|max| self.0.served >= max.get());
        !worn
            && !self.0.terms.are_over(now)
            && !self.is_stale(now)
            && self.poll_driver(&mut noop())
            && self.0.send.is_ready()
    }

    /// Whether it was without a call for longer than it is kept.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.0
            .terms
            .idle_left(self.0.used, now)
            .is_some_and(|left| left.is_zero())
    }

    /// How much longer it is kept without a call; `None`: for ever.
    pub(super) fn kept_for(&self, now: Instant) -> Option<std::time::Duration> {
        self.0.terms.idle_left(self.0.used, now)
    }

    /// Polls the connection; `false` when it ended.
    fn poll_driver(&mut self, cx: &mut Context<'_>) -> bool {
        self.0.driver.as_mut().poll(cx).is_pending()
    }

    /// Sends a request whose target is in origin form and whose head names its host.
    pub(crate) fn send(mut self, mut request: Request<Outgoing>) -> Exchange {
        if self.0.served == 0
            && let Some(told) = self.0.party.introduction()
        {
            request.headers_mut().insert(INTRODUCTION, told.clone());
        }
        self.0.served += 1;
        let sending = Box::pin(self.0.send.try_send_request(request));
        Exchange {
            connection: Some(self),
            sending,
        }
    }

    /// Gives it back to its pool when another request may use it.
    fn give_back(mut self) {
        // The peer's last bytes may be read but not yet acted upon.
        let goes_on = self.poll_driver(&mut noop()) && self.0.send.is_ready();
        if goes_on && let Some(pool) = self.0.place.pool.upgrade() {
            self.0.used = Instant::now();
            pool.put_http1(self);
        }
    }
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

type Sending =
    dyn Future<Output = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<Outgoing>>>> + Send;

/// A request on its way, up to the head of its answer. Dropping it closes the connection.
pub(crate) struct Exchange {
    connection: Option<Http1>,
    sending: Pin<Box<Sending>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) error: hyper::Error,
    /// Nothing of the request reached the connection.
    pub(crate) unsent: bool,
}

impl Exchange {
    /// Whether it is the first on its connection.
    pub(crate) fn is_first(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.0.served == 1)
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Answer>, Unanswered>> {
        let connection = self.connection.as_mut().expect("polled after it was done");
        // The first poll of the connection writes the request, a later one reads the answer, which the second poll of what
        // waits for it then finds.
        let mut result = self.sending.as_mut().poll(cx);
        let mut ended = false;
        if result.is_pending() {
            ended = !connection.poll_driver(cx);
            result = self.sending.as_mut().poll(cx);
        }
        match result {
            Poll::Ready(Ok(response)) => {
                let connection = self.connection.take().filter(|_| !ended);
                Poll::Ready(Ok(response.map(|body| Answer { body, connection })))
            }
            Poll::Ready(Err(mut error)) => Poll::Ready(Err(Unanswered {
                unsent: error.take_message().is_some(),
                error: error.into_error(),
            })),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The body of an answer, with the connection that it comes over; `None` when that ended already.
pub(crate) struct Answer {
    body: Incoming,
    connection: Option<Http1>,
}

impl Answer {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(connection) = &mut self.connection
        {
            if !connection.poll_driver(cx) {
                self.connection = None;
            }
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        polled
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// The body came to its end: the connection may serve another.
    pub(crate) fn end(self) {
        if let Some(connection) = self.connection {
            connection.give_back();
        }
    }
}

/// The body of a request.
pub(crate) enum Outgoing {
    /// All of it.
    Whole(Option<Bytes>),
    /// As it comes.
    Streaming(Pin<Box<dyn Body<Data = Bytes, Error = BodyFailed> + Send>>),
}

impl Outgoing {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }

    pub(crate) fn streaming<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: fmt::Display + Send,
    {
        Self::Streaming(Box::pin(Told(body)))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streaming(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Streaming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streaming(body) => body.size_hint(),
        }
    }
}

/// A body whose error is a text: the caller's own type need not be one that hyper takes.
struct Told<B>(B);

impl<B> Body for Told<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let told = |error: B::Error| BodyFailed(error.to_string());
        Pin::new(&mut self.0)
            .poll_frame(cx)
            .map(|frame| frame.map(|frame| frame.map_err(told)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// The caller's body failed, and how.
#[derive(Debug)]
pub(crate) struct BodyFailed(String);

impl fmt::Display for BodyFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request's body failed: {}", self.0)
    }
}

impl std::error::Error for BodyFailed {}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}
