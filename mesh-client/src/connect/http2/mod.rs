//! One HTTP/2 connection: opened here, polled by a task of its own, written to from the callers' tasks.
//!
//! Driving `h2` directly, rather than through a client that hands each request to the connection's task, saves a task hop,
//! two TLS records and about a third of the CPU of a call: HEADERS and the whole body are queued by the caller before the
//! connection's task runs once and writes them together.
//!
//! What that makes ours to keep: `h2` queues without bound when the peer's stream limit is reached, so streams are counted
//! here and a full connection is passed over; and a connection that said GOAWAY, or whose own time is over, takes no new
//! stream while its old ones end. Who looks after that time is the connection's steward, in a task of its own.

mod steward;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::Request;
use mesh_core::config::Http2Settings;
use tokio::sync::Notify;

use super::pool::Pool;
use super::terms::Terms;
use super::watched::Reads;
use super::{ConnectError, ConnectKind, Io};
use crate::cluster::ConnectionPlace;
use crate::telemetry::{INTRODUCTION, Party};
use steward::Steward;

/// Streams a peer is assumed to allow until its SETTINGS say otherwise (RFC 9113 6.5.2 recommends no less than 100).
const FIRST_MAX_STREAMS: u32 = 100;
/// What one response may run ahead of its reader, in bytes. hyper's client default.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// What all responses of a connection may run ahead of their readers, in bytes. hyper's client default.
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// The longest header list accepted, in bytes. hyper's default.
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// So many tries in a row that ran out of their own time, with nothing read from the peer meanwhile, and their connection takes
/// no more calls: it is the connection then and not the calls.
const MAX_SILENT_TRIES: u32 = 3;

/// A live connection. Dropping the last handle lets its open streams end and then closes it.
pub(crate) struct Connection {
    send: Mutex<SendRequest<Bytes>>,
    streams: AtomicU32,
    /// Streams opened since the beginning; it may wrap.
    opened: AtomicU32,
    /// What the peer allows at once, as far as is known. Shared with the connection's task.
    max_streams: Arc<AtomicU32>,
    /// Streams after which it takes no more.
    max_opened: u32,
    closed: AtomicBool,
    /// What it was agreed under holds no more.
    revoked: AtomicBool,
    /// Something of an answer came since its steward last looked.
    heard: AtomicBool,
    /// An answer came over it.
    proven: AtomicBool,
    /// It ended under a call, and that was counted.
    lost: AtomicBool,
    reads: Reads,
    silence: Mutex<Silence>,
    /// Wakes its steward.
    changed: Arc<Notify>,
    /// Wakes those who ride on it without a call.
    leaving: Notify,
    /// Its place among the cluster's connections.
    place: OnceLock<ConnectionPlace>,
    /// Who is at the other end, and where calls are counted.
    party: Party,
}

/// Tries that ran out of their time in silence.
#[derive(Default)]
struct Silence {
    tries: u32,
    /// Streams opened when the last of them did: those of before it prove nothing further.
    since: u32,
}

/// A counted place for one stream on a connection.
pub(crate) struct Permit {
    connection: Arc<Connection>,
}

/// What a try that may have to be judged by its time remembers of the moment when it was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    opened: u32,
    reads: u32,
}

/// Why a stream was not opened.
pub(crate) enum NotOpened {
    /// The connection is gone or going; nothing was sent, and the head is handed back.
    Gone(Box<Request<()>>),
    /// The head cannot be sent.
    Refused(h2::Error),
}

