//! One request under the count: a guard, so that each counts once, whoever drops it.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use http_body::Frame;
use mesh_core::report::standard::{Amounts, Edge, End, Flags, Messages, Protocol};
use tokio::time::Instant;

use super::live::Answering;
use crate::serve::Exchange;

/// How much of a request's body came.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes, as it said beforehand.
    Length(u64),
    /// Counted by the body that came.
    Counted(Arc<Exchange>),
}

#[derive(Debug)]
pub(super) struct Call {
    edge: Arc<Edge>,
    began: Instant,
    end: End,
    received: Received,
    sent: u64,
    /// Where the answer is one of gRPC.
    messages: Messages,
    sent_messages: u64,
    is_counted: bool,
    /// For whoever asks whether its connection is in use.
    _answering: Option<Answering>,
}

impl Call {
    pub(super) fn begin(edge: Arc<Edge>, protocol: Protocol, received: Received, answering: Option<Answering>) -> Self {
        let end = End {
            protocol,
            ..End::default()
        };
        Self {
            edge,
            began: Instant::now(),
            end,
            received,
            sent: 0,
            messages: Messages::default(),
            sent_messages: 0,
            is_counted: false,
            _answering: answering,
        }
    }

    /// The service answers.
    pub(super) fn answered<R>(&mut self, response: &Response<R>) {
        self.end.code = response.status().as_u16();
        if let Some(flags) = response.extensions().get::<Flags>() {
            self.end.flags = *flags;
        }
        self.saw_status(response.headers());
    }

    /// The service did not survive it, and its caller is told so.
    pub(super) fn failed(&mut self) {
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
        self.edge.count(self.end, amounts);
        self.edge.messages(messages, self.sent_messages);
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
