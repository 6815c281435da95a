//! The answer of `/api/v1/mesh`, as `docs/page.md` tells it: what is added later does not change what is here.

use mesh_core::report::standard::BOUNDS;
use serde::Serialize;

use crate::diagnostic::Diagnostic;

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Mesh {
    /// When it was looked at, RFC 3339.
    pub(super) now: Option<String>,
    /// How often clients report.
    pub(super) interval_ms: u64,
    /// The upper bounds of all `buckets`; the last bucket has none.
    pub(super) bounds_ms: Vec<f64>,
    pub(super) configuration: Configuration,
    /// Of all edges together.
    pub(super) totals: Numbers,
    /// By id.
    pub(super) services: Vec<Service>,
    /// By id.
    pub(super) edges: Vec<Edge>,
    /// In the order in which they came.
    pub(super) clients: Vec<Client>,
    /// Services and edges that were too many to show.
    pub(super) left_out: usize,
}

/// What became of the folder.
#[derive(Debug, Serialize)]
pub(super) struct Configuration {
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// The newest reading was refused.
    pub(super) is_rejected: bool,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// A service, an application that calls, or both.
#[derive(Debug, Serialize)]
pub(super) struct Service {
    /// `namespace/name`.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) namespace: String,
    /// The host it is called by, where anything says.
    pub(super) host: Option<String>,
    /// As configured.
    pub(super) endpoints: Vec<Endpoints>,
    /// Its processes that are connected.
    pub(super) clients: Vec<String>,
    pub(super) processes: usize,
    /// How many of them refuse something.
    pub(super) refusing: usize,
    /// Of all edges that lead here; `None` where none does.
    pub(super) inbound: Option<Numbers>,
}

/// The endpoints of a version.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Endpoints {
    pub(super) version: String,
    pub(super) healthy: usize,
    pub(super) all: usize,
}

/// Who calls whom.
#[derive(Debug, Serialize)]
pub(super) struct Edge {
    /// `from>to`.
    pub(super) id: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) numbers: Numbers,
    /// By version.
    pub(super) clusters: Vec<Cluster>,
    /// The rules by which its clients choose among them.
    pub(super) routes: Vec<Rule>,
    /// Its clients.
    pub(super) clients: Vec<String>,
}

/// A cluster: a version of a service, mostly.
#[derive(Debug, Serialize)]
pub(super) struct Cluster {
    pub(super) cluster: String,
    /// What it is called beside its siblings: its subset, else the version of its endpoints, else `all`.
    pub(super) name: String,
    /// The share that its rule gives it, of 1; `None` where several rules give it different ones, or none is known.
    pub(super) configured: Option<f64>,
    pub(super) numbers: Numbers,
    /// Since its clients' streams began.
    pub(super) failures: Vec<Failure>,
    /// Since its clients' streams began.
    pub(super) drops: Vec<Drop>,
}

/// How calls failed.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Failure {
    pub(super) protocol: String,
    pub(super) code: u16,
    pub(super) flags: String,
    pub(super) calls: u64,
}

/// Calls that were not made.
#[derive(Debug, Serialize)]
pub(super) struct Drop {
    /// `None`: for a limit of the cluster.
    pub(super) category: Option<String>,
    pub(super) calls: u64,
}

/// A rule that divides calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rule {
    /// What it takes, in a few words.
    #[serde(rename = "match")]
    pub(super) matches: String,
    pub(super) shares: Vec<Share>,
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) cluster: String,
    pub(super) name: String,
    /// Of 1.
    pub(super) share: f64,
}

/// A connected client.
#[derive(Debug, Serialize)]
pub(super) struct Client {
    /// Names it within this answer.
    pub(super) stream: String,
    pub(super) node: String,
    /// Its application, where its node tells.
    pub(super) name: Option<String>,
    pub(super) identity: Option<String>,
    pub(super) address: Option<String>,
    pub(super) group: String,
    pub(super) resources: Vec<Resources>,
    /// How many load reports it sent; `None`: it reports none.
    pub(super) reports: Option<u64>,
    /// What of them was not kept.
    pub(super) left_out: u64,
}

/// One kind of resource, as a client was told it.
#[derive(Debug, Serialize)]
pub(super) struct Resources {
    /// `LDS`, `RDS`, `CDS`, `EDS` or `ECDS`.
    pub(super) kind: &'static str,
    /// How many names it asks for; 0: all.
    pub(super) names: usize,
    pub(super) sent: Option<String>,
    pub(super) accepted: Option<String>,
    /// `accepted`, `refused` or `waiting`.
    pub(super) state: &'static str,
    pub(super) reason: Option<String>,
    pub(super) refused_at: Option<String>,
}

/// See [`super::numbers`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Numbers {
    /// How long the newest window was; the longest of several.
    pub(super) span_ms: u64,
    /// Calls per second that ended in the newest window.
    pub(super) rate: f64,
    /// The share of them that failed; `None` where none ended.
    pub(super) error_rate: Option<f64>,
    pub(super) calls: Count,
    pub(super) failed: Count,
    /// Attempts, of which a call may take several.
    pub(super) tries: Count,
    pub(super) dropped: Count,
    /// Attempts in flight at the end of the newest window.
    pub(super) in_progress: u64,
    /// Calls over mutual TLS; `None` where no client tells.
    pub(super) secured: Option<Count>,
    /// Of the newest window; `None` where no call ended, or no client tells.
    pub(super) latency_ms: Option<Latency>,
    /// Calls of the newest window by how long they took.
    pub(super) buckets: [u64; BOUNDS.len() + 1],
}

/// In the newest window, and since the clients' streams began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Count {
    pub(super) window: u64,
    pub(super) total: u64,
}

impl Count {
    pub(super) fn add(&mut self, other: Self) {
        self.window = self.window.saturating_add(other.window);
        self.total = self.total.saturating_add(other.total);
    }
}

/// In milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
}
