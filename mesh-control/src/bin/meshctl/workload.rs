//! What the verbs about one workload have in common: which it is, and the state directory that a control plane keeps it in.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mesh_control::{EnrolError, Enrolment};
use mesh_core::identity::SpiffeId;
use rustls::time_provider::DefaultTimeProvider;

/// A workload, and the control plane that it belongs to.
#[derive(Debug, Args)]
pub(crate) struct Workload {
    /// The workload's service account.
    #[arg(long)]
    pub(crate) service_account: String,
    /// The workload's namespace.
    #[arg(long)]
    pub(crate) namespace: String,
    /// The state directory of the control plane.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
}

impl Workload {
    /// What its control plane knows of it, beside one that runs, and its id. `server` and `trust_domain`: in the place of what was noted.
    pub(crate) fn open(
        &self,
        server: Option<String>,
        trust_domain: Option<String>,
    ) -> Result<(Enrolment, SpiffeId), EnrolError> {
        let enrolment = Enrolment::open(&self.state, server, trust_domain, Arc::new(DefaultTimeProvider))?;
        let identity = enrolment.identity(&self.namespace, &self.service_account)?;
        Ok((enrolment, identity))
    }
}
