//! Serves ADS streams out of a [`SnapshotCache`]; IO only.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request as HttpRequest, Response as HttpResponse};
use tokio::sync::{mpsc, watch};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Extensions, Status};
use tower::Service;

use super::ads::StreamState;
use super::cache::SnapshotCache;
use super::clients::{ClientReport, Registered};
use super::encoded::Encoded;
use super::peer::Peer;
use crate::encode::Dialect;
use crate::node::Node;
use crate::proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use crate::wire::{self, Adapter, Requests, Response, Responses};

/// How long a client may keep a stream open without saying who it is.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Who opens a stream.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it says it is. Believe nothing of it that `peer` does not confirm.
    pub node: Arc<Node>,
    /// Who its connection says it is.
    pub peer: Peer,
}

/// A caller that is not served, and why. It is told so with PERMISSION_DENIED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Box<str>);

impl Refusal {
    /// For this reason, which the caller is told.
    pub fn new(reason: impl Into<Box<str>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Decides which group of the cache a caller is told about.
pub trait Grouping: Send + Sync + 'static {
    /// The caller's group.
    ///
    /// # Errors
    ///
    /// When it is not to be served.
    fn group(&self, caller: &Caller) -> Result<Arc<str>, Refusal>;
}

impl<F> Grouping for F
where
    F: Fn(&Caller) -> Result<Arc<str>, Refusal> + Send + Sync + 'static,
{
    fn group(&self, caller: &Caller) -> Result<Arc<str>, Refusal> {
        self(caller)
    }
}

/// The `AggregatedDiscoveryService` of a control plane, for tonic's router. State of the world only: delta streams are
/// answered UNIMPLEMENTED.
///
/// Served over [`Io`](super::Io), it knows its callers' certificates.
#[derive(Clone, Debug)]
pub struct AdsService {
    inner: AggregatedDiscoveryServiceServer<Adapter<Streams>>,
}

impl AdsService {
    /// Serves `cache`, each caller its group.
    pub fn new(cache: SnapshotCache, grouping: impl Grouping) -> Self {
        let streams = Streams {
            cache,
            grouping: Arc::new(grouping),
        };
        Self {
            inner: wire::service(streams),
        }
    }
}

impl NamedService for AdsService {
    const NAME: &'static str = <AggregatedDiscoveryServiceServer<Adapter<Streams>> as NamedService>::NAME;
}

impl Service<HttpRequest<Body>> for AdsService {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<HttpRequest<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        self.inner.call(request)
    }
}

struct Streams {
    cache: SnapshotCache,
    grouping: Arc<dyn Grouping>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl wire::Serve for Streams {
    fn begin(&self, extensions: &Extensions, requests: Requests) -> Result<Responses, Status> {
        let peer = extensions.get::<Peer>().cloned().unwrap_or_default();
        let (sender, receiver) = mpsc::channel(1);
        let (cache, grouping) = (self.cache.clone(), Arc::clone(&self.grouping));
        // Ends with the client's half of the stream, when the receiver is dropped, or when the cache is closed.
        tokio::spawn(async move {
            let ended = serve(&cache, &*grouping, peer, requests, &sender).await;
            if let Err(status) = ended {
                drop(sender.send(Err(status)).await);
            }
        });
        Ok(receiver)
    }
}

type Sender = mpsc::Sender<Result<Response, Status>>;

async fn serve(
    cache: &SnapshotCache,
    grouping: &dyn Grouping,
    peer: Peer,
    mut requests: Requests,
    sender: &Sender,
) -> Result<(), Status> {
    let first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, requests.next()).await;
    let late = |_| Status::deadline_exceeded("the first request did not come");
    let Some(first) = first.map_err(late)? else {
        return Ok(());
    };
    let node = first.node.clone().unwrap_or_default();
    let caller = Caller { node, peer };
    let group = grouping
        .group(&caller)
        .map_err(|refusal| Status::permission_denied(refusal.to_string()))?;
    let closed = || Status::unavailable("the control plane is shutting down");
    let published = cache.watch(&group).ok_or_else(closed)?;
    let registered = cache.registry().add(ClientReport {
        stream: 0,
        node: Arc::clone(&caller.node),
        peer: caller.peer.identity,
        address: caller.peer.address,
        group,
        subscriptions: Vec::new(),
    });
    let mut state = StreamState::new(Dialect::of(&caller.node.user_agent));
    state.on_request(first);
    talk(state, published, requests, sender, &registered)
        .await
        .map_err(|Closed| closed())
}

/// The cache was closed.
struct Closed;

async fn talk(
    mut state: StreamState,
    mut published: watch::Receiver<Option<Arc<Encoded>>>,
    mut requests: Requests,
    sender: &Sender,
    registered: &Registered,
) -> Result<(), Closed> {
    // Whether there may be something to send: asked once after each event.
    let mut stale = true;
    loop {
        registered.update(state.report());
        tokio::select! {
            room = sender.reserve(), if stale => {
                let Ok(room) = room else { return Ok(()) };
                let newest = published.borrow_and_update().clone();
                match newest.and_then(|newest| state.next_response(&newest)) {
                    Some(response) => room.send(Ok(response)),
                    None => stale = false,
                }
            }
            request = requests.next() => match request {
                Some(request) => {
                    state.on_request(request);
                    stale = true;
                }
                None => return Ok(()),
            },
            changed = published.changed() => match changed {
                Ok(()) => stale = true,
                Err(_) => return Err(Closed),
            },
        }
    }
}