impl Connection {
    /// A place for one more stream; `None` when the connection is closing or full.
    pub(crate) fn permit(self: &Arc<Self>) -> Option<Permit> {
        if self.is_closed() {
            return None;
        }
        let max = self.max_streams.load(Ordering::Relaxed);
        let grow = |streams: u32| (streams < max).then_some(streams + 1);
        self.streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow)
            .ok()?;
        Some(Permit {
            connection: Arc::clone(self),
        })
    }

    /// It counts among its cluster's connections until it is gone.
    pub(super) fn counts(&self, place: ConnectionPlace) {
        // It has none yet: it was made a moment ago.
        let _ = self.place.set(place);
    }

    /// Whether it takes no new stream.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Takes no new stream from now on. Those there are may end, however long they take.
    pub(super) fn retire(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changed.notify_one();
        self.leaving.notify_waiters();
    }

    /// As [`retire`](Self::retire), and those there are have [`DRAIN_LIMIT`](super::terms::DRAIN_LIMIT) to end.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
        self.retire();
    }

    fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Whether something of an answer came since this was last asked.
    fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    fn opened(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    fn silent_since(&self, mark: Mark) {
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        if self.reads.count() != mark.reads {
            silence.tries = 0;
            return;
        }
        // Of tries that waited side by side one counts.
        if silence.tries > 0 && mark.opened.wrapping_sub(silence.since) > u32::MAX / 2 {
            return;
        }
        silence.tries += 1;
        silence.since = self.opened();
        if silence.tries >= MAX_SILENT_TRIES && !self.is_closed() {
            tracing::warn!(tries = silence.tries, "a connection is silent: it takes no more calls");
            self.retire();
        }
    }
}

