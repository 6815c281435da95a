//! The serving half of the generated ADS stub.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Extensions, Status, Streaming, async_trait};

use super::{Delta, Sotw, Variant};
use crate::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};

/// The largest request taken. A client that subscribes to tens of thousands of names sends about a MiB.
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
pub(crate) struct Requests<V: Variant>(Streaming<V::RequestMessage>);

/// What a stream's client is told. One waits; the next is made when that one is taken.
pub(crate) type Responses<V> = mpsc::Receiver<Result<<V as Variant>::Response, Status>>;

impl<V: Variant> Requests<V> {
    /// The next request, or `None` when the client is done or gone. Cancelling the wait loses nothing.
    pub(crate) async fn next(&mut self) -> Option<V::Request> {
        self.0.message().await.ok().flatten().map(Into::into)
    }
}

/// The generated server around a [`Serve`].
pub(crate) type AdsServer<S> = AggregatedDiscoveryServiceServer<Adapter<S>>;

/// The generated server around `serve`.
pub(crate) fn service<S: Serve>(serve: S) -> AdsServer<S> {
    AggregatedDiscoveryServiceServer::new(Adapter(serve)).max_decoding_message_size(MAX_REQUEST_BYTES)
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
        let (_, extensions, requests) = request.into_parts();
        let responses = self.0.begin(&extensions, Requests(requests))?;
        Ok(outgoing::<Sotw>(responses))
    }

    type DeltaAggregatedResourcesStream = Outgoing<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (_, extensions, requests) = request.into_parts();
        let responses = self.0.begin_delta(&extensions, Requests(requests))?;
        Ok(outgoing::<Delta>(responses))
    }
}

fn outgoing<V: Variant>(responses: Responses<V>) -> tonic::Response<Outgoing<V::ResponseMessage>> {
    let responses = ReceiverStream::new(responses).map(|response| response.map(Into::into));
    tonic::Response::new(Box::pin(responses))
}
