//! What a request has become on its way through the rooms.
//!
//! What one room needs from an earlier one is in the request's *type*: [`Routed`] and [`Attempt`] are bodies, so each room is
//! a `Service<http::Request<...>>`, leaving out the route room does not compile, and a layer that only looks at heads fits
//! between any two. Nothing travels in the request's extensions.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mesh_core::config::{ClusterName, Route};

use crate::cluster::{ClusterHandle, Extras};

pin_project_lite::pin_project! {
    /// A request body with the decision that was made for it: which route took it, and which cluster of its split.
    ///
    /// It holds the route and the live cluster, not the snapshot: a long stream pins no old configuration.
    #[derive(Debug)]
    pub struct Routed<B> {
        #[pin]
        body: B,
        call: Call,
        waited: Duration,
    }
}

/// The decision, which all tries of a call share.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) route: Arc<Route>,
    pub(crate) cluster: Arc<ClusterHandle>,
    /// What else the route asks for.
    pub(crate) extras: Option<Arc<Extras>>,
}

impl<B> Routed<B> {
    pub(crate) fn new(body: B, call: Call, waited: Duration) -> Self {
        Self { body, call, waited }
    }

    pub(crate) fn extras(&self) -> Option<&Arc<Extras>> {
        self.call.extras.as_ref()
    }

    pub(crate) fn into_parts(self) -> (B, Call) {
        (self.body, self.call)
    }

    /// How long the call waited for its target's first configuration. It counts against the call's time.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// The route that took the request.
    pub fn route(&self) -> &Route {
        &self.call.route
    }

    /// The cluster that was chosen, once, for all tries.
    pub fn cluster(&self) -> &ClusterName {
        self.call.cluster.name()
    }
}

impl<B: Body> Body for Routed<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of one try.
///
/// A body that was whole when the call began can be sent as often as need be. A streaming one can be sent once: it is handed
/// from try to try until one of them opens a stream, and taken then.
#[derive(Debug)]
pub struct Attempt<B> {
    pub(crate) payload: Payload<B>,
    pub(crate) call: Call,
    pub(crate) number: u32,
    pub(crate) tried: Tried,
}

#[derive(Debug)]
pub(crate) enum Payload<B> {
    Whole(Bytes),
    Streaming(Arc<OnceBody<B>>),
}

impl<B> Clone for Payload<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Whole(bytes) => Self::Whole(bytes.clone()),
            Self::Streaming(once) => Self::Streaming(Arc::clone(once)),
        }
    }
}

/// A streaming body with what was read of it already, to be taken once.
#[derive(Debug)]
pub(crate) struct OnceBody<B>(Mutex<Option<(Vec<Frame<Bytes>>, B)>>);

impl<B> OnceBody<B> {
    pub(crate) fn new(first: Vec<Frame<Bytes>>, rest: B) -> Self {
        Self(Mutex::new(Some((first, rest))))
    }

    pub(crate) fn take(&self) -> Option<(Vec<Frame<Bytes>>, B)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn is_untouched(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// The endpoints that earlier tries of a call went to. Empty, and without an allocation, on the first.
pub(crate) type Tried = Vec<std::net::SocketAddr>;

impl<B> Attempt<B> {
    pub(crate) fn first(payload: Payload<B>, call: Call) -> Self {
        Self {
            payload,
            call,
            number: 1,
            tried: Tried::new(),
        }
    }

    /// Which try this is; the first is 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The route that took the request.
    pub fn route(&self) -> &Route {
        &self.call.route
    }

    /// The cluster that this and every other try of the call goes to.
    pub fn cluster(&self) -> &ClusterName {
        self.call.cluster.name()
    }
}
