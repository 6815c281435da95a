//! One HTTP/2 connection: opened here, polled by a task of its own, written to from the callers' tasks.
//!
//! Driving `h2` directly, rather than through a client that hands each request to the connection's task, saves a task hop,
//! two TLS records and about a third of the CPU of a call: HEADERS and the whole body are queued by the caller before the
//! connection's task runs once and writes them together.
//!
//! What that makes ours to keep: `h2` queues without bound when the peer's stream limit is reached, so streams are counted
//! here and a full connection is passed over; and a connection that said GOAWAY takes no new stream while its old ones end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tokio::task::AbortHandle;

use super::{ConnectError, ConnectKind, Io};
use crate::cluster::ConnectionPlace;

/// Streams a peer is assumed to allow until its SETTINGS say otherwise (RFC 9113 6.5.2 recommends no less than 100).
const FIRST_MAX_STREAMS: u32 = 100;
/// What one response may run ahead of its reader, in bytes. hyper's client default.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// What all responses of a connection may run ahead of their readers, in bytes. hyper's client default.
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// The longest header list accepted, in bytes. hyper's default.
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// How often a connection with calls in flight is asked for a sign of life, and how long it may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pings without a call begun in between. gRPC servers end a connection whose client pings a quiet one more often
/// (`too_many_pings`), and gRPC's clients keep to the same number.
const MAX_PINGS_WITHOUT_A_CALL: u32 = 2;

/// A live connection. Dropping the last handle lets its open streams end and then closes it.
pub(crate) struct Connection {
    send: Mutex<SendRequest<Bytes>>,
    streams: AtomicU32,
    /// Streams opened since the beginning; it may wrap.
    opened: AtomicU32,
    max_streams: AtomicU32,
    closed: AtomicBool,
    /// Its place among the cluster's connections.
    place: OnceLock<ConnectionPlace>,
}

/// A counted place for one stream on a connection.
pub(crate) struct Permit {
    connection: Arc<Connection>,
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
}

impl Permit {
    /// Opens the stream. An error here means that nothing was sent.
    pub(crate) fn open(
        &self,
        head: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut send = self.connection.send.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => send.send_request(head, end_of_stream),
            // `h2` holds the place of a stream that was cancelled until its reset is written, and lets a handle queue only one
            // stream behind it. Our own count says that there is room, so a fresh handle may queue the next.
            Poll::Pending => {
                *send = send.clone();
                send.send_request(head, end_of_stream)
            }
            Poll::Ready(Err(error)) => Err(error),
        };
        self.connection.opened.fetch_add(1, Ordering::Relaxed);
        if opened.is_err() {
            // The connection is gone or going: the next pick must not find it again.
            self.connection.closed.store(true, Ordering::Relaxed);
        }
        opened
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Speaks the preface and starts the connection's task.
pub(super) async fn handshake<T: Io>(io: T) -> Result<Arc<Connection>, ConnectError> {
    let (send, mut driver) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_max_send_streams(FIRST_MAX_STREAMS as usize)
        .enable_push(false)
        .handshake::<T, Bytes>(io)
        .await
        .map_err(|error| ConnectError::new(ConnectKind::Http2(error)))?;
    let connection = Arc::new(Connection {
        send: Mutex::new(send),
        streams: AtomicU32::new(0),
        opened: AtomicU32::new(0),
        max_streams: AtomicU32::new(FIRST_MAX_STREAMS),
        closed: AtomicBool::new(false),
        place: OnceLock::new(),
    });
    let pings = driver.ping_pong();
    // Neither task keeps the connection alive: when its last user is gone, h2 ends it.
    let task = tokio::spawn(drive(driver, Arc::downgrade(&connection))).abort_handle();
    if let Some(pings) = pings {
        tokio::spawn(keep_alive(pings, Arc::downgrade(&connection), task));
    }
    Ok(connection)
}

/// Polls the connection to its end.
async fn drive<T: Io>(mut driver: h2::client::Connection<T, Bytes>, live: Weak<Connection>) {
    let result = poll_fn(|cx| {
        let polled = pin!(&mut driver).poll(cx);
        if let Some(connection) = live.upgrade() {
            let max = u32::try_from(driver.max_concurrent_send_streams()).unwrap_or(u32::MAX);
            connection.max_streams.store(max, Ordering::Relaxed);
        }
        polled
    })
    .await;
    if let Some(connection) = live.upgrade() {
        connection.closed.store(true, Ordering::Relaxed);
    }
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// Pings while calls are in flight, and ends a connection whose peer is silent: a host that is gone without a word would
/// otherwise hold its calls for ever. In a task of its own, so that calls pay nothing for it.
async fn keep_alive(mut pings: PingPong, live: Weak<Connection>, driver: AbortHandle) {
    let (mut seen, mut pinged) = (0, 0);
    loop {
        tokio::time::sleep(KEEP_ALIVE_INTERVAL).await;
        let Some(connection) = live.upgrade() else { return };
        let (busy, opened) = (
            connection.streams.load(Ordering::Relaxed) > 0,
            connection.opened.load(Ordering::Relaxed),
        );
        drop(connection);
        if opened != seen {
            (seen, pinged) = (opened, 0);
        }
        if !busy || pinged == MAX_PINGS_WITHOUT_A_CALL {
            continue;
        }
        pinged += 1;
        match tokio::time::timeout(KEEP_ALIVE_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            // It ended by itself.
            Ok(Err(_)) => return,
            Err(_silence) => {
                if let Some(connection) = live.upgrade() {
                    connection.closed.store(true, Ordering::Relaxed);
                }
                tracing::warn!(timeout = ?KEEP_ALIVE_TIMEOUT, "the peer answered no ping: the connection is ended");
                // Dropping h2's connection fails its streams.
                driver.abort();
                return;
            }
        }
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
