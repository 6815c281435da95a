//! What a server says of its own load, so that its callers can weigh it (ORCA, gRFC A51).
//!
//! [`LoadReports`] is a layer around the application, inside [`MeshLayer`](crate::MeshLayer), so that load is told to those who may
//! call and to nobody else. It tells it in both of ORCA's ways: with each answer, as `endpoint-load-metrics-bin` (gRPC's trailer,
//! which Envoy reads too; in the head of an answer that is no gRPC), and in a stream to whoever asks for one
//! ([`OpenRcaService`]). Calls and failures a second it counts itself; how busy the process is, only the application can know, and
//! it says so of the whole ([`ServerLoad`]) or of one call ([`CallLoad`], among the request's extensions).
//!
//! Clients that weigh by reports (gRFC A58, [`LbPolicy::ClientSideWeightedRoundRobin`]) give a server the more calls the more of
//! them it serves for its utilisation: a server that never says how busy it is counts for the mean of the others.
//!
//! [`LbPolicy::ClientSideWeightedRoundRobin`]: mesh_core::config::LbPolicy::ClientSideWeightedRoundRobin
//!
//! ```
//! use mesh_core::{Link, Snapshot};
//! use mesh_server::MeshLayer;
//! use mesh_server::orca::{CallLoad, LoadReports, ServerLoad};
//! use tower::Layer;
//!
//! async fn handler(load: axum::Extension<CallLoad>) -> &'static str {
//!     load.cost("rows", 17.0);
//!     "done"
//! }
//!
//! let mesh = Link::fixed(Snapshot::empty(), None);
//! let load = ServerLoad::new();
//! let app = axum::Router::<()>::new().route("/", axum::routing::get(handler));
//! let app = MeshLayer::new(&mesh).layer(LoadReports::new(&load).layer(app));
//! // From whatever measures it, as often as it does.
//! load.cpu(Some(0.35));
//! # let _ = app;
//! ```

mod body;
mod figures;
mod future;
mod meter;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower::{Layer, Service};

pub use body::LoadBody;
pub use figures::{CallLoad, ServerLoad};
pub use future::ResponseFuture;
pub use service::{OpenRcaService, ReportsBody};

/// What reports come in beside an answer.
const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

/// The shortest time between two reports of a stream, whatever its caller asks for: gRPC's servers' default.
pub const MIN_REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Tells callers of the load of a server. See the [module](self).
#[derive(Clone, Debug)]
pub struct LoadReports {
    load: ServerLoad,
    with_answers: bool,
    min_interval: Option<Duration>,
}

impl LoadReports {
    /// Tells what `load` says, with each answer and in streams.
    pub fn new(load: &ServerLoad) -> Self {
        Self {
            load: load.clone(),
            with_answers: true,
            min_interval: Some(MIN_REPORT_INTERVAL),
        }
    }

    /// Whether reports come with answers. Default: they do. Callers who ask for a stream go by that alone (gRFC A58), and where all
    /// of them do, each answer is some 40 bytes shorter without.
    #[must_use]
    pub fn with_answers(self, with_answers: bool) -> Self {
        Self { with_answers, ..self }
    }

    /// How often a stream reports at most; `None`: there are no streams, and who asks for one gets what the application answers.
    /// Default: [`MIN_REPORT_INTERVAL`]. No less than a tenth of a second.
    #[must_use]
    pub fn streams(self, min_interval: Option<Duration>) -> Self {
        Self { min_interval, ..self }
    }
}

impl<S> Layer<S> for LoadReports {
    type Service = ReportsLoad<S>;

    fn layer(&self, inner: S) -> ReportsLoad<S> {
        let streams = |min_interval| OpenRcaService::new(&self.load).min_interval(min_interval);
        ReportsLoad {
            inner,
            load: self.load.clone(),
            with_answers: self.with_answers,
            streams: self.min_interval.map(streams),
        }
    }
}

/// See [`LoadReports`].
#[derive(Clone, Debug)]
pub struct ReportsLoad<S> {
    inner: S,
    load: ServerLoad,
    with_answers: bool,
    streams: Option<OpenRcaService>,
}

impl<S, B, R> Service<Request<B>> for ReportsLoad<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body<Data = Bytes>,
    R: Body<Data = Bytes>,
{
    type Response = Response<LoadBody<B, R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(streams) = &self.streams
            && request.uri().path() == service::METHOD
        {
            return ResponseFuture::stream(streams.answer(request.into_body()));
        }
        let call = CallLoad::default();
        request.extensions_mut().insert(call.clone());
        let telling = Telling {
            call,
            load: self.load.clone(),
            with_answers: self.with_answers,
        };
        ResponseFuture::call(self.inner.call(request), telling)
    }
}

/// What is to be told of one call.
#[derive(Debug)]
struct Telling {
    call: CallLoad,
    load: ServerLoad,
    with_answers: bool,
}

impl Telling {
    /// The call is over; what its answer is to carry.
    fn end(self, failed: bool, headers: &mut HeaderMap) {
        let now = Instant::now().into_std();
        self.load.ended(failed, now);
        self.tell(headers, now);
    }

    fn tell(&self, headers: &mut HeaderMap, now: std::time::Instant) {
        // A handler that wrote one itself knows better.
        if self.with_answers && !headers.contains_key(HEADER) {
            headers.extend(
                self.load
                    .report(Some(&self.call), now)
                    .header()
                    .map(|value| (HEADER, value)),
            );
        }
    }
}

/// Whether a gRPC status is there, and whether it says that the call failed.
fn grpc_failed(headers: &HeaderMap) -> Option<bool> {
    headers.get("grpc-status").map(|status| status != "0")
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Shared by all that a server tells.
type Shared<T> = Arc<std::sync::Mutex<T>>;
