//! `Channel`: the default assembly of the rooms. Their order is decided here and nowhere else.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::Link;
use tower::layer::util::{Identity, Stack};
use tower::{Layer, Service, ServiceBuilder};

use crate::attempt::{AttemptLayer, AttemptService};
use crate::balance::{Allowed, Balance};
use crate::body::ResponseBody;
use crate::cluster::{AlreadyRunning, ClusterManager, is_on_its_way, with_connector};
use crate::connect::Connect;
use crate::deadline::{DeadlineLayer, DeadlineService};
use crate::erase::Rooms;
use crate::error::Error;
use crate::fault::{FaultLayer, FaultService};
use crate::mirror::{MirrorLayer, MirrorService};
use crate::request::{Attempt, Routed};
use crate::retry::{RetryLayer, RetryService};
use crate::rewrite::{RewriteLayer, RewriteService};
use crate::route::{RouteLayer, RouteService, heard_of};
use crate::status::{StatusLayer, StatusService};
use crate::straight::{Below, Straight};
use crate::telemetry::{TelemetryLayer, TelemetryService};
use crate::wait::until;

pub use crate::straight::CallFuture;

/// The rooms that the application may add to, erased; and around them those that it may not.
pub(crate) type All<B> = StatusService<RouteService<TelemetryService<DeadlineService<Rooms<B>>>>>;

/// What an application calls: a `tower::Service` that takes HTTP requests to a target of the mesh.
///
/// Any generated tonic client takes one, and so does anything else that speaks `http`. Cheap to clone; clones and all other
/// channels of the same [`Link`] share connections, budgets and counters. `B` is the request body and is usually inferred.
///
/// An endpoint is called over one connection, and over up to ten when the peer's stream limit is reached (100 to 250 streams
/// each, as most servers have it); a call beyond that fails at once with the flag `UO` rather than queue without a bound.
///
/// A gRPC call that fails in the mesh is an ordinary response with its `grpc-status`; any other request gets an [`Error`].
/// Dropping a call's future or its response body cancels it at the peer.
pub struct Channel<B> {
    service: All<B>,
    /// The same rooms as one, where the application put none among them.
    straight: Option<Straight>,
    route: RouteLayer,
}

impl<B> Channel<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: fmt::Display + Send,
{
    /// A channel to `target` (`xds:///name`, or just `name`) with the default rooms.
    ///
    /// Returns at once; configuration and connections are waited for by the calls, within their deadlines, or by
    /// [`ready`](Self::ready).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, if this is the first channel of `link`.
    pub fn new(link: &Link, target: &str) -> Self {
        Self::builder(link, target).build()
    }

    /// A channel with layers of the application's own, or with plaintext allowed.
    pub fn builder(link: &Link, target: &str) -> ChannelBuilder<B> {
        ChannelBuilder {
            link: link.clone(),
            target: target.into(),
            allowed: Allowed::default(),
            per_call: Identity::new(),
            per_attempt: Identity::new(),
            body: PhantomData,
        }
    }

    /// Waits until something definite is known of the target, routes or that there are none, and of the workload's identity.
    ///
    /// Without a limit of its own: bound it with `tokio::time::timeout`. Cancel safe.
    pub async fn ready(&self) {
        heard_of(self.route.selector()).await;
        until(self.route.identity(), |standing| !is_on_its_way(standing)).await;
    }
}

/// Collects what a [`Channel`] is made of.
#[derive(Clone, Debug)]
pub struct ChannelBuilder<B, C = Identity, A = Identity> {
    link: Link,
    target: Arc<str>,
    allowed: Allowed,
    per_call: C,
    per_attempt: A,
    body: PhantomData<fn(B)>,
}

impl<B, C, A> ChannelBuilder<B, C, A> {
    /// Adds a layer above retry: it sees each call once, with the route chosen, before faults are injected and headers edited. A later one stands further in.
    pub fn per_call<L>(self, layer: L) -> ChannelBuilder<B, Stack<L, C>, A> {
        let Self {
            link,
            target,
            allowed,
            per_call,
            per_attempt,
            body,
        } = self;
        ChannelBuilder {
            link,
            target,
            allowed,
            per_call: Stack::new(layer, per_call),
            per_attempt,
            body,
        }
    }

    /// Adds a layer below retry: it sees each try. A later one stands further in.
    ///
    /// What it makes may have a readiness of its own, as tower's `ConcurrencyLimit` has. The first try is made when the channel was polled
    /// ready, which is waited for outside of the call's time; each further one waits for it within the try's time and the call's.
    pub fn per_attempt<L>(self, layer: L) -> ChannelBuilder<B, C, Stack<L, A>> {
        let Self {
            link,
            target,
            allowed,
            per_call,
            per_attempt,
            body,
        } = self;
        ChannelBuilder {
            link,
            target,
            allowed,
            per_call,
            per_attempt: Stack::new(layer, per_attempt),
            body,
        }
    }

    /// Opens what weakens the mesh's promises.
    pub fn dangerous(self) -> Dangerous<B, C, A> {
        Dangerous { builder: self }
    }

