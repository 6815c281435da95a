//! A small server loop: accept, verify, serve, and end in good order.
//!
//! For whoever has no loop of their own. tonic users may keep theirs (feature `tonic`), and anybody can put an
//! [`Acceptor`] in front of hyper. What this one adds: it survives a listener that fails, bounds its connections, ends a
//! connection when a certificate behind it expires, and drains. Draining stops accepting first, then tells every peer to
//! go elsewhere (GOAWAY, `connection: close`), and waits for the calls that are in flight.

mod apart;
mod body;
mod conduct;
mod connection;
mod framing;
mod gather;
mod head;
mod listen;
mod places;
mod request;
mod roster;

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use mesh_core::Link;
use mesh_core::config::AdaptiveConcurrency;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tower::Service;

pub(crate) use body::Exchange;
pub use body::{BODY_TIMEOUT, RequestBody};
pub use conduct::IDLE_TIMEOUT;
pub use connection::{HEAD_TIMEOUT, MAX_STREAMS};
#[cfg(feature = "tonic")]
pub(crate) use connection::{MAX_ERROR_RESETS, MAX_HEADER_LIST, MAX_PENDING_RESETS};
pub(crate) use listen::Incoming;
pub use listen::Listen;

use crate::accept::Acceptor;
use crate::dangerous::Dangerous;
use crate::telemetry::Inbound;
use connection::{Connection, End};
pub(crate) use places::resident;
use places::{Memory, Places};
use request::Bodies;
use roster::Roster;

/// How long calls in flight may take to end once the server drains. Kubernetes kills a pod 30 s after it asked it to stop;
/// this leaves it time to do what else it must.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Over how long a server that drains tells its peers to go elsewhere, at most: a millisecond for each connection. Told all at once they
/// would all come back at once, to whoever is left.
pub const DRAIN_SPREAD: Duration = Duration::from_secs(2);

/// The most connections at once; further ones wait in the kernel's backlog. At some 50 KiB each for TLS and HTTP/2 they take
/// 200 MiB, and a mesh peer needs one.
pub const MAX_CONNECTIONS: usize = 4096;

/// The most requests that a server works on at once, over all its connections. What comes beyond is refused as not processed, and
/// may be sent again elsewhere. At some 10 KiB for the state of each they take 160 MiB; a service that does more for each sets less.
pub const MAX_REQUESTS: usize = 16 * 1024;

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves `service` on `listener` with the identity of `link`: under STRICT mutual TLS, unless the control plane configures
/// servers and has something else to say of this address (Istio's PeerAuthentication). It serves nobody then before it was heard
/// (gRFC A36), and follows what it says, with open connections, too.
///
/// HTTP/2 and HTTP/1.1 are served, without upgrades to other protocols (WebSocket) and without CONNECT: a connection that speaks another
/// protocol would outlive the certificate, the rules and the drain that it is bound by. What asks for one is answered as if it did not.
///
/// Await what it returns. The peer of a request is in its extensions, as a [`PeerIdentity`](crate::PeerIdentity). Dropping
/// the future closes the listener and every connection at once.
pub fn serve<L: Listen, S>(listener: L, link: &Link, service: S) -> Serving<L, S> {
    Serving {
        listener,
        service,
        link: link.clone(),
        security: Security::Configured,
        floor: false,
        inbound: Inbound::of(link),
        signal: Box::pin(pending()),
        drain_timeout: DRAIN_TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
        max_connections: MAX_CONNECTIONS,
        max_requests: MAX_REQUESTS,
        max_age: Duration::ZERO,
        body_timeout: BODY_TIMEOUT,
        max_body: usize::MAX,
        adaptive: None,
        memory: None,
        cut: Box::pin(pending()),
        notice: Duration::ZERO,
    }
}

/// Where a server has it from whom to let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    /// From the control plane, and from nobody before that has spoken.
    Configured,
    /// From the control plane, and STRICT before that has spoken.
    StrictUntilConfigured,
    /// From code, which wants plaintext.
    Plaintext,
}

/// A server that is described and not yet running: await it. See [`serve`].
#[must_use = "nothing is served until it is awaited"]
pub struct Serving<L, S> {
    listener: L,
    service: S,
    link: Link,
    security: Security,
    floor: bool,
    inbound: Arc<Inbound>,
    signal: Signal,
    drain_timeout: Duration,
    idle_timeout: Duration,
    max_connections: usize,
    max_requests: usize,
    max_age: Duration,
    body_timeout: Duration,
    max_body: usize,
    adaptive: Option<AdaptiveConcurrency>,
    memory: Option<Memory>,
    cut: Signal,
    notice: Duration,
}

