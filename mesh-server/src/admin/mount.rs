//! Services that others put on the admin port, by path, and the connections that carry them.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use super::Pages;
use super::quiet::Seat;

/// How long a connection may take to begin a request, as hyper gives a request's head. Where places run out it gives way earlier.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the peer of an HTTP/2 connection is asked whether it lives; it has hyper's 20 s to say so.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// The body of an answer, whoever gave it.
pub(super) type Body = UnsyncBoxBody<Bytes, Box<dyn StdError + Send + Sync>>;

/// What is mounted where, the longest path first.
#[derive(Clone, Debug, Default)]
pub(super) struct Mounts(Vec<Mount>);

/// One service, behind one type.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    path: Arc<str>,
    service: BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>,
}

impl Mounts {
    pub(super) fn add<S, B>(&mut self, path: &str, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        assert!(path.starts_with('/'), "a path begins with a slash: {path:?}");
        let boxed = |response: Response<B>| response.map(|body| body.map_err(Into::into).boxed_unsync());
        let mount = Mount {
            path: path.trim_end_matches('/').into(),
            service: BoxCloneSyncService::new(service.map_response(boxed)),
        };
        self.0.retain(|other| other.path != mount.path);
        self.0.push(mount);
        self.0.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
    }

    pub(super) fn find(&self, path: &str) -> Option<Mount> {
        let takes = |mount: &&Mount| {
            let rest = path.strip_prefix(&*mount.path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.iter().find(takes).cloned()
    }
}

impl Mount {
    pub(super) async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        match self.service.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

pub(super) fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Serves one connection until its peer is done, does not begin, or gives way to another.
pub(super) async fn connection(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    pages: Pages,
    seat: &Arc<Seat>,
) {
    let begun = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        begun.store(true, Ordering::Relaxed);
        let (answer, asking) = (pages.clone().respond(request), seat.asks());
        async move {
            let _asking = asking;
            Ok::<_, Infallible>(answer.await)
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = seat.gives_way() => return,
        () = sleep(FIRST_REQUEST_TIMEOUT) => match begun.load(Ordering::Relaxed) {
            true => tokio::select! {
                ended = &mut connection => ended,
                () = seat.gives_way() => return,
            },
            false => return,
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended with an error");
    }
}

/// With timers, or hyper's own limits are off.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL);
    builder
}

#[cfg(test)]
mod tests {
    use mesh_core::{Link, Snapshot};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::super::quiet::Quiet;
    use super::*;
    use crate::telemetry::Inbound;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_begin_gives_its_place_back() {
        let link = Link::fixed(Snapshot::empty(), None);
        // Nothing; and what HTTP/2 begins with and HTTP/1 might, so that nothing is decided.
        for beginning in [&b""[..], b"PRI "] {
            let pages = Pages {
                inbound: Inbound::of(&link),
                link: link.clone(),
                calls_only: true,
                mounts: Mounts::default(),
                anywhere: false,
            };
            let (mut peer, io) = tokio::io::duplex(64);
            let begun = Instant::now();
            let serving = tokio::spawn(async move { connection(io, pages, &Quiet::new(1).enter()).await });
            peer.write_all(beginning).await.unwrap();
            serving.await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), FIRST_REQUEST_TIMEOUT.as_secs());
            assert_eq!(peer.read(&mut [0; 1]).await.unwrap(), 0, "closed");
        }
    }
}
