//! `meshctl explain --dir DIR --from WORKLOAD TARGET`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mesh_control::Reading;
use mesh_control::explain::{Asked, ExplainRefusal, explain};
use mesh_control::translate::Mesh;

/// The exit code when the documents have errors, as that of `analyze`.
const FOUND: u8 = 79;

/// Say what would become of a request, and which line of which document says so. It is answered by the documents alone; nothing is called.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What is called, as a client is given it.
    target: String,
    /// The folder.
    #[arg(long)]
    dir: PathBuf,
    /// Who calls: NAMESPACE/SERVICE-ACCOUNT, SERVICE-ACCOUNT in `default`, or a SPIFFE id.
    #[arg(long)]
    from: String,
    /// The method. gRPC's is POST.
    #[arg(long, default_value = "POST")]
    method: String,
    /// The path, with the query.
    #[arg(long, default_value = "/")]
    path: String,
    /// A header, as NAME=VALUE.
    #[arg(long, value_parser = header)]
    header: Vec<(String, String)>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The trust domain of the mesh.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// From the caller to the server, a line for each step and one for each place in a document.
    Text,
    /// One JSON object.
    Json,
}

fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("not of the form NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let mesh = Mesh {
        trust_domain: arguments.trust_domain.as_str().into(),
        ..Mesh::default()
    };
    let asked = Asked {
        from: arguments.from.clone(),
        target: arguments.target.clone(),
        method: arguments.method.clone(),
        path: arguments.path.clone(),
        headers: arguments.header.clone(),
    };
    match explain(&Reading::of_paths(std::slice::from_ref(&arguments.dir)), &mesh, &asked) {
        Ok(explanation) => {
            match arguments.output {
                Output::Text => crate::print(&explanation)?,
                Output::Json => crate::print(&serde_json::to_string(&explanation)?)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => refused(&refusal),
    }
}

/// Says why nothing is explained.
pub(crate) fn refused(refusal: &ExplainRefusal) -> Result<ExitCode, Box<dyn Error>> {
    match refusal {
        ExplainRefusal::Analysis(errors) => {
            errors.iter().try_for_each(crate::print)?;
            crate::print(&crate::analyze::summary(errors))?;
            Ok(ExitCode::from(FOUND))
        }
        refusal => {
            crate::print(&format_args!("refused: {refusal}"))?;
            Ok(ExitCode::FAILURE)
        }
    }
}
