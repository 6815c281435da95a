//! `meshctl precheck`

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use mesh_control::precheck::{self, Check, Machine, Verdict};
use mesh_control::{istio, mesh_roots};
use mesh_xds::Bootstrap;
use mesh_xds::bootstrap::Provider;
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use crate::terminal::{Colour, Paint};

/// The exit code when something is wrong, as that of `analyze`.
const FOUND: u8 = 79;

/// Say what about this machine would keep a mesh from working well, before the first run. Exit code 79 when it would not work.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where `run` is to serve ADS and the CA.
    #[arg(long, default_value = "127.0.0.1:15012")]
    listen: SocketAddr,
    /// Where `run` is to serve ADS in the clear.
    #[arg(long, default_value = crate::DEFAULT_PLAINTEXT)]
    plaintext_ads: SocketAddr,
    /// The state directory of the control plane.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
    /// The bootstrap of a workload: its control planes are asked, and its certificates looked at. The ports and the state directory, which are
    /// of the control plane's machine, are not.
    #[arg(long)]
    bootstrap: Option<PathBuf>,
    /// How long processors are looked at; 0s: since the machine was started.
    #[arg(long, default_value = "2s", value_parser = duration)]
    sample: Duration,
    /// Where the machine tells of itself.
    #[arg(long, default_value = "/proc")]
    proc: PathBuf,
    /// Warnings fail too.
    #[arg(long)]
    strict: bool,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// When to colour.
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    color: Colour,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A line each, and a count.
    Text,
    /// One JSON object.
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = istio::parse_duration(text).filter(|duration| *duration <= Duration::from_secs(600));
    duration.ok_or_else(|| "not a duration up to ten minutes, such as 2s".to_owned())
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut checks = Machine::read(&arguments.proc, arguments.sample).checks();
    let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    match &arguments.bootstrap {
        Some(path) => {
            let bootstrap = Bootstrap::from_file(path)?;
            checks.extend(of_certificates(&bootstrap, now));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            checks.extend(runtime.block_on(of_control_planes(&bootstrap)));
        }
        None => {
            for address in [arguments.listen, arguments.plaintext_ads] {
                checks.push(precheck::port(address, &precheck::try_listen(address)));
            }
            let seen = precheck::look(&arguments.state);
            checks.extend(precheck::state_directory(&arguments.state, &seen));
            // One that others may read was told of above.
            let roots = mesh_roots(&arguments.state).unwrap_or_default();
            checks.extend(
                roots
                    .iter()
                    .map(|root| precheck::certificate("the mesh's root", root, now)),
            );
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (errors, warnings) = (count(Verdict::Error), count(Verdict::Warning));
    let mut summary = json!({ "errors": errors, "warnings": warnings });
    match arguments.output {
        Output::Text => {
            let paint = Paint::new(arguments.color);
            checks.iter().try_for_each(|check| crate::print(&paint.check(check)))?;
        }
        Output::Json => summary["checks"] = serde_json::to_value(&checks)?,
    }
    crate::print(&summary)?;
    let failed = errors > 0 || (arguments.strict && warnings > 0);
    Ok(if failed {
        ExitCode::from(FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

async fn of_control_planes(bootstrap: &Bootstrap) -> Vec<Check> {
    let mut checks = Vec::new();
    for server in bootstrap.servers() {
        let met = precheck::meet(server, Arc::new(DefaultTimeProvider)).await;
        let name = server.uri.to_string();
        checks.push(precheck::peer(&name, &met));
        let Ok(met) = met else { continue };
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        checks.push(precheck::clock(met.date.as_deref(), now, met.asked));
        let certificate = met.certificate.as_ref();
        checks.extend(certificate.map(|der| precheck::certificate(&format!("the certificate of {name}"), der, now)));
    }
    checks
}

fn of_certificates(bootstrap: &Bootstrap, now: u64) -> Vec<Check> {
    let files = bootstrap.providers().values().filter_map(|provider| match provider {
        Provider::FileWatcher(files) => Some(files.identity.certificate.as_path()),
        _ => None,
    });
    files.map(|path| of_file(path, now)).collect()
}

fn of_file(path: &Path, now: u64) -> Check {
    let what = path.display().to_string();
    match CertificateDer::from_pem_file(path) {
        Ok(der) => precheck::certificate(&what, &der, now),
        Err(_) => precheck::certificate(&what, &[], now),
    }
}
