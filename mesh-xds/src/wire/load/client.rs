//! The client's half of the generated LRS stub.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{LoadRequest, LoadResponse};
use crate::credentials::Credentialed;
use crate::proto::load_stats::{LoadStatsResponse, load_reporting_service_client::LoadReportingServiceClient};

/// The largest response taken: it holds the names of clusters, and nothing else that grows.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// Why a stream of reports is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The control plane does not take load reports.
    Unimplemented,
    /// Anything else.
    Because(String),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unimplemented,
            code => Self::Because(format!("{code:?}: {}", status.message())),
        }
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<LoadStatsResponse>, Status>> + Send>>;

/// What comes from a control plane. It may hold back its headers until its first response, so opening the call and reading
/// from it are one wait.
pub(crate) enum IncomingLoad {
    Opening(Opening),
    Open(Box<Streaming<LoadStatsResponse>>),
}

impl IncomingLoad {
    /// Opens a stream that says what comes through `outgoing`.
    pub(crate) fn open(channel: Credentialed, outgoing: mpsc::Receiver<LoadRequest>) -> Self {
        let mut client = LoadReportingServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        Self::Opening(Box::pin(async move {
            let requests = ReceiverStream::new(outgoing).map(Into::into);
            Ok(client.stream_load_stats(requests).await?.into_inner())
        }))
    }

    /// The next response, or why there will be none. Cancelling the wait loses nothing.
    pub(crate) async fn next(&mut self) -> Result<LoadResponse, Ended> {
        loop {
            match self {
                Self::Opening(opening) => {
                    let stream = opening.await?;
                    *self = Self::Open(Box::new(stream));
                }
                Self::Open(stream) => {
                    let ended = || Ended::Because("ended by the control plane".into());
                    return stream.message().await?.map(Into::into).ok_or_else(ended);
                }
            }
        }
    }
}
