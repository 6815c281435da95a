//! tonic's own server loop behind our acceptor (feature `tonic`).
//!
//! tonic takes a stream of connections and asks each for its `ConnectInfo`, which it puts into the extensions of every
//! request. Ours is the [`ConnectionInfo`], of which [`MeshLayer`](crate::MeshLayer) makes the
//! [`PeerIdentity`](crate::PeerIdentity) that handlers find under [`serve`](fn@crate::serve), too. tonic's loop cannot be told to
//! drain one connection: where a certificate behind one expires or the rules admit it no longer, the layer answers UNAVAILABLE from
//! then on, and the connection ends after [`DRAIN_TIMEOUT`].
//!
//! tonic's own builder leaves out two of hyper's limits unless it is told them: how many streams a peer may have open, and how many it may
//! make the server reset (CVE-2025-8671). [`server`] is that builder with the limits of [`serve`](fn@crate::serve). [`incoming`] bounds
//! what can be bounded from below the loop; the rest is the loop's own, and tonic's has it not:
//!
//! | bound | [`serve`](fn@crate::serve) | tonic's loop |
//! |---|---|---|
//! | connections at once, handshakes, their time | yes | yes: [`incoming`] |
//! | a connection without a first byte after its handshake ([`HEAD_TIMEOUT`]) | ended | ended: [`incoming`] |
//! | a connection without a request ([`IDLE_TIMEOUT`]) | drained | ended: [`incoming`] with [`MeshLayer`](crate::MeshLayer), which knows the requests |
//! | streams of a connection, resets, lists of headers | yes | yes: [`server`] |
//! | a connection whose certificate ended, or that the rules admit no longer | drained, then cut | refused by the layer, then cut: [`incoming`] |
//! | requests at once over all connections ([`MAX_REQUESTS`](crate::MAX_REQUESTS)), adaptive concurrency, memory | yes | no; of one connection by tonic's `concurrency_limit_per_connection` and `load_shed` |
//! | bodies that stop ([`BODY_TIMEOUT`](crate::BODY_TIMEOUT)), long bodies | yes | no; the whole call by tonic's `timeout`, messages by its codec |
//! | peers that take nothing, or take most requests back | yes | no |
//! | connections that make room for others; a peer at a time is told to go when the server drains | yes | no |
//!
//! ```no_run
//! # async fn doc(link: mesh_core::Link, routes: tonic::service::Routes) -> Result<(), Box<dyn std::error::Error>> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:50051").await?;
//! mesh_server::tonic::server()
//!     .layer(mesh_server::MeshLayer::new(&link))
//!     .add_routes(routes)
//!     .serve_with_incoming(mesh_server::tonic::incoming(listener, &link))
//!     .await?;
//! # Ok(())
//! # }
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::{fmt, io};

use futures_core::Stream;
use mesh_core::Link;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tonic::transport::server::Connected;

use crate::accept::{Acceptor, ConnectionInfo, MeshStream};
use crate::serve::{
    DRAIN_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT, Incoming, Listen, MAX_CONNECTIONS, MAX_ERROR_RESETS, MAX_HEADER_LIST,
    MAX_PENDING_RESETS, MAX_STREAMS, door,
};
use crate::telemetry::{Inbound, Live};

/// How many verified connections may wait for tonic to take them. It takes each at once; a place for a burst is enough.
const WAITING: usize = 16;

/// tonic's builder of servers with the limits that [`serve`](fn@crate::serve) has: [`MAX_STREAMS`] open streams of a
/// connection, and bounds of resets and headers.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
}

/// Connections from `listener` that are let in, for `serve_with_incoming`: under STRICT mutual TLS unless the control plane says
/// otherwise of this address, as with [`serve`](fn@crate::serve), and at most [`MAX_CONNECTIONS`]. One whose peer says nothing, or asks for
/// nothing for too long, is ended (counted as `connection_ended`); hyper is told so as by the end of the stream, for this loop cannot be told to
/// drain it.
///
/// Handshakes go on in a task of their own, so that a slow one holds up no other. Dropping the stream ends it and closes
/// the listener, which is how tonic begins a graceful shutdown.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn incoming<L: Listen>(listener: L, link: &Link) -> VerifiedIncoming<L::Io> {
    let acceptor = door(link, listener.address());
    incoming_by(listener, link, acceptor)
}

