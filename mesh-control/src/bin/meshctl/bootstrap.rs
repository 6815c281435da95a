//! `meshctl bootstrap`

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use mesh_control::{Lifetime, MAX_SINGLE_USE_LIFETIME, istio, write_secret};
use serde_json::json;

use crate::workload::Workload;

/// Let a workload in: print the bootstrap it needs, with a join token.
///
/// The token works once, within ten minutes. A process that is to survive a restart needs one that works again: --reusable,
/// which goes to a file that only its owner may read.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    workload: Workload,
    /// The HOST:PORT of the control plane. Default: what the control plane noted in its state directory.
    #[arg(long)]
    server: Option<String>,
    /// The trust domain. Default: what the control plane noted in its state directory.
    #[arg(long)]
    trust_domain: Option<String>,
    /// The token works any number of times.
    #[arg(long, requires_all = ["ttl", "output"])]
    reusable: bool,
    /// How long the token works, as 24h or 90s. At most 10m unless reusable.
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// Puts no token into the bootstrap: the workload shows the one that this file holds on its machine, such as the projected token of a
    /// Kubernetes service account (`meshctl run --service-account-issuer`).
    #[arg(long, conflicts_with_all = ["reusable", "ttl"])]
    token_file: Option<String>,
    /// The WorkloadGroup of the namespace that the workload registers itself in while it runs.
    #[arg(long)]
    group: Option<String>,
    /// Where it is called then. Default: where its connection to the control plane comes from.
    #[arg(long, requires = "group")]
    address: Option<IpAddr>,
    /// Writes the bootstrap to a file of mode 0600 instead.
    #[arg(long)]
    output: Option<PathBuf>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let lifetime = lifetime(arguments.reusable, arguments.ttl)?;
    let workload = &arguments.workload;
    let (enrolment, identity) = workload.open(arguments.server, arguments.trust_domain)?;
    let (namespace, account) = (&workload.namespace, &workload.service_account);
    let group = arguments.group.as_deref().map(|group| (group, arguments.address));
    let bootstrap = match (&arguments.token_file, group) {
        (Some(path), group) => enrolment.by_token_file(namespace, account, path, group)?,
        (None, Some(group)) => enrolment.registering(namespace, account, lifetime, group)?,
        (None, None) => enrolment.bootstrap(namespace, account, lifetime)?,
    };
    match &arguments.token_file {
        Some(path) => tracing::info!(%identity, server = enrolment.server(), token_file = path, "no join token made"),
        None => tracing::info!(%identity, server = enrolment.server(), ?lifetime, "join token made"),
    }
    match arguments.output {
        Some(path) => {
            write_secret(&path, bootstrap.to_json().as_bytes())?;
            crate::print(&json!({ "bootstrap": path, "identity": identity.as_str() }))?;
        }
        None => crate::print(&bootstrap.to_json())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn lifetime(reusable: bool, ttl: Option<Duration>) -> Result<Lifetime, TooLong> {
    match (reusable, ttl) {
        (true, Some(ttl)) => Ok(Lifetime::Reusable(ttl)),
        (_, None) => Ok(Lifetime::default()),
        (false, Some(ttl)) if ttl <= MAX_SINGLE_USE_LIFETIME => Ok(Lifetime::SingleUse(ttl)),
        (false, Some(_)) => Err(TooLong),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = istio::parse_duration(text).filter(|duration| *duration >= Duration::from_secs(1));
    duration.ok_or_else(|| "not a duration between 1s and a year, such as 24h or 90s".to_owned())
}

/// As [`duration`], or none at all.
pub(crate) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        text => duration(text),
    }
}

/// A single-use token that waits too long.
#[derive(Debug)]
struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token that works once waits at most 10m; use --reusable for a longer --ttl")
    }
}

impl Error for TooLong {}
