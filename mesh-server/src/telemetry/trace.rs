//! A span for each request that is part of a trace: the application's own tracer makes it, so it goes wherever the application's spans do.
//!
//! A request is recorded if its caller's span is (W3C `sampled`), and of those that come without one the share that the configuration says
//! begin a trace. The service is told of this span in the place of its caller's, so what it says of its parent, or leaves to be passed on, is
//! right. Who is not recorded costs one look at a header, and nothing without a tracer.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Request};
use mesh_core::Entropy;
use mesh_core::config::Fraction;
use mesh_core::report::access::text;
use mesh_core::report::standard::{End, Protocol};
use mesh_core::route::RequestHead;
use mesh_core::trace::{TRACEPARENT, TRACESTATE, TraceParent};
use opentelemetry::global::{BoxedSpan, BoxedTracer};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};

use crate::accept::ConnectionInfo;

/// What makes spans.
#[derive(Clone)]
pub(super) struct Tracing(Arc<BoxedTracer>);

/// The span of a request that is being answered.
pub(super) struct Traced(BoxedSpan);

impl Tracing {
    pub(super) fn new(tracer: BoxedTracer) -> Self {
        Self(Arc::new(tracer))
    }

    /// Begins the span of a request, if it is to have one, and tells the service of it.
    pub(super) fn begin<B>(
        &self,
        request: &mut Request<B>,
        protocol: Protocol,
        sampling: Option<Fraction>,
        entropy: &Entropy,
    ) -> Option<Box<Traced>> {
        let parent = TraceParent::of(request.headers());
        let is_recorded = match parent {
            Some(parent) => parent.sampled,
            None => sampling.is_some_and(|share| share.holds(entropy.draw().next())),
        };
        is_recorded.then(|| self.record(request, protocol, parent))
    }

    #[cold]
    fn record<B>(&self, request: &mut Request<B>, protocol: Protocol, parent: Option<TraceParent>) -> Box<Traced> {
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(remote(parent, request.headers())),
            None => Context::new(),
        };
        let builder = SpanBuilder {
            span_kind: Some(SpanKind::Server),
            name: name(request, protocol).into(),
            attributes: Some(attributes(request, protocol)),
            ..SpanBuilder::default()
        };
        let span = self.0.build_with_context(builder, &context);
        let own = span.span_context();
        if own.is_valid() {
            let own = TraceParent {
                trace_id: u128::from_be_bytes(own.trace_id().to_bytes()),
                span_id: u64::from_be_bytes(own.span_id().to_bytes()),
                sampled: own.is_sampled(),
            };
            request.headers_mut().insert(TRACEPARENT, own.header());
        }
        Box::new(Traced(span))
    }
}

impl Traced {
    /// The answer has ended, or nobody waits for it.
    pub(super) fn end(mut self, end: &End) {
        let span = &mut self.0;
        if end.code > 0 {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(end.code)));
        }
        if let Some(status) = end.grpc {
            span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(status)));
        }
        if !end.flags.is_empty() {
            span.set_attribute(KeyValue::new("mesh.response_flags", end.flags.to_string()));
        }
        if let Some(why) = error_type(end) {
            span.set_attribute(KeyValue::new("error.type", why.clone()));
            span.set_status(Status::error(why));
        }
        span.end();
    }
}

/// What a server is to blame for (OpenTelemetry's conventions of HTTP and of RPC), or that nobody was answered.
fn error_type(end: &End) -> Option<String> {
    match (end.grpc, end.code) {
        (Some(status), _) => matches!(status, 2 | 4 | 12 | 13 | 14 | 15).then(|| status.to_string()),
        (None, 0) => Some(end.flags.to_string()),
        (None, code) => (code >= 500).then(|| code.to_string()),
    }
}

fn name<B>(request: &Request<B>, protocol: Protocol) -> String {
    match protocol {
        Protocol::Grpc => text(request.uri().path().trim_start_matches('/').as_bytes()).into(),
        Protocol::Http => request.method().as_str().to_owned(),
    }
}

fn attributes<B>(request: &Request<B>, protocol: Protocol) -> Vec<KeyValue> {
    let head = RequestHead::of(request, "");
    let shown = |value: &str| String::from(text(value.as_bytes()));
    let mut all = vec![
        KeyValue::new("http.request.method", shown(head.method.as_str())),
        KeyValue::new("url.path", shown(head.path())),
        KeyValue::new("server.address", shown(head.authority())),
    ];
    if protocol == Protocol::Grpc {
        all.push(KeyValue::new("rpc.system", "grpc"));
        if let Some((service, method)) = head.path().trim_start_matches('/').rsplit_once('/') {
            all.push(KeyValue::new("rpc.service", shown(service)));
            all.push(KeyValue::new("rpc.method", shown(method)));
        }
    }
    if let Some(connection) = ConnectionInfo::of(request.extensions()) {
        let peer = connection.source();
        all.push(KeyValue::new("network.peer.address", peer.ip().to_string()));
        all.push(KeyValue::new("network.peer.port", i64::from(peer.port())));
        if let Some(id) = connection.peer_id() {
            all.push(KeyValue::new("mesh.peer", id.to_string()));
        }
    }
    all
}

fn remote(parent: TraceParent, headers: &HeaderMap) -> SpanContext {
    let state = headers
        .get(TRACESTATE)
        .and_then(|state| state.to_str().ok()?.parse().ok());
    SpanContext::new(
        TraceId::from(parent.trace_id),
        SpanId::from(parent.span_id),
        TraceFlags::SAMPLED,
        true,
        state.unwrap_or(TraceState::NONE),
    )
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing").finish_non_exhaustive()
    }
}

impl fmt::Debug for Traced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Traced").field(self.0.span_context()).finish()
    }
}
