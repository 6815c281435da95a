//! One connection, from the handshake to its last response.

use std::error::Error as StdError;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::Service;

use crate::accept::{Acceptor, ConnectionInfo, PeerIdentity};

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
    pub(super) drain_timeout: Duration,
    pub(super) stop: watch::Receiver<()>,
}

impl<S, B> Connection<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
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
        let Some(acceptor) = self.acceptor.take() else {
            let info = ConnectionInfo::unasked(peer, destination);
            return self.serve(io, info, pending()).await;
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
        };
        match accepted {
            Ok(mut stream) => {
                let (info, over) = (stream.connection().clone(), stream.over());
                self.serve(stream, info, over).await
            }
            // Logged and counted by the acceptor.
            Err(_) => End::Closed,
        }
    }

    async fn serve<IO>(mut self, io: IO, info: ConnectionInfo, over: impl Future<Output = ()>) -> End
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = Introduced {
            inner: self.service,
            peer: info.peer(),
            info,
        };
        let builder = builder();
        let io = TokioIo::new(io);
        let mut connection = pin!(builder.serve_connection_with_upgrades(io, TowerToHyperService::new(service)));
        tokio::select! {
            ended = &mut connection => return closed(ended),
            _ = self.stop.changed() => {}
            // Who the peer is, and whether it may come in, was asked once; a connection must not outlive the answer.
            () = over => {}
        }
        connection.as_mut().graceful_shutdown();
        match timeout(self.drain_timeout, connection).await {
            Ok(ended) => closed(ended),
            Err(_) => End::Cut,
        }
    }
}

/// hyper's defaults throughout: they are what its protection against floods was tuned for. It only needs to be given a
/// timer, or else its timeout for request heads is off.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    builder
}

fn closed(ended: Result<(), Box<dyn StdError + Send + Sync>>) -> End {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended with an error");
    }
    End::Closed
}

/// Puts what is known of the connection into the extensions of each of its requests: the peer, which knows the rest, or the
/// connection where it has none. What comes when the connection is revoked is not served.
#[derive(Clone, Debug)]
struct Introduced<S> {
    inner: S,
    peer: Option<PeerIdentity>,
    info: ConnectionInfo,
}

impl<S> Service<Request<Incoming>> for Introduced<S>
where
    S: Service<Request<Incoming>>,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Response = S::Response;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = IntroducedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        if self.info.is_revoked() {
            return IntroducedFuture::Revoked;
        }
        match &self.peer {
            Some(peer) => drop(request.extensions_mut().insert(peer.clone())),
            None => drop(request.extensions_mut().insert(self.info.clone())),
        }
        IntroducedFuture::Served {
            call: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The service's answer; or none at all, to a peer that goes on after it was told to go elsewhere: HTTP/2 resets the
    /// stream as not processed (RFC 9113, 8.7), so that it may be sent again elsewhere, and HTTP/1.1 closes.
    #[project = IntroducedProjection]
    enum IntroducedFuture<F> {
        Served { #[pin] call: F },
        Revoked,
    }
}

impl<F, R, E> Future for IntroducedFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    type Output = Result<R, Box<dyn StdError + Send + Sync>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            IntroducedProjection::Served { call } => call.poll(cx).map_err(Into::into),
            IntroducedProjection::Revoked => Poll::Ready(Err(h2::Error::from(h2::Reason::REFUSED_STREAM).into())),
        }
    }
}
