//! The client's half of LRS.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Code, Request, Status, Streaming};

use super::{LoadRequest, LoadResponse, METHOD};
use crate::credentials::Credentialed;
use crate::proto::load_stats::{LoadStatsRequest, LoadStatsResponse};
use crate::wire::codec::Weighed;
use crate::wire::variant::MESSAGE;
use crate::wire::weigh::{Heavy, Inside, Shape};

/// The largest response taken: it holds the names of clusters, and nothing else that grows.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// What it may take with all that is made of it: the names of ten thousand clusters are a fifth of it.
const MAX_HELD_RESPONSE_BYTES: usize = 4 * MAX_RESPONSE_BYTES;

static RESPONSE: Shape = Shape {
    heavy: &[Heavy {
        number: 1,
        bytes: size_of::<String>() + size_of::<Arc<str>>(),
        inside: Inside::Sealed,
    }],
    ..MESSAGE
};

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
        let mut client = Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let codec = Weighed::<LoadStatsRequest, LoadStatsResponse>::new(&RESPONSE, MAX_HELD_RESPONSE_BYTES);
        let requests = Request::new(ReceiverStream::new(outgoing).map(Into::into));
        Self::Opening(Box::pin(async move {
            client.ready().await?;
            let path = PathAndQuery::from_static(METHOD);
            Ok(client.streaming(requests, path, codec).await?.into_inner())
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
