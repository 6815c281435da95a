//! `meshctl shift SERVICE SUBSET=WEIGHT...`

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use mesh_control::istio;
use mesh_control::shift::{Folder, Shift, ShiftRefusal, replace, unified};
use mesh_control::translate::Mesh;
use serde_json::json;

use crate::watch::Page;

/// The exit code when the documents have errors, before or after.
const FOUND: u8 = 79;

/// Give the destinations of a service other weights, in the VirtualService that is there. Everything else in the file stays as it is.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The service, by its host; a short name is of `--namespace`.
    service: String,
    /// The weight of each destination, by its subset, or by its host where it has none. They sum to 100.
    #[arg(required = true, value_parser = weight)]
    weights: Vec<(String, u32)>,
    /// The folder.
    #[arg(long)]
    dir: PathBuf,
    /// The namespace of a short name.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The routes that are meant, by name or, where they have none, by index from 0. Needed where several have these destinations.
    #[arg(long)]
    route: Vec<String>,
    /// Writes nothing, and prints what would be changed.
    #[arg(long)]
    dry_run: bool,
    /// Then shows how the traffic is divided, as clients report it to a control plane that runs on this machine, until it follows. Exit code 1
    /// when it has not within --watch-for.
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// How long it is watched at most, as 2m or 90s.
    #[arg(long, default_value = "2m", value_parser = duration)]
    watch_for: Duration,
    /// The state directory of the control plane that is watched.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
    /// The trust domain of the mesh.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let (name, weight) = text.split_once('=').ok_or("not of the form SUBSET=WEIGHT")?;
    let weight = weight
        .trim_end_matches('%')
        .parse()
        .ok()
        .filter(|weight| *weight <= 100);
    let weight = weight.ok_or("a weight is a whole number between 0 and 100")?;
    Ok((name.to_owned(), weight))
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let folder = Folder::read(&arguments.dir)?;
    let mesh = Mesh {
        trust_domain: arguments.trust_domain.as_str().into(),
        ..Mesh::default()
    };
    let shift = Shift {
        service: arguments.service,
        namespace: arguments.namespace,
        weights: arguments.weights,
        routes: arguments.route,
    };
    let shifted = match shift.plan(&folder.files, &mesh) {
        Ok(shifted) => shifted,
        Err(ShiftRefusal::Analysis(errors)) => {
            errors.iter().try_for_each(crate::print)?;
            crate::print(&crate::analyze::summary(&errors))?;
            return Ok(ExitCode::from(FOUND));
        }
        Err(refusal) => {
            crate::print(&format_args!("refused: {refusal}"))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let path = folder.path(&shifted.file);
    let changed = shifted.before != shifted.after;
    if arguments.dry_run {
        let patch = unified(&path.display().to_string(), &shifted.before, &shifted.after);
        if changed {
            crate::print(&patch.trim_end())?;
        }
    } else if changed {
        replace(&path, &shifted.before, &shifted.after)?;
    }
    let mut result = json!({
        "changed": changed && !arguments.dry_run,
        "document": shifted.document,
        "file": path,
        "routes": shifted.routes,
    });
    let mut code = ExitCode::SUCCESS;
    if arguments.watch {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let page = Page::of(&arguments.state);
        let watched = runtime.block_on(page.watch(&shifted.targets, arguments.watch_for))?;
        result["calls"] = watched.calls.into();
        result["failed"] = watched.failed.into();
        result["follows"] = watched.follows.into();
        if watched.follows != Some(true) {
            code = ExitCode::FAILURE;
        }
    }
    crate::print(&result)?;
    Ok(code)
}

fn duration(text: &str) -> Result<Duration, String> {
    istio::parse_duration(text).ok_or_else(|| "not a duration, such as 2m or 90s".to_owned())
}
