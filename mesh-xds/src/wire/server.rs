//! The serving halves of the generated stubs: ADS, and the services of one type each.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Extensions, Status, Streaming, async_trait};

use super::{Delta, Sotw, Variant};
use crate::proto::cds::cluster_discovery_service_server::{ClusterDiscoveryService, ClusterDiscoveryServiceServer};
use crate::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use crate::proto::eds::endpoint_discovery_service_server::{EndpointDiscoveryService, EndpointDiscoveryServiceServer};
use crate::proto::lds::listener_discovery_service_server::{ListenerDiscoveryService, ListenerDiscoveryServiceServer};
use crate::proto::rds::route_discovery_service_server::{RouteDiscoveryService, RouteDiscoveryServiceServer};
use crate::resource::ResourceKind;

/// The largest request taken: as many names as a stream may ask for are 6 to 8 MiB, and an incremental client that comes back
/// says the version of each as well. What is kept of a request is bounded by what it is, not by this.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// What serves streams.
pub(crate) trait Serve: Send + Sync + 'static {
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
    pub(crate) async fn next(&mut self) -> Option<V::Request> {
        self.messages.message().await.ok().flatten().map(Into::into)
    }
}

/// The generated server around a [`Serve`].
pub(crate) type AdsServer<S> = AggregatedDiscoveryServiceServer<Adapter<S>>;

/// The generated server around `serve`.
pub(crate) fn service<S: Serve>(serve: S) -> AdsServer<S> {
    AggregatedDiscoveryServiceServer::new(Adapter(serve)).max_decoding_message_size(MAX_REQUEST_BYTES)
}

/// All generated servers around `serve`.
pub(crate) fn routes<S: Serve + Clone>(serve: &S) -> Routes {
    let adapter = || Adapter(serve.clone());
    Routes::new(service(serve.clone()))
        .add_service(ListenerDiscoveryServiceServer::new(adapter()).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(RouteDiscoveryServiceServer::new(adapter()).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(ClusterDiscoveryServiceServer::new(adapter()).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(EndpointDiscoveryServiceServer::new(adapter()).max_decoding_message_size(MAX_REQUEST_BYTES))
}

/// Fits a [`Serve`] to the generated trait.
#[derive(Debug)]
pub(crate) struct Adapter<S>(S);

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl<S: Serve> AggregatedDiscoveryService for Adapter<S> {
    type StreamAggregatedResourcesStream = Outgoing<DiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.0.answer(None, request)
    }

    type DeltaAggregatedResourcesStream = Outgoing<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.0.answer_delta(None, request)
    }
}

/// The service of one kind: the same stream, restricted to it.
macro_rules! of_one_kind {
    ($kind:expr, $service:ident: $stream_type:ident $stream:ident, $delta_type:ident $delta:ident, $fetch:ident) => {
        #[async_trait]
        impl<S: Serve> $service for Adapter<S> {
            type $stream_type = Outgoing<DiscoveryResponse>;

            async fn $stream(
                &self,
                request: tonic::Request<Streaming<DiscoveryRequest>>,
            ) -> Result<tonic::Response<Self::$stream_type>, Status> {
                self.0.answer(Some($kind), request)
            }

            type $delta_type = Outgoing<DeltaDiscoveryResponse>;

            async fn $delta(
                &self,
                request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
            ) -> Result<tonic::Response<Self::$delta_type>, Status> {
                self.0.answer_delta(Some($kind), request)
            }

            async fn $fetch(
                &self,
                _: tonic::Request<DiscoveryRequest>,
            ) -> Result<tonic::Response<DiscoveryResponse>, Status> {
                Err(Status::unimplemented("resources are served on streams only"))
            }
        }
    };
}

of_one_kind!(ResourceKind::Listener, ListenerDiscoveryService:
    StreamListenersStream stream_listeners, DeltaListenersStream delta_listeners, fetch_listeners);
of_one_kind!(ResourceKind::Route, RouteDiscoveryService:
    StreamRoutesStream stream_routes, DeltaRoutesStream delta_routes, fetch_routes);
of_one_kind!(ResourceKind::Cluster, ClusterDiscoveryService:
    StreamClustersStream stream_clusters, DeltaClustersStream delta_clusters, fetch_clusters);
of_one_kind!(ResourceKind::Endpoints, EndpointDiscoveryService:
    StreamEndpointsStream stream_endpoints, DeltaEndpointsStream delta_endpoints, fetch_endpoints);

/// From a call to a stream and back.
trait Answer: Serve {
    fn answer(
        &self,
        only: Option<ResourceKind>,
        request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Outgoing<DiscoveryResponse>>, Status> {
        let (_, extensions, messages) = request.into_parts();
        let responses = self.begin(&extensions, Requests { messages, only })?;
        Ok(outgoing::<Sotw>(responses))
    }

    fn answer_delta(
        &self,
        only: Option<ResourceKind>,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Outgoing<DeltaDiscoveryResponse>>, Status> {
        let (_, extensions, messages) = request.into_parts();
        let responses = self.begin_delta(&extensions, Requests { messages, only })?;
        Ok(outgoing::<Delta>(responses))
    }
}

impl<S: Serve> Answer for S {}

fn outgoing<V: Variant>(responses: Responses<V>) -> tonic::Response<Outgoing<V::ResponseMessage>> {
    let responses = ReceiverStream::new(responses).map(|response| response.map(Into::into));
    tonic::Response::new(Box::pin(responses))
}
