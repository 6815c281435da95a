//! The serving half of the generated LRS stub.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Extensions, Status, Streaming, async_trait};

use super::{LoadRequest, LoadResponse};
use crate::proto::load_stats::{
    LoadStatsRequest, LoadStatsResponse,
    load_reporting_service_server::{LoadReportingService, LoadReportingServiceServer},
};

/// The largest report taken: ten thousand localities, with room for their names and figures.
const MAX_REPORT_BYTES: usize = 8 * 1024 * 1024;

/// What takes reports.
pub(crate) trait TakeLoad: Send + Sync + 'static {
    /// Begins a stream of the connection with these extensions; responses are pulled out of what it returns.
    fn begin(&self, extensions: &Extensions, reports: Reports) -> Result<Responses, Status>;
}

/// What a stream's client reports.
pub(crate) struct Reports(Streaming<LoadStatsRequest>);

/// What a stream's client is told.
pub(crate) type Responses = mpsc::Receiver<Result<LoadResponse, Status>>;

impl Reports {
    /// The next report, or `None` when the client is done or gone. Cancelling the wait loses nothing.
    pub(crate) async fn next(&mut self) -> Option<LoadRequest> {
        self.0.message().await.ok().flatten().map(Into::into)
    }
}

/// The generated server around a [`TakeLoad`].
pub(crate) type LoadServer<S> = LoadReportingServiceServer<Adapter<S>>;

/// The generated server around `sink`.
pub(crate) fn service<S: TakeLoad>(sink: S) -> LoadServer<S> {
    LoadReportingServiceServer::new(Adapter(sink)).max_decoding_message_size(MAX_REPORT_BYTES)
}

/// Fits a [`TakeLoad`] to the generated trait.
#[derive(Debug)]
pub(crate) struct Adapter<S>(S);

#[async_trait]
impl<S: TakeLoad> LoadReportingService for Adapter<S> {
    type StreamLoadStatsStream = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: tonic::Request<Streaming<LoadStatsRequest>>,
    ) -> Result<tonic::Response<Self::StreamLoadStatsStream>, Status> {
        let (_, extensions, reports) = request.into_parts();
        let responses = self.0.begin(&extensions, Reports(reports))?;
        let responses = ReceiverStream::new(responses).map(|response| response.map(Into::into));
        Ok(tonic::Response::new(Box::pin(responses)))
    }
}
