//! What the inbound side counts on its own: requests, and which servers run or wait. One set per [`Link`].
//!
//! The room counts a request as it comes in, before anything may refuse it, with one relaxed add. Refusals are rare and go
//! to the link's [`Tally`](mesh_core::report::Tally).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use mesh_core::Link;
use mesh_core::config::Reason;
use tower::{Layer, Service};

/// The counts of one link.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    requests: AtomicU64,
    servers: AtomicUsize,
    waiting: Mutex<Waiting>,
}

/// Why servers take no connections, by a number of their own.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    reasons: BTreeMap<u64, Reason>,
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

    /// Says that a server takes no connections, and why, until the guard is dropped.
    pub(crate) fn waiting(self: &Arc<Self>, reason: Reason) -> WaitingGuard {
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.reasons.insert(number, reason);
        WaitingGuard(Arc::clone(self), number)
    }

    /// Why a server takes no connections, if one does not.
    pub(crate) fn waits_for(&self) -> Option<Reason> {
        self.lock().reasons.values().next().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A map is whole whatever its holder was doing when it panicked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

/// See [`Inbound::waiting`].
#[derive(Debug)]
pub(crate) struct WaitingGuard(Arc<Inbound>, u64);

impl Drop for WaitingGuard {
    fn drop(&mut self) {
        self.0.lock().reasons.remove(&self.1);
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
