//! What the inbound side counts on its own: requests, and whether a server is running. One set per [`Link`].
//!
//! The room counts a request as it comes in, before anything may refuse it, with one relaxed add. Refusals are rare and go
//! to the link's [`Tally`](mesh_core::report::Tally).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use mesh_core::Link;
use tower::{Layer, Service};

/// The counts of one link.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    requests: AtomicU64,
    servers: AtomicUsize,
}

impl Inbound {
    /// Those of `link`, the same for whoever asks.
    pub(crate) fn of(link: &Link) -> Arc<Self> {
        link.attached(Self::default)
    }

    /// Says that a server accepts connections, until the guard is dropped.
    pub(crate) fn serving(self: &Arc<Self>) -> ServingGuard {
        self.servers.fetch_add(1, Ordering::Relaxed);
        ServingGuard(Arc::clone(self))
    }

    /// Whether any server accepts connections.
    pub(crate) fn is_serving(&self) -> bool {
        self.servers.load(Ordering::Relaxed) > 0
    }

    /// How many requests have come in through [`TelemetryLayer`].
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// See [`Inbound::serving`].
#[derive(Debug)]
pub(crate) struct ServingGuard(Arc<Inbound>);

impl Drop for ServingGuard {
    fn drop(&mut self) {
        self.0.servers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts requests. Part of [`MeshLayer`](crate::MeshLayer).
#[derive(Clone, Debug)]
pub struct TelemetryLayer {
    inbound: Arc<Inbound>,
}

impl TelemetryLayer {
    /// Counts for `link`; the admin port shows it as `requests.received`.
    pub fn new(link: &Link) -> Self {
        Self {
            inbound: Inbound::of(link),
        }
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Telemetry {
            inner,
            inbound: Arc::clone(&self.inbound),
        }
    }
}

/// See [`TelemetryLayer`].
#[derive(Clone, Debug)]
pub struct Telemetry<S> {
    inner: S,
    inbound: Arc<Inbound>,
}

impl<S: Service<http::Request<B>>, B> Service<http::Request<B>> for Telemetry<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.inbound.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.call(request)
    }
}
