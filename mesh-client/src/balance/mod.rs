//! The innermost room: picks a host, gets a connection, opens the stream and writes from the caller's task.
//!
//! It reads the *newest* host set of the call's cluster on each try (the one exception to "configuration is loaded once":
//! gRFC A44), so that a retry meets hosts as they are now. In the common case everything up to the queued frames happens in
//! the first poll, without waiting, allocating or crossing to another task.

mod answered;
mod connecting;
mod future;
mod outside;
mod pick;
mod pump;
mod refused;
mod send;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::Authority;
use http::{Request, Response};
use http_body::Body;
use mesh_core::Link;
use mesh_core::config::TlsOrigination;
use tower::Service;

use crate::body::ResponseBody;
use crate::cluster::ClusterManager;
use crate::error::Error;
use crate::request::Attempt;

pub use future::BalanceFuture;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Balance {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manager: Arc<ClusterManager>,
    /// For requests that name no authority: the target's name.
    authority: Option<Authority>,
    allowed: Allowed,
}

/// What the application allowed of what weakens the mesh's promises.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) plaintext: bool,
    /// Servers outside of the mesh although peers in it are pinned.
    pub(crate) outside: bool,
    /// Servers outside of the mesh of which nobody asks who they are.
    pub(crate) unverified: bool,
    /// Whether peers are pinned.
    pinned: bool,
}

impl Allowed {
    fn outside(self, outside: &TlsOrigination) -> bool {
        (self.unverified || !outside.unverified) && (self.outside || !self.pinned)
    }
}

impl Balance {
    /// Calls the clusters that `link` knows. Requests without an authority get that of `target`.
    ///
    /// Clusters that do not ask for mutual TLS are refused; see [`Dangerous`](crate::channel::Dangerous).
    ///
    /// # Panics
    ///
    /// As [`RouteLayer::new`](crate::route::RouteLayer::new).
    pub fn new(link: &Link, target: &str) -> Self {
        Self::allowing(link, target, Allowed::default())
    }

    pub(crate) fn allowing(link: &Link, target: &str, allowed: Allowed) -> Self {
        let name = crate::target::authority(target);
        let shared = Shared {
            manager: ClusterManager::of(link),
            authority: Authority::try_from(name).ok(),
            allowed: Allowed {
                pinned: link.pins().are_set(),
                ..allowed
            },
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl<B> Service<Request<Attempt<B>>> for Balance
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = BalanceFuture<B>;

    /// Always ready: the destination is not known before the request is, so waiting happens in the future, under the try's
    /// time.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<Attempt<B>>) -> BalanceFuture<B> {
        self.begin(&mut Some(request))
    }
}

impl Balance {
    /// Begins a try, whose request is taken from where it is.
    #[inline]
    pub(crate) fn begin<B>(&self, request: &mut Option<Request<Attempt<B>>>) -> BalanceFuture<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display + Send,
    {
        BalanceFuture::begin(request, &self.shared)
    }
}
