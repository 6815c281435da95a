//! `meshctl dashboard`

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use mesh_control::noted_admin;
use serde_json::json;

/// Say where the page of a control plane is that runs on this machine, and open it if asked.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The state directory of the control plane.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
    /// Opens it in a browser.
    #[arg(long)]
    open: bool,
}

/// What opens an address in whatever browser the person prefers.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let admin = noted_admin(&arguments.state).unwrap_or_else(|| crate::DEFAULT_ADMIN.to_owned());
    let address = format!("http://{admin}/");
    if arguments.open {
        let opened = Command::new(OPENER).arg(&address).stdout(Stdio::null()).status();
        opened.map_err(|error| format!("{OPENER}: {error}; the page is at {address}"))?;
    }
    crate::print(&json!({ "address": address }))?;
    Ok(ExitCode::SUCCESS)
}
