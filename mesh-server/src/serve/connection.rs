//! One connection, from the handshake to its last response.

use std::error::Error as StdError;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use mesh_core::Entropy;
use mesh_core::entropy::Draw;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower::Service;

use super::apart::Apart;
use super::body::RequestBody;
use super::conduct::{Conduct, Verdict};
use super::gather::Gather;
use super::head::{Heads, LateHead};
use super::places::Places;
use super::request::{Bodies, Introduced};
use super::roster::Roster;
use crate::accept::{Acceptor, Beginning, ConnectionInfo, Peeked};
use crate::telemetry::{Early, Inbound};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, or in good order.
    Closed,
    /// With calls in flight, because its time was up.
    Cut,
}

/// What every connection of a server has in common.
#[derive(Clone, Debug)]
pub(super) struct Connection<S> {
    /// `None` serves plaintext, because code says so.
    pub(super) acceptor: Option<Acceptor>,
    pub(super) service: S,
    /// How many requests are worked on at once, over all connections.
    pub(super) places: Arc<Places>,
    pub(super) roster: Arc<Roster>,
    pub(super) inbound: Arc<Inbound>,
    pub(super) drain_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) bodies: Bodies,
    /// How long it may be open, but for the jitter; zero: for ever.
    pub(super) max_age: Duration,
    pub(super) entropy: Entropy,
    pub(super) stop: watch::Receiver<Option<Instant>>,
}

impl<S, B> Connection<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// Serves until the peer leaves, or until it is told to stop and its calls have ended.
    pub(super) async fn run<IO>(mut self, io: IO, peer: SocketAddr, destination: Option<SocketAddr>) -> End
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let conduct = Conduct::new(Arc::clone(&self.places));
        let _seat = self.roster.enter(&conduct);
        let Some(acceptor) = self.acceptor.take() else {
            let info = ConnectionInfo::unasked(peer, destination);
            return self.serve(io, info, conduct, pending()).await;
        };
        let accept = async {
            match destination {
                Some(destination) => acceptor.accept_at(io, peer, destination).await,
                None => acceptor.accept(io, peer).await,
            }
        };
        let accepted = tokio::select! {
            accepted = accept => accepted,
            // Nothing was promised to a peer in mid-handshake.
            _ = self.stop.changed() => return End::Closed,
            () = conduct.crowded() => return self.crowded_out(),
        };
        match accepted {
            Ok(mut stream) => {
                let (info, over) = (stream.connection().clone(), stream.over());
                self.serve(stream, info, conduct, over).await
            }
            // Logged and counted by the acceptor.
            Err(_) => End::Closed,
        }
    }

    fn crowded_out(&self) -> End {
        self.inbound
            .tally()
            .count("connection_ended", Verdict::CrowdedOut.as_str());
        End::Closed
    }

    async fn serve<IO>(
        mut self,
        io: IO,
        info: ConnectionInfo,
        conduct: Arc<Conduct>,
        over: impl Future<Output = ()>,
    ) -> End
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut io = Peeked::new(io);
        let mut over = pin!(over);
        let begun = tokio::select! {
            // First, here and below: what it says of the connection holds for what the peer says in the same moment.
            biased;
            // Nothing was promised to a peer that has said nothing.
            () = &mut over => return End::Closed,
            _ = self.stop.changed() => return End::Closed,
            () = conduct.crowded() => return self.crowded_out(),
            begun = timeout(HEAD_TIMEOUT, io.beginning()) => begun,
        };
        let Ok(Ok(beginning)) = begun else {
            return End::Closed;
        };
        let service = Introduced {
            inner: self.service,
            peer: info.peer(),
            info,
            conduct: Arc::clone(&conduct),
            bodies: self.bodies,
            inbound: Arc::clone(&self.inbound),
        };
        let aged = {
            let age = jittered(self.max_age, &mut self.entropy.draw());
            async move {
                match age.is_zero() {
                    true => pending().await,
                    false => sleep(age).await,
                }
            }
        };
        let mut stop = self.stop;
        let builder = builder();
        // HTTP/2 has no heads that wait: what is not whole holds nothing but its stream.
        let timed = (beginning != Beginning::Http2).then(|| Arc::clone(&conduct));
        let io = Gather::new(io.watched(Heads::new(timed)));
        // Without upgrades, which would take the connection away from all that bounds it.
        let service = TowerToHyperService::new(service);
        let mut connection = pin!(io.with(|io| builder.serve_connection(TokioIo::new(io), service)));
        let told = {
            let beside = async {
                tokio::select! {
                    biased;
                    // Who the peer is, and whether it may come in, was asked once; a connection must not outlive the answer.
                    () = &mut over => Told::Over,
                    _ = stop.changed() => Told::Stop,
                    () = aged => Told::Aged,
                    verdict = conduct.judge(self.idle_timeout) => Told::Verdict(verdict),
                }
            };
            let mut beside = pin!(Apart::new(beside));
            tokio::select! {
                biased;
                told = &mut beside => told,
                ended = &mut connection => return closed(ended, &self.inbound),
            }
        };
        let reason = match told {
            Told::Over | Told::Stop => None,
            Told::Aged => Some("max_age"),
            Told::Verdict(verdict) => Some(verdict.as_str()),
        };
        if let Some(reason) = reason {
            self.inbound.tally().count("connection_ended", reason);
        }
        if let Told::Verdict(verdict @ (Verdict::Stalled | Verdict::PrematureResets)) = told {
            tracing::warn!(
                reason = verdict.as_str(),
                "ending the connection of a peer that misbehaves"
            );
            return End::Closed;
        }
        let (is_over, crowded) = (told == Told::Over, told == Told::Verdict(Verdict::CrowdedOut));
        let (begun, mut drain_timeout) = (Instant::now(), self.drain_timeout);
        if crowded {
            // It asks for nothing, and need not be waited for.
            drain_timeout = drain_timeout.min(CROWDED_GRACE);
        }
        // Told one after the other, or all peers would come back at once, to whoever is left.
        let told_at = *stop.borrow_and_update();
        if let Some(spread) = told_at.and_then(|until| until.checked_duration_since(begun)) {
            let nanoseconds = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
            let wait = Duration::from_nanos(self.entropy.draw().below(nanoseconds));
            tokio::select! {
                biased;
                () = &mut over, if !is_over => {}
                ended = timeout(wait, &mut connection) => if let Ok(ended) = ended {
                    return closed(ended, &self.inbound);
                }
            }
        }
        connection.as_mut().connection().graceful_shutdown();
        match timeout_at(begun + drain_timeout, connection).await {
            _ if crowded => End::Closed,
            Ok(ended) => closed(ended, &self.inbound),
            Err(_) => End::Cut,
        }
    }
}

