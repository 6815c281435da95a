//! `meshctl check DIR`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mesh_control::diagnostic::{Diagnostic, Severity};
use mesh_control::translate::Mesh;
use mesh_control::{Reading, check};
use serde_json::json;

/// Say what is wrong with a folder of Istio YAML. Exit code 1 when a finding is an error.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder.
    folder: PathBuf,
    /// How findings are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The trust domain of the mesh.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// As of `run`: issuers' keys may be fetched in plaintext.
    #[arg(long)]
    dangerous_plaintext_jwks: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A line each, as `file:line:column: severity[code]: document: field: message`, and a count.
    Text,
    /// One JSON object.
    Json,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let mesh = Mesh {
        trust_domain: arguments.trust_domain.as_str().into(),
        plaintext_jwks: arguments.dangerous_plaintext_jwks,
        ..Mesh::default()
    };
    let findings = check(&Reading::of(&arguments.folder), &mesh);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let mut summary = json!({
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "notes": count(Severity::Note),
    });
    match arguments.output {
        Output::Text => findings.iter().try_for_each(crate::print)?,
        Output::Json => summary["diagnostics"] = serde_json::to_value(&findings)?,
    }
    crate::print(&summary)?;
    let failed = findings.iter().any(Diagnostic::is_error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