impl Permit {
    /// Opens the stream.
    pub(crate) fn open(
        &self,
        mut head: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), NotOpened> {
        let connection = &*self.connection;
        let mut send = connection.send.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.opened() == 0
            && let Some(told) = connection.party.introduction()
        {
            head.headers_mut().insert(INTRODUCTION, told.clone());
        }
        let opened = match send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => send.send_request(head, end_of_stream),
            // `h2` holds the place of a stream that was cancelled until its reset is written, and lets a handle queue only one
            // stream behind it. Our own count says that there is room, so a fresh handle may queue the next.
            Poll::Pending => {
                *send = send.clone();
                send.send_request(head, end_of_stream)
            }
            Poll::Ready(Err(_)) => {
                // The next pick must not find it again.
                connection.retire();
                return Err(NotOpened::Gone(Box::new(head)));
            }
        };
        let before = connection.opened.fetch_add(1, Ordering::Relaxed);
        if opened.is_err() || before.wrapping_add(1) == connection.max_opened {
            connection.retire();
        }
        opened.map_err(NotOpened::Refused)
    }

    /// Who is at the other end.
    pub(crate) fn party(&self) -> &Party {
        &self.connection.party
    }

    /// An answer came: whether it was the connection's first.
    pub(crate) fn prove(&self) -> bool {
        let proven = &self.connection.proven;
        !proven.load(Ordering::Relaxed) && !proven.swap(true, Ordering::Relaxed)
    }

    /// The peer took none of what was sent, nor will it take more: whether it never answered anything on this connection.
    pub(crate) fn is_unserved(&self) -> bool {
        !self.connection.proven.load(Ordering::Relaxed)
    }

    /// The connection ended under this call, having served: whether it had ended under another before.
    pub(crate) fn is_lost_again(&self) -> bool {
        !self.is_unserved() && self.connection.lost.swap(true, Ordering::Relaxed)
    }

    /// Until the connection takes no new stream, as far as anybody has noticed.
    pub(crate) async fn closed(&self) {
        let mut leaving = pin!(self.connection.leaving.notified());
        // From here on nobody closes it unnoticed.
        leaving.as_mut().enable();
        if !self.connection.is_closed() {
            leaving.await;
        }
    }

    /// Whether the connection takes no new stream, be it that the peer took its leave and nobody noticed.
    pub(crate) fn is_going(&self) -> bool {
        let connection = &*self.connection;
        let mut send = connection.send.lock().unwrap_or_else(PoisonError::into_inner);
        if let Poll::Ready(Err(_)) = send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            connection.retire();
        }
        connection.is_closed()
    }

    /// Something of an answer came.
    #[inline]
    pub(crate) fn heard(&self) {
        let heard = &self.connection.heard;
        // What is not written stays in everybody's caches.
        if !heard.load(Ordering::Relaxed) {
            heard.store(true, Ordering::Relaxed);
        }
    }

    /// The connection takes no more streams.
    pub(crate) fn retire(&self) {
        self.connection.retire();
    }

    /// The moment, for [`silent_since`](Self::silent_since).
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            opened: self.connection.opened(),
            reads: self.connection.reads.count(),
        }
    }

    /// A try that was sent at `mark` ran out of its own time.
    pub(crate) fn silent_since(&self, mark: Mark) {
        self.connection.silent_since(mark);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// What a connection is kept by, besides its own settings.
pub(super) struct Keeping {
    pub(super) terms: Terms,
    pub(super) reads: Reads,
    /// Whose it is.
    pub(super) pool: Weak<Pool>,
    pub(super) party: Party,
}

/// Speaks the preface and starts the connection's task.
pub(super) async fn handshake<T: Io>(
    io: T,
    settings: &Http2Settings,
    keeping: Keeping,
) -> Result<Arc<Connection>, ConnectError> {
    let first = settings
        .max_streams
        .map_or(FIRST_MAX_STREAMS, |max| max.get().min(FIRST_MAX_STREAMS));
    let (send, mut driver) = Builder::new()
        .initial_window_size(settings.stream_window.unwrap_or(STREAM_WINDOW))
        .initial_connection_window_size(settings.connection_window.unwrap_or(CONNECTION_WINDOW))
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_max_send_streams(first as usize)
        .enable_push(false)
        .handshake::<T, Bytes>(io)
        .await
        .map_err(|error| ConnectError::new(ConnectKind::Http2(error)))?;
    let Keeping {
        terms,
        reads,
        pool,
        party,
    } = keeping;
    let max_streams = Arc::new(AtomicU32::new(first));
    let connection = Arc::new(Connection {
        send: Mutex::new(send),
        streams: AtomicU32::new(0),
        opened: AtomicU32::new(0),
        max_streams: Arc::clone(&max_streams),
        max_opened: terms.max_requests.map_or(0, std::num::NonZeroU32::get),
        closed: AtomicBool::new(false),
        revoked: AtomicBool::new(false),
        heard: AtomicBool::new(false),
        proven: AtomicBool::new(false),
        lost: AtomicBool::new(false),
        reads,
        silence: Mutex::default(),
        changed: Arc::default(),
        leaving: Notify::new(),
        place: OnceLock::new(),
        party,
    });
    let pings = driver.ping_pong();
    let most = settings.max_streams.map_or(u32::MAX, std::num::NonZeroU32::get);
    // Neither task keeps the connection alive: when its last user is gone, h2 ends it.
    let driving = drive(driver, (max_streams, most), Arc::downgrade(&connection), pool.clone());
    let task = tokio::spawn(driving).abort_handle();
    let steward = Steward::new(&connection, pings, task, terms, pool, settings.keep_alive);
    tokio::spawn(steward.attend());
    Ok(connection)
}

/// Polls the connection to its end.
async fn drive<T: Io>(
    mut driver: h2::client::Connection<T, Bytes>,
    (max_streams, most): (Arc<AtomicU32>, u32),
    live: Weak<Connection>,
    pool: Weak<Pool>,
) {
    let result = poll_fn(|cx| {
        let polled = pin!(&mut driver).poll(cx);
        let max = u32::try_from(driver.max_concurrent_send_streams()).unwrap_or(u32::MAX);
        max_streams.store(max.min(most), Ordering::Relaxed);
        polled
    })
    .await;
    if let Some(connection) = live.upgrade() {
        // The peer's doing, before anybody came to use it; those who did tell it themselves.
        if !connection.is_closed()
            && connection.opened() == 0
            && let Some(pool) = pool.upgrade()
        {
            pool.unserved();
        }
        connection.retire();
    }
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("streams", &self.streams)
            .field("max_streams", &self.max_streams)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
