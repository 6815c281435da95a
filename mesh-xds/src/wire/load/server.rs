//! The serving half of LRS.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Extensions, Status, Streaming};
use tower::Service;

use super::{LoadRequest, LoadResponse, METHOD, SERVICE};
use crate::proto::endpoint::{ClusterStats, UpstreamLocalityStats};
use crate::proto::load_stats::{LoadStatsRequest, LoadStatsResponse};
use crate::wire::method::{Answering, Measure, is_of_a_message, streaming};
use crate::wire::variant::{MESSAGE, node};
use crate::wire::weigh::{Heavy, Inside, Shape};

/// The largest report taken: ten thousand localities, with room for their names and figures.
const MAX_REPORT_BYTES: usize = 8 * 1024 * 1024;
/// What a report may take with all that is made of it. That of ten thousand localities is half of it.
const MAX_HELD_REPORT_BYTES: usize = 8 * MAX_REPORT_BYTES;
/// What is made of a cluster's figures, and of a locality's: a map each, which begins with room for eleven.
const MAP_BYTES: usize = 1024;

static REPORT: Measure = Measure {
    bytes: MAX_REPORT_BYTES,
    held: MAX_HELD_REPORT_BYTES,
    shape: &Shape {
        heavy: &[
            node(1),
            Heavy {
                number: 2,
                bytes: size_of::<ClusterStats>() + MAP_BYTES,
                inside: Inside::Message(&[Heavy {
                    number: 2,
                    bytes: size_of::<UpstreamLocalityStats>() + MAP_BYTES,
                    inside: Inside::Message(&[]),
                }]),
            },
        ],
        ..MESSAGE
    },
};

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
    ///
    /// # Errors
    ///
    /// What the client is to be told of a report that cannot be taken. There is no other after it.
    pub(crate) async fn next(&mut self) -> Result<Option<LoadRequest>, Status> {
        match self.0.message().await {
            Ok(message) => Ok(message.map(Into::into)),
            Err(status) if is_of_a_message(&status) => Err(status),
            Err(_) => Ok(None),
        }
    }
}

/// The service around a [`TakeLoad`].
#[derive(Debug)]
pub(crate) struct LoadServer<S>(Arc<S>);

/// The service around `sink`.
pub(crate) fn service<S: TakeLoad>(sink: S) -> LoadServer<S> {
    LoadServer(Arc::new(sink))
}

impl<S> Clone for LoadServer<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> NamedService for LoadServer<S> {
    const NAME: &'static str = SERVICE;
}

impl<S: TakeLoad> Service<Request<Body>> for LoadServer<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let sink = Arc::clone(&self.0);
        let is_known = request.uri().path() == METHOD;
        Box::pin(async move {
            Ok(match is_known {
                true => {
                    let begin = |request: tonic::Request<Streaming<LoadStatsRequest>>| {
                        let (_, extensions, reports) = request.into_parts();
                        let responses = ReceiverStream::new(sink.begin(&extensions, Reports(reports))?);
                        Ok(responses.map(|response| response.map(LoadStatsResponse::from)))
                    };
                    streaming(request, &REPORT, begin).await
                }
                false => Status::unimplemented("load reports are taken on streams only").into_http(),
            })
        })
    }
}