impl<L, S> Serving<L, S> {
    /// Drains when `signal` resolves. Without one the server never ends by itself.
    pub fn with_graceful_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.signal = Box::pin(signal);
        self
    }

    /// Cuts what is left when `signal` resolves, whatever it waits for: what a second Ctrl-C means to whoever sits before it. What was cut
    /// is counted.
    pub fn with_immediate_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.cut = Box::pin(signal);
        self
    }

    /// Drains a connection that has been open for so long, ten percent less or more (Envoy `max_connection_duration`, gRPC
    /// `MAX_CONNECTION_AGE`), so that callers spread over servers that came later; zero keeps it. Default: it is kept, as by both, until a
    /// certificate behind it expires.
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Waits so long for a request's body that has stopped before there is an answer, at least a second; zero waits for ever, but gives the
    /// place away all the same when places run out. Default: [`BODY_TIMEOUT`]. 408, or UNAVAILABLE for gRPC.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Takes so many bytes of a request's body: 413, or RESOURCE_EXHAUSTED for gRPC, also where the service would have read none of it.
    /// Default: as many as come, since a stream has no end; a service that takes whole messages has a bound of its own (4 MiB in tonic,
    /// 2 MB in axum's extractors).
    pub fn max_request_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Works on no more requests at once than `config` finds good by how long they take ([`mesh_core::adaptive`]), and refuses the others
    /// as not processed. What is timed is until the head of the answer, so for services whose answers are streams it says little. Default:
    /// only [`max_requests`](Self::max_requests) bounds them, as in Envoy.
    pub fn adaptive_concurrency(mut self, config: AdaptiveConcurrency) -> Self {
        self.adaptive = Some(config);
        self
    }

    /// Refuses requests as not processed while the process has more than so many bytes in memory, until it has five percent less: better
    /// that some calls go elsewhere than that the operating system ends the process and all of them. Looked at fifty times a second, on
    /// Linux; elsewhere nobody is kept out. Default: not looked at. Set it to some 90 % of what a container may have.
    pub fn max_memory(self, bytes: u64) -> Self {
        self.max_memory_by(bytes, resident)
    }

    /// As [`max_memory`](Self::max_memory), where `read` tells what the process has; `None`: it cannot be told.
    pub fn max_memory_by(mut self, bytes: u64, read: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Self {
        self.memory = Some(Memory::new(bytes, Arc::new(read)));
        self
    }

    /// Waits so long for calls in flight before it cuts them. Default: [`DRAIN_TIMEOUT`].
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Drains a connection that has had no request for so long; zero keeps it. Default: [`IDLE_TIMEOUT`], as in Envoy.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Serves so many connections at once, at least one. Default: [`MAX_CONNECTIONS`].
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Works on so many requests at once, at least one; a request counts until its answer's body has ended. Default:
    /// [`MAX_REQUESTS`].
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.max_requests = requests.max(1);
        self
    }

    /// Serves on for so long after the signal, while readiness says no already: for routers that learn by it whom to send nobody to.
    /// Default: not at all, since clients of the mesh are told by GOAWAY.
    pub fn unready_before_drain(mut self, notice: Duration) -> Self {
        self.notice = notice;
        self
    }

    /// Lets nobody in without mutual TLS, whatever the control plane says: it can ask for certain clients, and for nothing
    /// less. For a service that must not be opened by a configuration, and not by other code either: it wins over `plaintext`.
    pub fn require_mutual_tls(mut self) -> Self {
        self.floor = true;
        self
    }

    /// Choices that give up the protection of the mesh.
    pub fn dangerous(self) -> Dangerous<Self> {
        Dangerous(self)
    }
}

impl<L, S> Dangerous<Serving<L, S>> {
    /// Serves without TLS, whatever the control plane says: anybody who reaches the port is answered, and no request has a
    /// peer.
    pub fn plaintext(self) -> Serving<L, S> {
        Serving {
            security: Security::Plaintext,
            ..self.0
        }
    }

    /// Serves under STRICT mutual TLS before the control plane has said anything of this server, and when it says that there
    /// is nothing to say, instead of nobody: who comes in is verified, but what else its configuration would forbid is not
    /// known.
    pub fn unconfigured(self) -> Serving<L, S> {
        Serving {
            security: Security::StrictUntilConfigured,
            ..self.0
        }
    }
}

