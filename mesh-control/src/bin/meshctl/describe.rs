//! `meshctl describe SERVICE --dir DIR`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mesh_control::Reading;
use mesh_control::explain::describe;
use mesh_control::translate::Mesh;

/// Say which documents apply to a service, in the order in which they count.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The service, by its host; a short name is of `--namespace`.
    service: String,
    /// The folder.
    #[arg(long)]
    dir: PathBuf,
    /// The namespace of a short name.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The namespace of the clients. Default: that of a short name.
    #[arg(long)]
    from_namespace: Option<String>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The trust domain of the mesh.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A line for each place in a document.
    Text,
    /// One JSON object.
    Json,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let mesh = Mesh {
        trust_domain: arguments.trust_domain.as_str().into(),
        ..Mesh::default()
    };
    let reading = Reading::of_paths(std::slice::from_ref(&arguments.dir));
    let clients = arguments.from_namespace.as_ref().unwrap_or(&arguments.namespace);
    match describe(&reading, &mesh, (&arguments.service, &arguments.namespace), clients) {
        Ok(description) => {
            match arguments.output {
                Output::Text => crate::print(&description)?,
                Output::Json => crate::print(&serde_json::to_string(&description)?)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => crate::explain::refused(&refusal),
    }
}
