//! `meshctl deny`

use std::error::Error;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::workload::Workload;

/// Believe no certificate and no join token of a workload any more that there is now, since one was stolen.
///
/// None of them renews or joins any more; the last certificate still works until it ends. The workload itself joins again with a
/// token that is made afterwards: meshctl bootstrap.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    workload: Workload,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let workload = &arguments.workload;
    let (enrolment, identity) = workload.open(None, None)?;
    let tokens = enrolment.deny(&workload.namespace, &workload.service_account)?;
    crate::print(&json!({ "denied": identity.as_str(), "tokens_removed": tokens }))?;
    Ok(ExitCode::SUCCESS)
}