impl<L, S, B> IntoFuture for Serving<L, S>
where
    L: Listen,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
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
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    async fn run(mut self) -> Drained {
        let mut ready = Some(self.inbound.serving());
        let mut until = Instant::now();
        let (stop, stopped) = watch::channel(None);
        let mut incoming = Incoming::new(self.listener);
        let acceptor = match self.security {
            // The stricter word of the two wins.
            Security::Plaintext if !self.floor => None,
            Security::Plaintext => Some(door(&self.link, incoming.address())),
            Security::Configured => Some(door(&self.link, incoming.address())),
            Security::StrictUntilConfigured => Some(door(&self.link, incoming.address()).dangerous().unconfigured()),
        };
        let connection = Connection {
            acceptor: acceptor.map(|door| if self.floor { door.require_mutual_tls() } else { door }),
            service: self.service,
            places: Arc::new(
                Places::new(self.max_requests)
                    .adaptive(self.adaptive, self.link.entropy())
                    .memory(self.memory),
            ),
            roster: Arc::default(),
            inbound: Arc::clone(&self.inbound),
            drain_timeout: self.drain_timeout,
            idle_timeout: self.idle_timeout,
            bodies: Bodies {
                timeout: self.body_timeout,
                most: self.max_body,
            },
            max_age: self.max_age,
            entropy: self.link.entropy().clone(),
            stop: stopped,
        };
        let places = Arc::new(Semaphore::new(self.max_connections));
        let mut door = Crowded {
            roster: Arc::clone(&connection.roster),
            held: None,
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = &mut self.cut => return cut(connections).await,
                () = &mut self.signal, if ready.is_some() => {
                    // First, so that routers learn of it while all is served yet.
                    ready = None;
                    until = Instant::now() + self.notice;
                }
                () = sleep_until(until), if ready.is_none() => break,
                // Ended ones are taken out as they end, or the set would grow with every connection ever served.
                Some(ended) = connections.join_next() => { was_cut(&ended); }
                (place, (io, peer)) = door.admit(&places, &mut incoming) => {
                    let destination = incoming.destination(&io);
                    let served = connection.clone().run(io, peer, destination);
                    connections.spawn(async move {
                        let _place = place;
                        served.await
                    });
                }
            }
        }
        drop((incoming, connection));
        // Each connection bounds its own end by the drain timeout.
        let spread = DRAIN_SPREAD.min(Duration::from_millis(connections.len() as u64));
        stop.send_replace(Some(Instant::now() + spread));
        let mut drained = Drained { cut: 0 };
        loop {
            tokio::select! {
                biased;
                ended = connections.join_next() => match ended {
                    Some(ended) => drained.cut += usize::from(was_cut(&ended)),
                    None => return drained,
                },
                () = &mut self.cut => {
                    drained.cut += cut(connections).await.cut;
                    return drained;
                }
            }
        }
    }
}

/// A door before which somebody may stand.
struct Crowded<Io> {
    roster: Arc<Roster>,
    /// Who came when no place was free.
    held: Option<(Io, SocketAddr)>,
}

/// How often a place is made while somebody waits for one and none has come free.
const MAKE_ROOM_INTERVAL: Duration = Duration::from_millis(100);

impl<Io> Crowded<Io> {
    /// A connection and its place. Cancel-safe: who stands there stays.
    async fn admit<L: Listen<Io = Io>>(
        &mut self,
        places: &Arc<Semaphore>,
        incoming: &mut Incoming<L>,
    ) -> (OwnedSemaphorePermit, (Io, SocketAddr)) {
        if self.held.is_none() {
            if let Ok(place) = Arc::clone(places).try_acquire_owned() {
                return (place, incoming.next().await);
            }
            // One more than there are places, and no more: whoever comes next stays in the kernel's backlog.
            self.held = Some(incoming.next().await);
        }
        loop {
            if let Ok(place) = Arc::clone(places).try_acquire_owned()
                && let Some(held) = self.held.take()
            {
                return (place, held);
            }
            self.roster.make_room();
            let free = Arc::clone(places).acquire_owned();
            if let Ok(Ok(place)) = timeout(MAKE_ROOM_INTERVAL, free).await
                && let Some(held) = self.held.take()
            {
                return (place, held);
            }
        }
    }
}

/// The door of a server, which the control plane knows by its address.
pub(crate) fn door(link: &Link, address: Option<SocketAddr>) -> Acceptor {
    match address {
        Some(address) => Acceptor::listening_on(link, address),
        None => Acceptor::new(link),
    }
}

/// Ends all that are open, and counts them.
async fn cut(mut connections: JoinSet<End>) -> Drained {
    connections.abort_all();
    let mut drained = Drained { cut: 0 };
    while let Some(ended) = connections.join_next().await {
        drained.cut += match ended {
            Err(error) if error.is_cancelled() => 1,
            ended => usize::from(was_cut(&ended)),
        };
    }
    drained
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
            .field("security", &self.security)
            .field("requires_mutual_tls", &self.floor)
            .field("drain_timeout", &self.drain_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_connections", &self.max_connections)
            .field("max_requests", &self.max_requests)
            .field("max_connection_age", &self.max_age)
            .field("adaptive_concurrency", &self.adaptive)
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