    /// Puts the rooms together.
    ///
    /// # Panics
    ///
    /// As [`Channel::new`].
    pub fn build<S, T>(self) -> Channel<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: fmt::Display + Send,
        A: Layer<Balance, Service = S> + Clone + Send + Sync + 'static,
        S: Service<Request<Attempt<B>>, Response = Response<ResponseBody>, Error = Error>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        C: Layer<FaultService<RewriteService<RetryService<MirrorService<AttemptService<S>>>>>, Service = T>,
        T: Service<Request<Routed<B>>, Response = Response<ResponseBody>, Error = Error>,
        T: Clone + Send + Sync + 'static,
        T::Future: Send + 'static,
    {
        let route = RouteLayer::new(&self.link, &self.target);
        let balance = Balance::allowing(&self.link, &self.target, self.allowed);
        let telemetry = TelemetryLayer::new(&self.target);
        let below = ServiceBuilder::new()
            // The application's own, within the deadline and before the first try.
            .layer(self.per_call)
            // Before anything is done for the call, and once: what is ended here is not edited, mirrored or retried (Envoy's
            // fault filter stands before its router). Within the deadline, of which a delay uses up all but the route's timeout.
            .layer(FaultLayer::new(&self.link, &self.target))
            // Above retry: all tries send the same head. It sees the answer that is committed to.
            .layer(RewriteLayer::new(&self.target))
            // Above attempt: each try gets a fresh one of what is below.
            .layer(RetryLayer::new(&self.link))
            // Below retry, which knows by then whether the body is whole, and below rewrite: the copy has the head that is sent.
            .layer(MirrorLayer::new(&self.link, &self.target, balance.clone()))
            // The limit of one try holds for picking, connecting and sending.
            .layer(AttemptLayer::new(&self.link))
            .layer(self.per_attempt)
            // Innermost: the destination is chosen here, so connections are made here.
            .service(balance);
        // Only rooms of ours have this type: there is no layer of the application's among them.
        let straight = (&below as &dyn Any).downcast_ref::<Below>().map(|below| {
            let alarms = Arc::clone(ClusterManager::of(&self.link).alarms());
            Straight::new(route.clone(), telemetry.clone(), alarms, below.clone())
        });
        let service = ServiceBuilder::new()
            // Outermost of the rooms, since it must see every failure, whichever room it comes from.
            .layer(StatusLayer)
            // Everything below depends on which route took the call.
            .layer(route.clone())
            // Above deadline: whatever ends a call below is an end to be counted, and all its tries are one call.
            .layer(telemetry)
            // Above retry: the limit is for all tries together.
            .layer(DeadlineLayer::new(&self.link))
            // Erased once, here: the rooms below are one future in one allocation. Those above have no types of the
            // application's in them, and what they add to the future need not be moved into it.
            .layer_fn(Rooms::new)
            .service(below);
        Channel {
            service,
            straight,
            route,
        }
    }
}

/// Settings that weaken the mesh's promises, named so that a reader of the code sees it.
#[derive(Clone, Debug)]
pub struct Dangerous<B, C, A> {
    builder: ChannelBuilder<B, C, A>,
}

impl<B, C, A> Dangerous<B, C, A> {
    /// Calls clusters that do not ask for mutual TLS in the clear. Clusters that do are still called with it, and a failed
    /// handshake never falls back.
    pub fn plaintext(mut self) -> ChannelBuilder<B, C, A> {
        self.builder.allowed.plaintext = true;
        self.builder
    }

    /// Calls servers outside of the mesh, over TLS and with their certificates checked, although the application pinned whom it
    /// calls ([`Pins`](mesh_core::identity::Pins)): a control plane that lies could lead a call of the mesh out of it.
    /// Where nothing is pinned they are called without this.
    pub fn outside(mut self) -> ChannelBuilder<B, C, A> {
        self.builder.allowed.outside = true;
        self.builder
    }

    /// Calls servers outside of the mesh whose certificates the configuration does not want checked (Istio
    /// `insecureSkipVerify`): whoever is in between reads along.
    pub fn unverified(mut self) -> ChannelBuilder<B, C, A> {
        self.builder.allowed.unverified = true;
        self.builder
    }
}

/// Replaces TCP for every connection of `link`: a simulator's network, a proxy, a test's pipe. To wrap the default, wrap
/// [`Tcp`](crate::connect::Tcp).
///
/// # Errors
///
/// When `link` has channels already: connections are shared, and so is what makes them.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn use_connector(link: &Link, connector: impl Connect) -> Result<(), AlreadyRunning> {
    with_connector(link, Arc::new(connector))
}

impl<B> Service<Request<B>> for Channel<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = CallFuture;

    /// Ready when the application's own layers are, and at once where there are none: the destination is chosen by the request.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> CallFuture {
        match &self.straight {
            Some(straight) => straight.call(request, &mut self.service),
            None => CallFuture::whole(self.service.call(request)),
        }
    }
}

impl<B> Clone for Channel<B> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            straight: self.straight.clone(),
            route: self.route.clone(),
        }
    }
}

impl<B> fmt::Debug for Channel<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}
