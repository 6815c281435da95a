//! The client's half of ADS. Not the generated stub, which would decode whatever comes: see [`codec`](super::codec).

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Code, Request, Status, Streaming};

use super::Variant;
use super::codec::Weighed;
use crate::convention::PUSHBACK;
use crate::credentials::Credentialed;

/// The largest response taken: control planes send everything in one message, tens of MiB in a large mesh.
pub(crate) const MAX_RESPONSE_BYTES: usize = 256 * 1024 * 1024;
/// What a response may take with all that is made of it: one that is a single resource of the largest size is there twice.
const MAX_HELD_BYTES: usize = 2 * MAX_RESPONSE_BYTES;

type Opening<M> = Pin<Box<dyn Future<Output = Result<Streaming<M>, Status>> + Send>>;

/// What comes from a control plane. It may hold back its headers until its first response, so opening the call and reading
/// from it are one wait.
pub(crate) struct Incoming<V: Variant>(Stage<V::ResponseMessage>);

enum Stage<M> {
    Opening(Opening<M>),
    Open(Box<Streaming<M>>),
}

impl<V: Variant> Incoming<V> {
    /// Opens a stream that says what comes through `outgoing`.
    pub(crate) fn open(channel: Credentialed, outgoing: mpsc::Receiver<V::Request>) -> Self {
        let mut client = Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let codec = Weighed::<V::RequestMessage, V::ResponseMessage>::new(&V::RESPONSE, MAX_HELD_BYTES);
        let requests = Request::new(ReceiverStream::new(outgoing).map(Into::into));
        Self(Stage::Opening(Box::pin(async move {
            client.ready().await?;
            let path = PathAndQuery::from_static(V::METHOD);
            Ok(client.streaming(requests, path, codec).await?.into_inner())
        })))
    }

    /// The next response, or why there will be none. Cancelling the wait loses nothing.
    pub(crate) async fn next(&mut self) -> Result<V::Response, Ended> {
        loop {
            match &mut self.0 {
                Stage::Opening(opening) => {
                    let stream = opening.await.map_err(|status| ended(&status))?;
                    self.0 = Stage::Open(Box::new(stream));
                }
                Stage::Open(stream) => {
                    return match stream.message().await {
                        Ok(Some(response)) => Ok(response.into()),
                        Ok(None) => Err(Ended {
                            why: "ended by the control plane".into(),
                            pushback: None,
                            unauthenticated: false,
                            is_clean: true,
                        }),
                        Err(status) => Err(ended(&status)),
                    };
                }
            }
        }
    }
}

/// Why a stream ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// For operators.
    pub(crate) why: String,
    /// When the control plane asks to come again (gRFC A6).
    pub(crate) pushback: Option<Duration>,
    /// Whether the control plane does not believe what it was shown.
    pub(crate) unauthenticated: bool,
    /// Whether it ended in order: with the status OK.
    pub(crate) is_clean: bool,
}

/// A control plane's status is told to operators and never to callers (gRFC A54). Where the status stands for a broken
/// connection, what broke it is told too: "error reading a body from connection: broken pipe".
fn ended(status: &Status) -> Ended {
    let mut why = match status.message() {
        "" => format!("{:?}", status.code()),
        message => format!("{:?}: {message}", status.code()),
    };
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let told = error.to_string();
        if !why.ends_with(&told) {
            why.push_str(&format!(": {told}"));
        }
        cause = error.source();
    }
    let pushback = status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok());
    Ended {
        why,
        // A negative one says "do not come again", which no client of a control plane may heed.
        pushback: pushback.and_then(|text| text.parse().ok()).map(Duration::from_millis),
        unauthenticated: status.code() == Code::Unauthenticated,
        is_clean: false,
    }
}
