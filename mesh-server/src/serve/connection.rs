//! One connection, from the handshake to its last response.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tower::Service;

use crate::accept::{Acceptor, PeerIdentity};

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
    /// `None` serves plaintext.
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
    pub(super) async fn run<IO>(mut self, io: IO, peer: SocketAddr) -> End
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(acceptor) = self.acceptor.take() else {
            return self.serve(io, None, Duration::MAX).await;
        };
        let accepted = tokio::select! {
            accepted = acceptor.accept(io, peer) => accepted,
            // Nothing was promised to a peer in mid-handshake.
            _ = self.stop.changed() => return End::Closed,
        };
        match accepted {
            Ok(stream) => {
                let (identity, valid_for) = (stream.peer().clone(), stream.valid_for());
                self.serve(stream, Some(identity), valid_for).await
            }
            // Logged and counted by the acceptor.
            Err(_) => End::Closed,
        }
    }

    async fn serve<IO>(mut self, io: IO, peer: Option<PeerIdentity>, valid_for: Duration) -> End
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = Introduced {
            inner: self.service,
            peer,
        };
        let builder = builder();
        let io = TokioIo::new(io);
        let mut connection = pin!(builder.serve_connection_with_upgrades(io, TowerToHyperService::new(service)));
        tokio::select! {
            ended = &mut connection => return closed(ended),
            _ = self.stop.changed() => {}
            // TLS checks a certificate once; a connection must not outlive it.
            () = sleep(valid_for) => tracing::debug!("connection outlived a certificate: draining"),
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

/// Puts the peer into the extensions of each request of its connection.
#[derive(Clone, Debug)]
struct Introduced<S> {
    inner: S,
    peer: Option<PeerIdentity>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Introduced<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        self.inner.call(request)
    }
}
