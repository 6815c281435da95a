//! One call under the count: a guard, so that each counts once, whoever drops it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use mesh_core::report::standard::{Amounts, Edge, End, Flags, Messages, Protocol};
use tokio::time::Instant;

use crate::body::{Outcome, ResponseBody, code_of_http};
use crate::cluster::ClusterHandle;
use crate::error::Error;
use crate::flags::ResponseFlags;
use crate::telemetry::Logged;

/// What was sent of a request's body.
#[derive(Default)]
pub(crate) enum Sent {
    /// Nothing, for all that is known.
    #[default]
    Unknown,
    /// All of it, at once: bytes, and messages where it is gRPC.
    Whole(u64, u64),
    /// It may go on.
    Streaming(Arc<dyn Sending>),
}

/// A body that is being sent.
pub(crate) trait Sending: Send + Sync {
    /// Bytes of it that were read so far, and messages of gRPC among them.
    fn sent(&self) -> (u64, u64);
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.amount().fmt(f)
    }
}

impl Sent {
    /// A body that was whole when the call began.
    #[inline]
    pub(crate) fn whole(bytes: &Bytes, grpc: bool) -> Self {
        let messages = match grpc {
            true => Messages::default().take(bytes),
            false => 0,
        };
        Self::Whole(bytes.len() as u64, messages)
    }

    fn amount(&self) -> (u64, u64) {
        match self {
            Self::Unknown => (0, 0),
            Self::Whole(bytes, messages) => (*bytes, *messages),
            Self::Streaming(sending) => sending.sent(),
        }
    }
}

/// A call that has begun and did not end.
#[derive(Debug)]
pub(crate) struct Counting {
    cluster: Arc<ClusterHandle>,
    /// Whom the answer came from.
    edge: Option<Arc<Edge>>,
    began: Instant,
    end: End,
    sent: Sent,
    received: u64,
    messages: Messages,
    received_messages: u64,
    is_counted: bool,
    /// Of a call that may be written to the access log. In a box, since most are not.
    logged: Option<Box<Logged>>,
}

impl Counting {
    /// Of a call that began then.
    #[inline]
    pub(crate) fn begin(cluster: Arc<ClusterHandle>, grpc: bool, began: Instant, logged: Option<Box<Logged>>) -> Self {
        let protocol = match grpc {
            true => Protocol::Grpc,
            false => Protocol::Http,
        };
        Self {
            cluster,
            edge: None,
            began,
            end: End {
                protocol,
                ..End::default()
            },
            sent: Sent::Unknown,
            received: 0,
            messages: Messages::default(),
            received_messages: 0,
            is_counted: false,
            logged,
        }
    }

    /// The head of an answer came, from whom `outcome` says; from nobody: the mesh made it.
    #[inline]
    pub(super) fn answered(&mut self, response: &Response<ResponseBody>, outcome: Option<&Outcome>) {
        self.end.code = response.status().as_u16();
        if self.end.protocol == Protocol::Grpc {
            self.end.grpc = response.body().head_status();
        }
        if let Some(flags) = response.extensions().get::<ResponseFlags>() {
            self.end.flags = Flags::named(flags.iter());
        }
        self.edge = outcome.map(Outcome::edge);
        if let Some(logged) = &mut self.logged {
            logged.answered(response);
        }
    }

    /// What was sent of the request.
    #[inline]
    pub(crate) fn sent(&mut self, sent: Sent) {
        self.sent = sent;
    }

    /// A part of the answer came.
    #[inline]
    pub(crate) fn received(&mut self, data: &Bytes) {
        self.received += data.len() as u64;
        if self.end.protocol == Protocol::Grpc {
            self.received_messages += self.messages.take(data);
        }
    }

    /// Its trailers came, and such a status in them.
    #[inline]
    pub(crate) fn told(&mut self, grpc: Option<u8>) {
        if self.end.protocol == Protocol::Grpc {
            self.end.grpc = grpc;
        }
    }

    /// The answer has ended.
    #[inline]
    pub(crate) fn ended(&mut self) {
        // It ended without a status: its caller is told by that of HTTP.
        if self.end.protocol == Protocol::Grpc && self.end.grpc.is_none() {
            self.end.grpc = Some(code_of_http(StatusCode::from_u16(self.end.code).unwrap_or_default()));
        }
        self.count();
    }

    /// All of an answer that the mesh made itself is there.
    #[cold]
    pub(crate) fn ended_with(&mut self, bytes: usize) {
        self.received = bytes as u64;
        self.ended();
    }

    /// The answer broke off.
    #[cold]
    pub(crate) fn broke_off(&mut self, error: &Error) {
        self.end.flags = self.end.flags | Flags::named(error.response_flags().iter());
        if self.end.protocol == Protocol::Grpc {
            self.end.grpc = Some(error.grpc_code_of_stream());
        }
        if let Some(logged) = &mut self.logged {
            logged.failed(error);
        }
        self.count();
    }

    /// There is no answer.
    #[cold]
    pub(super) fn failed(&mut self, error: &Error) {
        self.end = failed(self.end.protocol, error);
        self.edge = error.peer().map(|peer| self.cluster.pair(peer));
        if let Some(logged) = &mut self.logged {
            logged.failed(error);
        }
        self.count();
    }

    fn count(&mut self) {
        if std::mem::replace(&mut self.is_counted, true) {
            return;
        }
        let (request_bytes, request_messages) = self.sent.amount();
        let amounts = Amounts {
            duration: self.began.elapsed(),
            request_bytes,
            response_bytes: self.received,
        };
        let edge = match &self.edge {
            Some(edge) => edge,
            None => self.cluster.nobody(),
        };
        edge.count(self.end, amounts);
        if let Some(calls) = self.cluster.calls() {
            calls.count(self.end, amounts.duration, edge.labels().is_mutual_tls());
        }
        if self.end.protocol == Protocol::Grpc {
            edge.messages(request_messages, self.received_messages);
        }
        if let Some(logged) = self.logged.take() {
            logged.write(&self.end, &amounts, Some(self.cluster.name().as_str()));
        }
    }
}

impl Drop for Counting {
    /// Its caller went away.
    fn drop(&mut self) {
        if !self.is_counted {
            self.end.flags = self.end.flags | Flags::DOWNSTREAM_CLOSED;
            self.count();
        }
    }
}

/// How a call ended that failed: as what its caller is given, or would be by a proxy.
pub(super) fn failed(protocol: Protocol, error: &Error) -> End {
    let flags = Flags::named(error.response_flags().iter());
    match protocol {
        Protocol::Grpc => End {
            flags,
            ..End::grpc(error.grpc_code())
        },
        Protocol::Http => End {
            flags,
            ..End::http(error.status().as_u16())
        },
    }
}
