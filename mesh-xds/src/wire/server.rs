//! The serving half of xDS: ADS, and the services of one type each.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Extensions, Status, Streaming};
use tower::Service;

use super::method::{Answering, is_of_a_message, streaming};
use super::{Delta, Sotw, Variant};
use crate::resource::ResourceKind;

/// What serves streams.
pub(crate) trait Serve: Send + Sync + 'static {
    /// The call of a stream, before anything is read of it.
    fn watch(&self, request: Request<Body>) -> Request<Body> {
        request
    }

    /// Begins a state-of-the-world stream of the connection with these extensions; responses are pulled out of what it
    /// returns.
    fn begin(&self, extensions: &Extensions, requests: Requests<Sotw>) -> Result<Responses<Sotw>, Status>;

    /// Begins an incremental one.
    fn begin_delta(&self, extensions: &Extensions, requests: Requests<Delta>) -> Result<Responses<Delta>, Status>;
}

/// What a stream's client says.
pub(crate) struct Requests<V: Variant> {
    messages: Streaming<V::RequestMessage>,
    only: Option<ResourceKind>,
}

/// What a stream's client is told. One waits; the next is made when that one is taken.
pub(crate) type Responses<V> = mpsc::Receiver<Result<<V as Variant>::Response, Status>>;

impl<V: Variant> Requests<V> {
    /// The kind of resource that the service is of; `None` for the aggregated one.
    pub(crate) fn only(&self) -> Option<ResourceKind> {
        self.only
    }

    /// The next request, or `None` when the client is done or gone. Cancelling the wait loses nothing.
    ///
    /// # Errors
    ///
    /// What the client is to be told of a message that cannot be taken. There is no other after it.
    pub(crate) async fn next(&mut self) -> Result<Option<V::Request>, Status> {
        match self.messages.message().await {
            Ok(message) => Ok(message.map(Into::into)),
            Err(status) if is_of_a_message(&status) => Err(status),
            Err(_) => Ok(None),
        }
    }
}

/// A service: its name, its methods and what it serves.
pub(crate) trait Offer: 'static {
    const NAME: &'static str;
    const SOTW: &'static str;
    const DELTA: &'static str;
    /// `None`: all.
    const ONLY: Option<ResourceKind>;
}

macro_rules! offers {
    ($($offer:ident: $name:literal $noun:literal $only:expr;)*) => {$(
        #[derive(Debug)]
        pub(crate) enum $offer {}

        impl Offer for $offer {
            const NAME: &'static str = $name;
            const SOTW: &'static str = concat!("/", $name, "/Stream", $noun);
            const DELTA: &'static str = concat!("/", $name, "/Delta", $noun);
            const ONLY: Option<ResourceKind> = $only;
        }
    )*};
}

offers! {
    Aggregated: "envoy.service.discovery.v3.AggregatedDiscoveryService" "AggregatedResources" None;
    Listeners: "envoy.service.listener.v3.ListenerDiscoveryService" "Listeners" Some(ResourceKind::Listener);
    RouteTrees: "envoy.service.route.v3.RouteDiscoveryService" "Routes" Some(ResourceKind::Route);
    Clusters: "envoy.service.cluster.v3.ClusterDiscoveryService" "Clusters" Some(ResourceKind::Cluster);
    EndpointLists: "envoy.service.endpoint.v3.EndpointDiscoveryService" "Endpoints" Some(ResourceKind::Endpoints);
    ExtensionConfigs: "envoy.service.extension.v3.ExtensionConfigDiscoveryService" "ExtensionConfigs" Some(ResourceKind::ExtensionConfig);
}

/// A service around a [`Serve`]. `Fetch*`, and what else there is not, is UNIMPLEMENTED.
pub(crate) struct DiscoveryServer<S, O> {
    serve: Arc<S>,
    offer: PhantomData<fn() -> O>,
}

/// The aggregated one.
pub(crate) type AdsServer<S> = DiscoveryServer<S, Aggregated>;

/// The aggregated service around `serve`.
pub(crate) fn service<S: Serve>(serve: S) -> AdsServer<S> {
    DiscoveryServer::new(&Arc::new(serve))
}

/// All services around `serve`.
pub(crate) fn routes<S: Serve>(serve: S) -> Routes {
    let serve = Arc::new(serve);
    Routes::new(DiscoveryServer::<S, Aggregated>::new(&serve))
        .add_service(DiscoveryServer::<S, Listeners>::new(&serve))
        .add_service(DiscoveryServer::<S, RouteTrees>::new(&serve))
        .add_service(DiscoveryServer::<S, Clusters>::new(&serve))
        .add_service(DiscoveryServer::<S, EndpointLists>::new(&serve))
        .add_service(DiscoveryServer::<S, ExtensionConfigs>::new(&serve))
}

impl<S, O> DiscoveryServer<S, O> {
    fn new(serve: &Arc<S>) -> Self {
        Self {
            serve: Arc::clone(serve),
            offer: PhantomData,
        }
    }
}

impl<S, O> Clone for DiscoveryServer<S, O> {
    fn clone(&self) -> Self {
        Self::new(&self.serve)
    }
}

impl<S: fmt::Debug, O> fmt::Debug for DiscoveryServer<S, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiscoveryServer").field(&self.serve).finish()
    }
}

impl<S, O: Offer> NamedService for DiscoveryServer<S, O> {
    const NAME: &'static str = O::NAME;
}

impl<S: Serve, O: Offer> Service<Request<Body>> for DiscoveryServer<S, O> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let serve = Arc::clone(&self.serve);
        let method = [O::SOTW, O::DELTA].map(|method| request.uri().path() == method);
        let request = serve.watch(request);
        Box::pin(async move {
            Ok(match method {
                [true, _] => {
                    let begin = |request| {
                        let (extensions, requests) = requests::<Sotw, O>(request);
                        serve.begin(&extensions, requests).map(outgoing::<Sotw>)
                    };
                    streaming(request, Sotw::REQUEST, begin).await
                }
                [_, true] => {
                    let begin = |request| {
                        let (extensions, requests) = requests::<Delta, O>(request);
                        serve.begin_delta(&extensions, requests).map(outgoing::<Delta>)
                    };
                    streaming(request, Delta::REQUEST, begin).await
                }
                _ => Status::unimplemented("resources are served on streams only").into_http(),
            })
        })
    }
}

fn requests<V: Variant, O: Offer>(request: tonic::Request<Streaming<V::RequestMessage>>) -> (Extensions, Requests<V>) {
    let (_, extensions, messages) = request.into_parts();
    let only = O::ONLY;
    (extensions, Requests { messages, only })
}

fn outgoing<V: Variant>(
    responses: Responses<V>,
) -> impl tokio_stream::Stream<Item = Result<V::ResponseMessage, Status>> + Send + 'static {
    ReceiverStream::new(responses).map(|response| response.map(Into::into))
}
