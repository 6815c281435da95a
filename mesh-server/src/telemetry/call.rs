//! One request under the count: a guard, so that each counts once, whoever drops it.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use http_body::Frame;
use mesh_core::report::standard::{Amounts, Edge, End, Flags, Messages, Protocol};
use tokio::time::Instant;

use super::live::Answering;
use super::log::Logged;
use super::{Shared, UNKNOWN_HOST};
use crate::accept::ConnectionInfo;
use crate::refusal::NotServed;
use crate::serve::Exchange;

/// How much of a request's body came.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes, as it said beforehand.
    Length(u64),
    /// Counted by the body that came.
    Counted(Arc<Exchange>),
}

/// Where a call is counted.
#[derive(Debug)]
pub(super) enum Pair {
    Known(Arc<Edge>),
    /// By what its caller calls the server, which counts for nothing until a request that says so was served.
    Said(Box<Said>),
}

/// See [`Pair::Said`].
#[derive(Debug)]
pub(super) struct Said {
    pub(super) shared: Arc<Shared>,
    pub(super) authority: Box<str>,
    pub(super) connection: Option<ConnectionInfo>,
}

impl Pair {
    /// The pair, as a request of it was served or not. The first word counts.
    fn settle(&mut self, served: bool) -> &Edge {
        if let Self::Said(said) = self {
            let authority = if served { &*said.authority } else { UNKNOWN_HOST };
            *self = Self::Known(said.shared.make(authority, said.connection.as_ref()));
        }
        match self {
            Self::Known(edge) => edge,
            Self::Said(_) => unreachable!("it was settled a line ago"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Call {
    pair: Pair,
    began: Instant,
    end: End,
    received: Received,
    sent: u64,
    /// Where the answer is one of gRPC.
    messages: Messages,
    sent_messages: u64,
    is_counted: bool,
    /// Of a request that may be written to the access log. In a box, since most are not.
    logged: Option<Box<Logged>>,
    /// For whoever asks whether its connection is in use.
    _answering: Option<Answering>,
}

impl Call {
    pub(super) fn begin(
        pair: Pair,
        protocol: Protocol,
        received: Received,
        (answering, logged): (Option<Answering>, Option<Box<Logged>>),
    ) -> Self {
        let end = End {
            protocol,
            ..End::default()
        };
        Self {
            pair,
            began: Instant::now(),
            end,
            received,
            sent: 0,
            messages: Messages::default(),
            sent_messages: 0,
            is_counted: false,
            logged,
            _answering: answering,
        }
    }

    /// The service answers, or a room before it does.
    pub(super) fn answered<R>(&mut self, response: &Response<R>) {
        self.pair.settle(response.extensions().get::<NotServed>().is_none());
        self.end.code = response.status().as_u16();
        if let Some(flags) = response.extensions().get::<Flags>() {
            self.end.flags = *flags;
        }
        self.saw_status(response.headers());
        if let Some(logged) = &mut self.logged {
            logged.answered(response);
        }
    }

    /// The service did not survive it, and its caller is told so.
    pub(super) fn failed(&mut self) {
        if let Some(logged) = &mut self.logged {
            logged.failed();
        }
        self.pair.settle(true);
        self.end.code = match self.end.protocol {
            Protocol::Http => StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
            Protocol::Grpc => StatusCode::OK.as_u16(),
        };
        self.end.grpc = (self.end.protocol == Protocol::Grpc).then_some(INTERNAL);
        self.count();
    }

    /// A part of the answer was handed on.
    pub(super) fn sent(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.sent += data.len() as u64;
            if self.end.protocol == Protocol::Grpc {
                self.sent_messages += self.messages.take(data);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.saw_status(trailers);
        }
    }

    /// The answer broke off: its caller sees a reset.
    pub(super) fn broke_off(&mut self) {
        self.end.flags = self.end.flags | Flags::RESET;
        if let Some(logged) = &mut self.logged {
            logged.failed();
        }
        self.count();
    }

    /// The answer has ended.
    pub(super) fn ended(&mut self) {
        self.count();
    }

    fn saw_status(&mut self, headers: &HeaderMap) {
        if self.end.protocol == Protocol::Grpc
            && let Some(status) = headers.get("grpc-status")
        {
            let status = status.to_str().ok().and_then(|status| status.parse().ok());
            self.end.grpc = Some(status.unwrap_or(UNKNOWN));
        }
    }

    fn count(&mut self) {
        if std::mem::replace(&mut self.is_counted, true) {
            return;
        }
        let (request_bytes, messages) = match &self.received {
            Received::Length(length) => (*length, 0),
            Received::Counted(exchange) => exchange.received(),
        };
        let amounts = Amounts {
            duration: self.began.elapsed(),
            request_bytes,
            response_bytes: self.sent,
        };
        // Nobody has answered: whoever goes away before that has said nothing that counts.
        let edge = self.pair.settle(false);
        edge.count(self.end, amounts);
        edge.messages(messages, self.sent_messages);
        if let Some(logged) = self.logged.take() {
            logged.write(&self.end, &amounts);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_counted {
            self.end.flags = self.end.flags | Flags::DOWNSTREAM_CLOSED;
            self.count();
        }
    }
}

/// gRPC's codes of those names.
const UNKNOWN: u8 = 2;
const INTERNAL: u8 = 13;
