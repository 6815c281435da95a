//! A small server loop: accept, verify, serve, and end in good order.
//!
//! For whoever has no loop of their own. tonic users may keep theirs (feature `tonic`), and anybody can put an
//! [`Acceptor`] in front of hyper. What this one adds: it survives a listener that fails, bounds its connections, ends a
//! connection when a certificate behind it expires, and drains. Draining stops accepting first, then tells every peer to
//! go elsewhere (GOAWAY, `connection: close`), and waits for the calls that are in flight.

mod connection;
mod listen;

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming as IncomingBody;
use mesh_core::Link;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tower::Service;

pub(crate) use listen::Incoming;
pub use listen::Listen;

use crate::accept::Acceptor;
use crate::dangerous::Dangerous;
use crate::telemetry::Inbound;
use connection::{Connection, End};

/// How long calls in flight may take to end once the server drains. Kubernetes kills a pod 30 s after it asked it to stop;
/// this leaves it time to do what else it must.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// The most connections at once; further ones wait in the kernel's backlog. At some 50 KiB each for TLS and HTTP/2 they take
/// 200 MiB, and a mesh peer needs one.
pub const MAX_CONNECTIONS: usize = 4096;

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves `service` on `listener` under STRICT mutual TLS, with the identity of `link`.
///
/// Await what it returns. The peer of a request is in its extensions, as a [`PeerIdentity`](crate::PeerIdentity). Dropping
/// the future closes the listener and every connection at once.
pub fn serve<L: Listen, S>(listener: L, link: &Link, service: S) -> Serving<L, S> {
    Serving {
        listener,
        service,
        acceptor: Some(Acceptor::new(link)),
        inbound: Inbound::of(link),
        signal: Box::pin(pending()),
        drain_timeout: DRAIN_TIMEOUT,
        max_connections: MAX_CONNECTIONS,
    }
}

/// A server that is described and not yet running: await it. See [`serve`].
#[must_use = "nothing is served until it is awaited"]
pub struct Serving<L, S> {
    listener: L,
    service: S,
    /// `None` serves plaintext.
    acceptor: Option<Acceptor>,
    inbound: Arc<Inbound>,
    signal: Signal,
    drain_timeout: Duration,
    max_connections: usize,
}

impl<L, S> Serving<L, S> {
    /// Drains when `signal` resolves. Without one the server never ends by itself.
    pub fn with_graceful_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.signal = Box::pin(signal);
        self
    }

    /// Waits so long for calls in flight before it cuts them. Default: [`DRAIN_TIMEOUT`].
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Serves so many connections at once, at least one. Default: [`MAX_CONNECTIONS`].
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Choices that give up the protection of the mesh.
    pub fn dangerous(self) -> Dangerous<Self> {
        Dangerous(self)
    }
}

impl<L, S> Dangerous<Serving<L, S>> {
    /// Serves without TLS: anybody who reaches the port is answered, and no request has a peer.
    pub fn plaintext(self) -> Serving<L, S> {
        Serving {
            acceptor: None,
            ..self.0
        }
    }
}

impl<L, S, B> IntoFuture for Serving<L, S>
where
    L: Listen,
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Output = Drained;
    type IntoFuture = Pin<Box<dyn Future<Output = Drained> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<L, S, B> Serving<L, S>
where
    L: Listen,
    S: Service<Request<IncomingBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    async fn run(mut self) -> Drained {
        let ready = self.inbound.serving();
        let (stop, stopped) = watch::channel(());
        let connection = Connection {
            acceptor: self.acceptor,
            service: self.service,
            drain_timeout: self.drain_timeout,
            stop: stopped,
        };
        let places = Arc::new(Semaphore::new(self.max_connections));
        let mut incoming = Incoming::new(self.listener);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = &mut self.signal => break,
                // Ended ones are taken out as they end, or the set would grow with every connection ever served.
                Some(ended) = connections.join_next() => { was_cut(&ended); }
                (place, (io, peer)) = admit(&places, &mut incoming) => {
                    let served = connection.clone().run(io, peer);
                    connections.spawn(async move {
                        let _place = place;
                        served.await
                    });
                }
            }
        }
        drop((ready, incoming, connection));
        // Each connection bounds its own end by the drain timeout.
        stop.send_replace(());
        let mut drained = Drained { cut: 0 };
        while let Some(ended) = connections.join_next().await {
            drained.cut += usize::from(was_cut(&ended));
        }
        drained
    }
}

/// A place first and a connection second, so that what cannot be served stays in the kernel's backlog.
pub(crate) async fn admit<L: Listen>(
    places: &Arc<Semaphore>,
    incoming: &mut Incoming<L>,
) -> (OwnedSemaphorePermit, (L::Io, std::net::SocketAddr)) {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.expect("this semaphore is never closed");
    (place, incoming.next().await)
}

fn was_cut(ended: &Result<End, JoinError>) -> bool {
    match ended {
        Ok(end) => *end == End::Cut,
        Err(error) => {
            tracing::error!(%error, "a connection's task failed");
            true
        }
    }
}

impl<L, S> fmt::Debug for Serving<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("strict", &self.acceptor.is_some())
            .field("drain_timeout", &self.drain_timeout)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    cut: usize,
}

impl Drained {
    /// How many connections were closed with calls in flight, because the drain timeout had passed.
    pub fn cut(&self) -> usize {
        self.cut
    }
}
