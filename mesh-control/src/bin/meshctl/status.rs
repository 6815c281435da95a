//! `meshctl status`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mesh_control::noted_plaintext;
use mesh_control::roster::{Clients, Resources, refusing};
use mesh_xds::csds::fetch;
use serde_json::json;

/// Show who is connected, what each was sent, and what it said to that. Exit code 1 when somebody refuses something.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The HOST:PORT of a control plane's plaintext port. Default: what one noted in its state directory, or 127.0.0.1:15010.
    #[arg(long, conflicts_with = "client")]
    server: Option<String>,
    /// Asks a workload instead: the HOST:PORT of its admin port. Shows every resource that it holds or refused.
    #[arg(long)]
    client: Option<String>,
    /// The state directory of the control plane.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A table, the reasons of refusals, and a count.
    Text,
    /// One JSON object.
    Json,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(show(arguments))
}

async fn show(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let clients = match &arguments.client {
        Some(client) => fetch(client).await?,
        None => fetch(&server(arguments)).await?,
    };
    let refusing = refusing(&clients);
    match (arguments.output, &arguments.client) {
        (Output::Text, None) => print_table(&Clients(&clients))?,
        (Output::Text, Some(_)) => print_table(&Resources(&clients))?,
        (Output::Json, None) => crate::print(&Clients(&clients).to_json())?,
        (Output::Json, Some(_)) => crate::print(&Resources(&clients).to_json())?,
    }
    if matches!(arguments.output, Output::Text) {
        crate::print(&json!({ "clients": clients.len(), "refusing": refusing }))?;
    }
    Ok(if refusing > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn server(arguments: &Arguments) -> String {
    let noted = || noted_plaintext(&arguments.state);
    let server = arguments.server.clone().or_else(noted);
    server.unwrap_or_else(|| crate::DEFAULT_PLAINTEXT.to_owned())
}

/// A table ends its own lines.
fn print_table(table: &impl std::fmt::Display) -> std::io::Result<()> {
    crate::print(&table.to_string().trim_end())
}
