//! The control plane as one value: the folder watched, the ports open, until it is dropped or shut down.
//!
//! `meshctl run` is this and a signal handler; tests and examples embed the same assembly, with port 0 and a clock of their
//! own.

mod builder;
mod error;

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::report::Tally;
use mesh_xds::Bootstrap;
use mesh_xds::server::{ClientReport, LoadBoard, SnapshotCache};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ca::Lifetime;
use crate::enrol::{self, EnrolError, Enrolment};
use crate::publish::Status;
use crate::rotation::RootRotation;

pub use builder::{ControlPlaneBuilder, Dangerous};
pub use error::StartError;

/// How long a shutdown waits for streams to end before it drops them.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running control plane. Dropping it closes its ports and streams at once.
#[derive(Debug)]
pub struct ControlPlane {
    address: SocketAddr,
    plaintext_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    enrolment: Enrolment,
    rotation: RootRotation,
    cache: SnapshotCache,
    loads: LoadBoard,
    status: watch::Receiver<Status>,
    tally: Tally,
    closing: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    /// How many of them, the first, go on for ever.
    endless: usize,
    /// Held for as long as nobody else may use the state directory.
    _lock: Option<File>,
}

impl ControlPlane {
    /// For a control plane of the YAML in `folder`.
    pub fn builder(folder: impl Into<PathBuf>) -> ControlPlaneBuilder {
        ControlPlaneBuilder::new(folder.into())
    }

    /// The port that serves ADS and the CA over TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The loopback port that serves ADS in the clear, if there is one.
    pub fn plaintext_address(&self) -> Option<SocketAddr> {
        self.plaintext_address
    }

    /// The loopback port that serves the page of the mesh over HTTP, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Makes join tokens and bootstraps.
    pub fn enrolment(&self) -> &Enrolment {
        &self.enrolment
    }

    /// Replaces the root, in three phases.
    pub fn root_rotation(&self) -> &RootRotation {
        &self.rotation
    }

    /// A bootstrap for a workload, with a join token that works once within ten minutes.
    ///
    /// # Errors
    ///
    /// When the names do not make a SPIFFE id, or the token cannot be kept.
    pub fn bootstrap(&self, namespace: &str, service_account: &str) -> Result<Bootstrap, EnrolError> {
        self.enrolment
            .bootstrap(namespace, service_account, Lifetime::default())
    }

    /// A bootstrap for a client that speaks to the plaintext port and gets no identity; `None` without that port.
    pub fn plaintext_bootstrap(&self, namespace: &str, service_account: &str) -> Option<Bootstrap> {
        let server = self.plaintext_address?.to_string();
        let node = enrol::node(namespace, service_account);
        Bootstrap::builder(node).insecure(&server).build().ok()
    }

    /// What became of the folder.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status and its changes, to be waited for.
    pub fn status_changes(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The connected clients, and what each said to what it was sent.
    pub fn clients(&self) -> Vec<ClientReport> {
        self.cache.clients()
    }

    /// Waits for a change among the clients.
    pub fn client_changes(&self) -> watch::Receiver<u64> {
        self.cache.client_changes()
    }

    /// What the connected clients report of their calls; see [`ControlPlaneBuilder::load_interval`].
    pub fn loads(&self) -> &LoadBoard {
        &self.loads
    }

    /// Counts: `configuration` accepted, rejected and emptied, `certificate_issued`, `certificate_refused`, `handshake_refused`, `jwks_fetched`,
    /// `jwks_failed`, `jwks_published`.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Ends every stream and closes the ports. Clients keep what they have.
    pub async fn shutdown(mut self) {
        self.close();
        let deadline = tokio::time::Instant::now() + SHUTDOWN_TIMEOUT;
        for mut task in std::mem::take(&mut self.tasks) {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    fn close(&self) {
        self.closing.send_replace(true);
        self.cache.close();
        self.loads.close();
        // Those that nothing tells to end: they watch the folder, fetch keys, and listen to who administers it.
        self.tasks.iter().take(self.endless).for_each(JoinHandle::abort);
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.close();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
