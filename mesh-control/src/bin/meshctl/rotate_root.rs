//! `meshctl rotate-root`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mesh_control::RotationStep;

/// Replace the root of a control plane that runs, in three phases: begin, switch, finish. Prints how it stands.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to do.
    #[arg(value_enum, default_value_t = Step::Status)]
    step: Step,
    /// The state directory of the control plane.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
    /// Goes on although workloads are locked out by it.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Step {
    /// How it stands, and how many connected workloads have acknowledged the phase.
    Status,
    /// Makes a second root, and tells workloads of it with their next certificates.
    Begin,
    /// Lets it sign; refused until every connected workload knows it.
    Switch,
    /// Lets the first root sign again.
    Back,
    /// Forgets the first root; refused until nobody can have a certificate of it.
    Finish,
    /// Forgets the second root, which signs nothing.
    Cancel,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let step = match arguments.step {
        Step::Status => None,
        Step::Begin => Some(RotationStep::Begin),
        Step::Switch => Some(RotationStep::Switch),
        Step::Back => Some(RotationStep::Back),
        Step::Finish => Some(RotationStep::Finish),
        Step::Cancel => Some(RotationStep::Cancel),
    };
    let status = ask(arguments, step)?;
    crate::print(&serde_json::to_string(&status)?)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(unix)]
fn ask(arguments: &Arguments, step: Option<RotationStep>) -> std::io::Result<mesh_control::RotationStatus> {
    mesh_control::rotate_root(&arguments.state, step, arguments.force)
}

#[cfg(not(unix))]
fn ask(_: &Arguments, _: Option<RotationStep>) -> std::io::Result<mesh_control::RotationStatus> {
    Err(std::io::ErrorKind::Unsupported.into())
}
