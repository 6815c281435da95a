//! The caller's side: calls without pause, and counts what came back from where.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mesh_client::Channel;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Status;

use crate::proto::ChargeRequest;
use crate::proto::payment_client::PaymentClient;
use crate::service::INJECTED;

/// Kinds of error that are told apart; what comes after is counted as `other`.
const MAX_ERROR_KINDS: usize = 32;
/// Latencies that are kept for the percentiles: enough for the longest of these programs.
const MAX_LATENCIES: usize = 2_000_000;

/// A client of the payment service over the mesh.
pub type Client = PaymentClient<Channel<tonic::body::Body>>;

/// What came of the calls so far. Clones are the same counts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    counts: Mutex<Counts>,
}

/// Counts at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Calls that were confirmed.
    pub ok: u64,
    /// Calls that failed, for whatever reason.
    pub failed: u64,
    /// Of the failed ones, those that the mesh itself failed, rather than the service on purpose.
    pub failed_by_mesh: u64,
    /// Calls by the version that took them: confirmed ones, and a version's own injected failures.
    pub by_version: BTreeMap<String, u64>,
    /// Failures by what was said.
    pub errors: BTreeMap<String, u64>,
    /// The newest failure.
    pub last_error: String,
    /// When the newest call that reached v2 began.
    pub last_v2: Option<Instant>,
    latencies: Vec<u32>,
}

impl Tally {
    /// A copy of the counts, without the latencies.
    pub fn counts(&self) -> Counts {
        let counts = self.lock();
        Counts {
            latencies: Vec::new(),
            errors: counts.errors.clone(),
            ..counts.light()
        }
    }

    /// The counts as `checkout` prints them, with percentiles of all calls in microseconds.
    pub fn report(&self) -> Value {
        let mut counts = self.lock();
        counts.latencies.sort_unstable();
        let percentile = |share: f64| {
            let last = counts.latencies.len().saturating_sub(1);
            counts
                .latencies
                .get((last as f64 * share) as usize)
                .copied()
                .unwrap_or_default()
        };
        let (p50, p99) = (percentile(0.50), percentile(0.99));
        json!({
            "ok": counts.ok, "failed": counts.failed, "by": counts.versions(),
            "p50_us": p50, "p99_us": p99, "errors": counts.errors,
        })
    }

    /// The counts as one short line of JSON.
    pub fn line(&self) -> Value {
        let counts = self.lock();
        let of = |version: &str| counts.by_version.get(version).copied().unwrap_or_default();
        json!({ "v1": of("v1"), "v2": of("v2"), "err": counts.failed, "last_error": counts.last_error })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one call and counts it.
    pub async fn call(&self, client: &mut Client) {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed).to_string();
        let began = Instant::now();
        let result = client
            .charge(ChargeRequest {
                id,
                amount: 100,
                note: Bytes::new(),
            })
            .await;
        let took = began.elapsed();
        let mut counts = self.lock();
        match result {
            Ok(reply) => counts.confirmed(reply.into_inner().version, began),
            Err(status) => counts.refused(&status, began),
        }
        if counts.latencies.len() < MAX_LATENCIES {
            counts
                .latencies
                .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// Calls from `concurrency` tasks until `calls` were made or the future is dropped.
    pub async fn run(&self, client: &Client, calls: u64, concurrency: usize) {
        let left = Arc::new(AtomicU64::new(calls));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..concurrency.max(1) {
            let (tally, mut client, left) = (self.clone(), client.clone(), Arc::clone(&left));
            tasks.spawn(async move {
                let take = |left: u64| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    tally.call(&mut client).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl Counts {
    /// How many calls `version` took.
    pub fn of(&self, version: &str) -> u64 {
        self.by_version.get(version).copied().unwrap_or_default()
    }

    /// All calls.
    pub fn total(&self) -> u64 {
        self.ok + self.failed
    }

    fn versions(&self) -> Value {
        let mut versions = BTreeMap::from([("v1".to_owned(), 0), ("v2".to_owned(), 0)]);
        versions.extend(self.by_version.clone());
        json!(versions)
    }

    fn light(&self) -> Self {
        Self {
            ok: self.ok,
            failed: self.failed,
            failed_by_mesh: self.failed_by_mesh,
            by_version: self.by_version.clone(),
            last_error: self.last_error.clone(),
            last_v2: self.last_v2,
            ..Self::default()
        }
    }

    fn confirmed(&mut self, version: String, began: Instant) {
        self.ok += 1;
        self.reached(version, began);
    }

    fn refused(&mut self, status: &Status, began: Instant) {
        self.failed += 1;
        let kind = format!("{:?}: {}", status.code(), status.message());
        match status
            .message()
            .strip_suffix(INJECTED)
            .and_then(|text| text.strip_suffix(": "))
        {
            Some(version) => self.reached(version.to_owned(), began),
            None => self.failed_by_mesh += 1,
        }
        let known = self.errors.contains_key(&kind) || self.errors.len() < MAX_ERROR_KINDS;
        *self
            .errors
            .entry(if known { kind.clone() } else { "other".into() })
            .or_default() += 1;
        self.last_error = kind;
    }

    fn reached(&mut self, version: String, began: Instant) {
        if version == "v2" {
            self.last_v2 = Some(self.last_v2.map_or(began, |last| last.max(began)));
        }
        *self.by_version.entry(version).or_default() += 1;
    }
}

/// A duration as people read it.
#[derive(Clone, Copy, Debug)]
pub struct Millis(pub Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}
