//! The two variants of the protocol, as the messages each is spoken in.

use std::fmt;
use std::future::Future;
#[cfg(feature = "server")]
use std::sync::Arc;

use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{DeltaRequest, DeltaResponse, Request, Response};
use crate::credentials::Credentialed;
#[cfg(feature = "server")]
use crate::node::Node;
use crate::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};

/// One variant: its messages as plain values, as generated types, and the method that carries them.
pub(crate) trait Variant: fmt::Debug + Send + Sync + 'static {
    type Request: From<Self::RequestMessage> + Into<Self::RequestMessage> + fmt::Debug + Send + 'static;
    type Response: From<Self::ResponseMessage> + Into<Self::ResponseMessage> + fmt::Debug + Send + 'static;
    type RequestMessage: prost::Message + 'static;
    type ResponseMessage: prost::Message + 'static;

    /// Opens a stream that says `requests`.
    fn call(
        client: AggregatedDiscoveryServiceClient<Credentialed>,
        requests: ReceiverStream<Self::Request>,
    ) -> impl Future<Output = Result<Streaming<Self::ResponseMessage>, Status>> + Send;

    /// Who asks, if the request says so.
    #[cfg(feature = "server")]
    fn node(request: &Self::Request) -> Option<&Arc<Node>>;

    /// What the request is about.
    #[cfg(feature = "server")]
    fn type_url(request: &mut Self::Request) -> &mut String;
}

/// State of the world: a request lists every name, and a response is taken as one version.
#[derive(Debug)]
pub(crate) enum Sotw {}

/// Incremental: only differences are said, and every resource has a version of its own.
#[derive(Debug)]
pub(crate) enum Delta {}

impl Variant for Sotw {
    type Request = Request;
    type Response = Response;
    type RequestMessage = DiscoveryRequest;
    type ResponseMessage = DiscoveryResponse;

    async fn call(
        mut client: AggregatedDiscoveryServiceClient<Credentialed>,
        requests: ReceiverStream<Request>,
    ) -> Result<Streaming<DiscoveryResponse>, Status> {
        let response = client.stream_aggregated_resources(requests.map(Into::into)).await?;
        Ok(response.into_inner())
    }

    #[cfg(feature = "server")]
    fn node(request: &Request) -> Option<&Arc<Node>> {
        request.node.as_ref()
    }

    #[cfg(feature = "server")]
    fn type_url(request: &mut Request) -> &mut String {
        &mut request.type_url
    }
}

impl Variant for Delta {
    type Request = DeltaRequest;
    type Response = DeltaResponse;
    type RequestMessage = DeltaDiscoveryRequest;
    type ResponseMessage = DeltaDiscoveryResponse;

    async fn call(
        mut client: AggregatedDiscoveryServiceClient<Credentialed>,
        requests: ReceiverStream<DeltaRequest>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        let response = client.delta_aggregated_resources(requests.map(Into::into)).await?;
        Ok(response.into_inner())
    }

    #[cfg(feature = "server")]
    fn node(request: &DeltaRequest) -> Option<&Arc<Node>> {
        request.node.as_ref()
    }

    #[cfg(feature = "server")]
    fn type_url(request: &mut DeltaRequest) -> &mut String {
        &mut request.type_url
    }
}
