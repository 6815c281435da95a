//! What the stream is doing and what became of each resource: for the dashboard, for `csds`, and for tests, which read this
//! rather than logs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::Version;
use mesh_core::live;
use tokio::sync::{Notify, watch};

use super::cache::{Cache, Trouble};
use crate::decode::Rejected;
use crate::resource::ResourceKind;

/// A window on an [`XdsClient`](super::XdsClient). Clones look at the same one and do not keep it alive.
#[derive(Clone)]
pub struct ConfigStatus {
    reports: watch::Receiver<Arc<Report>>,
    applied: live::Reader<Version>,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The stream.
    pub connection: Connection,
    /// The version of the snapshot that was published last.
    pub published: Version,
    /// Every subscribed resource, by kind and name.
    pub resources: Vec<ResourceStatus>,
    /// The targets without a whole configuration, and what each waits for.
    pub waiting: BTreeMap<Arc<str>, Vec<String>>,
    /// How many resources were refused since the start.
    pub rejections: u64,
    /// The last one that was.
    pub last_rejection: Option<Rejected>,
}

/// The state of the stream.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Connection {
    /// The control plane's address.
    pub server: String,
    /// What it is doing.
    pub phase: Phase,
    /// Attempts to open a stream since something was last heard.
    pub attempts: u32,
    /// Streams opened since the start.
    pub streams: u64,
    /// Responses received since the start.
    pub responses: u64,
    /// Why the last stream, or attempt at one, ended.
    pub last_error: Option<String>,
}

/// What the stream is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Nothing is wanted yet.
    #[default]
    Idle,
    /// Waits for the workload's identity, which the control plane asks to see.
    Joining,
    /// Connects.
    Connecting,
    /// A stream is open.
    Connected,
    /// Waits before the next attempt.
    BackingOff(Duration),
    /// The client was dropped.
    Stopped,
}

/// What became of one resource.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResourceStatus {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name.
    pub name: Arc<str>,
    /// The version it last came with, good or not; empty when it never came.
    pub received: Arc<str>,
    /// The version of the value in use.
    pub accepted: Option<Arc<str>>,
    /// What was left out of that value.
    pub notes: Vec<Box<str>>,
    /// Set when what came last was refused.
    pub rejected: Option<Rejected>,
    /// Set when the control plane does not have it, or has deleted it: in its words or ours.
    pub absent: Option<Arc<str>>,
}

/// What was waited for did not come.
#[derive(Clone, Debug)]
pub struct NotYet {
    after: Duration,
    report: Arc<Report>,
}

impl NotYet {
    /// How things stood in the end.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not within {:?}; the xDS client stands at {:?}",
            self.after, self.report
        )
    }
}

impl std::error::Error for NotYet {}

impl ConfigStatus {
    pub(super) fn new(reports: watch::Receiver<Arc<Report>>, applied: live::Reader<Version>) -> Self {
        Self { reports, applied }
    }

    /// How things stand.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.reports.borrow())
    }

    /// Waits until a report satisfies `condition`, and returns it.
    ///
    /// # Errors
    ///
    /// When none does in time, or the client was dropped.
    pub async fn until(
        &self,
        within: Duration,
        mut condition: impl FnMut(&Report) -> bool,
    ) -> Result<Arc<Report>, NotYet> {
        let mut reports = self.reports.clone();
        let waiting = reports.wait_for(|report| condition(report));
        let reached = match tokio::time::timeout(within, waiting).await {
            Ok(Ok(report)) => Some(Arc::clone(&report)),
            Ok(Err(_)) | Err(_) => None,
        };
        reached.ok_or_else(|| NotYet {
            after: within,
            report: self.report(),
        })
    }

    /// Waits until the newest published snapshot serves requests: being accepted is not yet being in effect.
    ///
    /// # Errors
    ///
    /// When it does not in time. In a process without a channel nothing is ever applied.
    pub async fn applied(&self, within: Duration) -> Result<(), NotYet> {
        let bell = Arc::new(Notify::new());
        let ring = Arc::clone(&bell);
        let _subscription = self.applied.on_change(move || ring.notify_one());
        let target = self.report().published;
        let waiting = async {
            while **self.applied.load() < target {
                bell.notified().await;
            }
        };
        tokio::time::timeout(within, waiting).await.map_err(|_| NotYet {
            after: within,
            report: self.report(),
        })
    }

    /// Waits until version `version` of a resource was accepted and serves requests.
    ///
    /// # Errors
    ///
    /// When it does not in time.
    pub async fn in_effect(
        &self,
        kind: ResourceKind,
        name: &str,
        version: &str,
        within: Duration,
    ) -> Result<(), NotYet> {
        let accepted = |report: &Report| {
            let resource = report.resource(kind, name);
            resource.is_some_and(|resource| resource.accepted.as_deref() == Some(version))
        };
        self.until(within, accepted).await?;
        self.applied(within).await
    }
}

impl fmt::Debug for ConfigStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConfigStatus").field(&*self.report()).finish()
    }
}

impl Report {
    /// One resource.
    pub fn resource(&self, kind: ResourceKind, name: &str) -> Option<&ResourceStatus> {
        let found = |resource: &&ResourceStatus| resource.kind == kind && &*resource.name == name;
        self.resources.iter().find(found)
    }

    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        self.connection.phase == Phase::Connected
    }
}

pub(super) fn resources(cache: &Cache) -> Vec<ResourceStatus> {
    cache
        .rows()
        .map(|row| ResourceStatus {
            kind: row.kind,
            name: Arc::clone(row.name),
            received: Arc::clone(row.received),
            accepted: row.accepted.cloned(),
            notes: row.notes.to_vec(),
            rejected: match row.trouble {
                Some(Trouble::Refused(rejected)) => Some(rejected.clone()),
                _ => None,
            },
            absent: match row.trouble {
                Some(Trouble::Absent(why)) => Some(Arc::clone(why)),
                _ => None,
            },
        })
        .collect()
}
