//! `meshctl deny`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use mesh_control::Enrolment;
use rustls::time_provider::DefaultTimeProvider;
use serde_json::json;

/// Believe no certificate and no join token of a workload any more that there is now, since one was stolen.
///
/// None of them renews or joins any more; the last certificate still works until it ends. The workload itself joins again with a
/// token that is made afterwards: meshctl bootstrap.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The workload's service account.
    #[arg(long)]
    service_account: String,
    /// The workload's namespace.
    #[arg(long)]
    namespace: String,
    /// The state directory of the control plane.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let enrolment = Enrolment::open(&arguments.state, None, None, Arc::new(DefaultTimeProvider))?;
    let identity = enrolment.identity(&arguments.namespace, &arguments.service_account)?;
    let tokens = enrolment.deny(&arguments.namespace, &arguments.service_account)?;
    crate::print(&json!({ "denied": identity.as_str(), "tokens_removed": tokens }))?;
    Ok(ExitCode::SUCCESS)
}
