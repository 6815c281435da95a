//! The discovery services of a control plane, aggregated and of one type each, and who is told what.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use super::cache::SnapshotCache;
use super::peer::Peer;
use super::stream::Streams;
use crate::node::Node;
use crate::wire::{self, AdsServer};

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

/// All discovery services of a control plane for tonic's router: the aggregated one, and those of listeners, routes, clusters,
/// endpoints and extensions alone (LDS, RDS, CDS, EDS, ECDS), each in both variants. `Fetch*`, the variant without a stream, is UNIMPLEMENTED.
///
/// A stream of one type follows the rules of the aggregated one, but nobody can promise an order among streams: a client
/// that wants a cluster before the route to it (make before break) asks on one aggregated stream.
///
/// ```no_run
/// # async fn serve(cache: mesh_xds::server::SnapshotCache) -> Result<(), tonic::transport::Error> {
/// use mesh_xds::server::{Caller, DiscoveryServices};
///
/// let services = DiscoveryServices::new(cache, |_: &Caller| Ok("everybody".into()));
/// let router = tonic::transport::Server::builder().add_routes(services.into_routes());
/// router.serve(([127, 0, 0, 1], 15010).into()).await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DiscoveryServices {
    streams: Streams,
}

impl DiscoveryServices {
    /// Serves `cache`, each caller its group.
    pub fn new(cache: SnapshotCache, grouping: impl Grouping) -> Self {
        Self {
            streams: Streams::new(cache, Box::new(grouping), false),
        }
    }

    /// The same for callers alone whose connection shows a verified certificate ([`Peer::identity`](Peer)). Anybody else is
    /// told PERMISSION_DENIED before a word is said, takes no place, and makes nobody wait: a port that lets strangers in for
    /// another service is one that they can flood.
    pub fn authenticated(cache: SnapshotCache, grouping: impl Grouping) -> Self {
        Self {
            streams: Streams::new(cache, Box::new(grouping), true),
        }
    }

    /// The services, to be mounted. All of them together keep to the bounds of one.
    pub fn into_routes(self) -> Routes {
        wire::routes(self.streams)
    }
}

/// The `AggregatedDiscoveryService` alone, for tonic's router, in both variants: state of the world and incremental.
///
/// Served over [`Io`](super::Io), it knows its callers' certificates.
#[derive(Clone, Debug)]
pub struct AdsService {
    inner: AdsServer<Streams>,
}

impl AdsService {
    /// Serves `cache`, each caller its group.
    pub fn new(cache: SnapshotCache, grouping: impl Grouping) -> Self {
        Self {
            inner: wire::service(Streams::new(cache, Box::new(grouping), false)),
        }
    }
}

impl NamedService for AdsService {
    const NAME: &'static str = <AdsServer<Streams> as NamedService>::NAME;
}

impl Service<Request<Body>> for AdsService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.inner.call(request)
    }
}