/// As [`incoming`], by an acceptor that code has a word in: one that [requires mutual TLS](Acceptor::require_mutual_tls) whatever is
/// configured, say. Make it with [`Acceptor::listening_on`] the listener's address, or it goes by no configuration.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn incoming_by<L: Listen>(listener: L, link: &Link, acceptor: Acceptor) -> VerifiedIncoming<L::Io> {
    let (sender, verified) = mpsc::channel(WAITING);
    let server = Server {
        inbound: Inbound::of(link),
        counts: Arc::default(),
    };
    let task = tokio::spawn(accept(listener, acceptor, server, sender));
    VerifiedIncoming {
        verified,
        task: task.abort_handle(),
    }
}

async fn accept<L: Listen>(
    listener: L,
    acceptor: Acceptor,
    server: Server,
    sender: mpsc::Sender<VerifiedStream<L::Io>>,
) {
    let _serving = server.inbound.serving();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut incoming = Incoming::new(listener);
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = handshakes.join_next() => {}
            (place, (io, peer)) = admit(&places, &mut incoming) => {
                let (acceptor, sender, server) = (acceptor.clone(), sender.clone(), server.clone());
                let destination = incoming.destination(&io);
                handshakes.spawn(async move {
                    let accepted = match destination {
                        Some(destination) => acceptor.accept_at(io, peer, destination).await,
                        None => acceptor.accept(io, peer).await,
                    };
                    // A refusal is logged and counted by the acceptor; a closed channel means that tonic has left.
                    if let Ok(stream) = accepted {
                        let _ = sender.send(VerifiedStream::new(stream, place, &server)).await;
                    }
                });
            }
        }
    }
}

/// A place first and a connection second, so that what cannot be served stays in the kernel's backlog.
async fn admit<L: Listen>(
    places: &Arc<Semaphore>,
    incoming: &mut Incoming<L>,
) -> (OwnedSemaphorePermit, (L::Io, SocketAddr)) {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.expect("this semaphore is never closed");
    (place, incoming.next().await)
}

/// What the connections of one server have in common.
#[derive(Clone, Debug)]
struct Server {
    inbound: Arc<Inbound>,
    /// Whether its requests are counted.
    counts: Arc<AtomicBool>,
}

/// See [`incoming`].
#[derive(Debug)]
pub struct VerifiedIncoming<IO> {
    verified: mpsc::Receiver<VerifiedStream<IO>>,
    task: AbortHandle,
}

impl<IO> Stream for VerifiedIncoming<IO> {
    type Item = Result<VerifiedStream<IO>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.verified.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

impl<IO> Drop for VerifiedIncoming<IO> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection that was let in, which holds its place among [`MAX_CONNECTIONS`].
pub struct VerifiedStream<IO> {
    stream: MeshStream<IO>,
    /// Whether its peer has said anything.
    heard: Arc<AtomicBool>,
    /// Resolves when the connection is to end: drained for long enough, silent or idle for too long.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl<IO> VerifiedStream<IO> {
    fn new(mut stream: MeshStream<IO>, place: OwnedSemaphorePermit, server: &Server) -> Self {
        let (over, heard) = (stream.over(), Arc::<AtomicBool>::default());
        let live = Arc::new(Live::new(Arc::clone(&server.counts)));
        stream.connection().tell(Arc::clone(&live));
        let (inbound, spoke) = (Arc::clone(&server.inbound), Arc::clone(&heard));
        let end = async move {
            let silent = async {
                sleep(HEAD_TIMEOUT).await;
                if spoke.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            let why = tokio::select! {
                () = over => {
                    sleep(DRAIN_TIMEOUT).await;
                    return;
                }
                () = silent => "silent",
                () = live.idle(IDLE_TIMEOUT) => "idle",
            };
            inbound.tally().count("connection_ended", why);
        };
        Self {
            stream,
            heard,
            end: Box::pin(end),
            ended: false,
            _place: place,
        }
    }
}

impl<IO> fmt::Debug for VerifiedStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedStream")
            .field("connection", self.stream.connection())
            .finish_non_exhaustive()
    }
}

impl<IO> Connected for VerifiedStream<IO> {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.stream.connection().clone()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for VerifiedStream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Nothing more to read is how a connection ends for every server.
        if self.ended || self.end.as_mut().poll(cx).is_ready() {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for VerifiedStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
