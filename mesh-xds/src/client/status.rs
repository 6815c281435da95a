//! What the stream is doing and what became of each resource: for the dashboard, for `csds`, and for tests, which read this
//! rather than logs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::Version;
use mesh_core::live;
use tokio::sync::{Notify, watch};

use super::report::Report;
use crate::node::Node;
use crate::resource::ResourceKind;

/// A window on an [`XdsClient`](super::XdsClient). Clones look at the same one and do not keep it alive.
#[derive(Clone)]
pub struct ConfigStatus {
    reports: watch::Receiver<Arc<Report>>,
    applied: live::Reader<Version>,
    node: Arc<Node>,
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
    pub(super) fn new(reports: watch::Receiver<Arc<Report>>, applied: live::Reader<Version>, node: Arc<Node>) -> Self {
        Self { reports, applied, node }
    }

    /// Who this client says it is, as it is sent.
    pub fn node(&self) -> &Node {
        &self.node
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