/// Why a connection takes no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// What let its peer in holds no more.
    Over,
    /// Its server stops.
    Stop,
    Aged,
    Verdict(Verdict),
}

/// How long a connection that gives way may take to say so.
const CROWDED_GRACE: Duration = Duration::from_secs(1);

/// Ages differ by so many percent, less or more (gRPC: ±10 %), so that connections that were made at once do not end at once.
const AGE_JITTER_PERCENT: u32 = 10;

fn jittered(age: Duration, draw: &mut Draw) -> Duration {
    let part = age / 100 * AGE_JITTER_PERCENT;
    let most = u64::try_from(2 * part.as_nanos()).unwrap_or(u64::MAX);
    age - part + Duration::from_nanos(draw.below(most))
}

/// The most streams of one connection at once, which the peer is told; what it opens beyond is refused as not processed.
pub const MAX_STREAMS: u32 = 200;

/// How long a peer may take from the handshake to what tells its protocol, and from the first byte of an HTTP/1.1 request's head to
/// its last. Clients of HTTP/2 begin at once, those of HTTP/1.1 with their first request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an HTTP/1.1 connection may wait for its next request.
const HTTP1_HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The most of an HTTP/1.1 connection that is read and not taken yet, in bytes, and with that the longest head: 431 for a longer one. What
/// HTTP/2 counts against [`MAX_HEADER_LIST`] is shorter on the wire, and clients of HTTP/1.1 are mostly browsers and proxies.
const MAX_HTTP1_BUFFER: usize = 64 * 1024;

/// The most headers of an HTTP/1.1 request (hyper's default, written out).
const MAX_HTTP1_HEADERS: usize = 100;

/// The longest list of headers of HTTP/2 in bytes (RFC 9113, 6.5.2), continuations included.
pub(crate) const MAX_HEADER_LIST: u32 = 16 * 1024;

/// Streams that the peer has reset and nobody has looked at yet (CVE-2023-44487): the next one ends the connection.
pub(crate) const MAX_PENDING_RESETS: usize = 20;

/// Streams of one connection that were reset for an error of the peer's (CVE-2025-8671): the next one ends the connection.
pub(crate) const MAX_ERROR_RESETS: usize = 1024;

/// These are hyper's own values, which its protection against floods was tuned for, written out so that an update changes none of
/// them unseen. It needs to be given a timer, or else its timeout for request heads is off.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP1_HEAD_TIMEOUT)
        .max_buf_size(MAX_HTTP1_BUFFER)
        .max_headers(MAX_HTTP1_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS);
    builder
}

/// A connection ended by itself. Where its last request was none, hyper has answered that, and tells nobody but by this error.
fn closed(ended: Result<(), Box<dyn StdError + Send + Sync>>, inbound: &Inbound) -> End {
    if let Err(error) = ended {
        if let Some(why) = error.downcast_ref().and_then(refused) {
            inbound.refused(why);
        }
        tracing::debug!(%error, "connection ended with an error");
    }
    End::Closed
}

/// Why hyper took no request for one.
fn refused(error: &hyper::Error) -> Option<Early> {
    if error.is_parse_too_large() {
        return Some(Early::HeadTooLarge);
    }
    if error.is_parse() {
        return Some(Early::Malformed);
    }
    let source = error.source()?.downcast_ref::<io::Error>()?;
    let is_late = source.get_ref().is_some_and(|inner| inner.is::<LateHead>());
    is_late.then_some(Early::HeadTooSlow)
}
