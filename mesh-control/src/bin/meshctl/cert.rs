//! `meshctl cert issue|show|verify`

use std::error::Error;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mesh_control::certificate::{CertificateView, MAX_PEM_BYTES, read_pem, verify};
use mesh_control::{istio, write_secret};
use mesh_core::identity::{TrustBundle, TrustDomain};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider as _};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::workload::Workload;

/// The exit code when a chain is refused.
const FOUND: u8 = 79;

/// Make, read and judge certificates of the mesh.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a key and a certificate for what is no workload of this library, as a script is: cert.pem, key.pem and roots.pem in a folder.
    Issue(Issue),
    /// Show what certificates say. It proves nothing: see verify.
    Show(Show),
    /// Say whether peers of the mesh believe a chain, and if not, which rule it breaks.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Issue {
    #[command(flatten)]
    workload: Workload,
    /// The folder of the three files; key.pem is its owner's alone.
    #[arg(long)]
    output: PathBuf,
    /// How long it lives, as 12h or 90s: a minute to a day.
    #[arg(long, default_value = "24h", value_parser = duration)]
    ttl: Duration,
}

#[derive(Debug, Args)]
struct Show {
    /// The file of certificates, in PEM.
    file: PathBuf,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
struct Verify {
    /// The file of the chain in PEM, leaf first.
    file: PathBuf,
    /// The file of the roots in PEM, as FILE for the mesh's own trust domain or DOMAIN=FILE for another.
    #[arg(long, required = true)]
    roots: Vec<String>,
    /// The trust domain of the mesh.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// The SPIFFE id that callers expect. Default: whom it names.
    #[arg(long)]
    expect: Option<String>,
    /// The moment (RFC 3339). Default: now.
    #[arg(long, value_parser = moment)]
    at: Option<UnixTime>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines, and the result as one JSON object.
    Text,
    /// One JSON object.
    Json,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    match arguments.verb {
        Verb::Issue(arguments) => issue(&arguments),
        Verb::Show(arguments) => show(&arguments),
        Verb::Verify(arguments) => judge(&arguments),
    }
}

fn issue(arguments: &Issue) -> Result<ExitCode, Box<dyn Error>> {
    let workload = &arguments.workload;
    let (enrolment, _) = workload.open(None, None)?;
    let issued = enrolment.issue(&workload.namespace, &workload.service_account, arguments.ttl)?;
    std::fs::create_dir_all(&arguments.output)?;
    // The key first: a certificate beside another key would be read as a pair.
    for (name, text) in [
        ("key.pem", issued.key_pem.as_bytes()),
        ("cert.pem", issued.certificate_pem.as_bytes()),
        ("roots.pem", issued.roots_pem.as_bytes()),
    ] {
        write_secret(&arguments.output.join(name), text)?;
    }
    crate::print(&json!({
        "folder": arguments.output,
        "identity": issued.id.as_str(),
        "not_after": text(issued.not_after),
        "serial": issued.serial,
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn show(arguments: &Show) -> Result<ExitCode, Box<dyn Error>> {
    let all = certificates(&arguments.file)?;
    let views: Option<Vec<_>> = all.iter().map(CertificateView::read).collect();
    let views = views.ok_or_else(|| format!("{}: holds what is no certificate", arguments.file.display()))?;
    match arguments.output {
        Output::Text => {
            views.iter().try_for_each(crate::print)?;
            crate::print(&json!({ "certificates": views.len() }))?;
        }
        Output::Json => crate::print(&json!({ "certificates": views }))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn judge(arguments: &Verify) -> Result<ExitCode, Box<dyn Error>> {
    let chain = certificates(&arguments.file)?;
    let bundle = bundle(arguments)?;
    let now = match arguments.at {
        Some(at) => at,
        None => DefaultTimeProvider
            .current_time()
            .ok_or("the wall clock cannot be read")?,
    };
    let (line, about, code) = match verify(&chain, &bundle, arguments.expect.as_deref(), now) {
        Ok(believed) => {
            let not_after = text(believed.not_after.as_secs());
            let about = json!({ "believed": true, "identity": believed.id.as_str(), "not_after": not_after });
            (
                format!("believed: {}, until {not_after}", believed.id),
                about,
                ExitCode::SUCCESS,
            )
        }
        Err((by, refusal)) => {
            let (rule, why) = (refusal.as_str(), refusal.to_string());
            let about = json!({ "believed": false, "by": by, "rule": rule, "reason": why });
            (format!("refused by {by}: {rule}: {why}"), about, ExitCode::from(FOUND))
        }
    };
    if arguments.output == Output::Text {
        crate::print(&line)?;
    }
    crate::print(&about)?;
    Ok(code)
}

fn bundle(arguments: &Verify) -> Result<TrustBundle, Box<dyn Error>> {
    let mut bundle: Option<TrustBundle> = None;
    for one in &arguments.roots {
        let (domain, file) = one.split_once('=').unwrap_or((&arguments.trust_domain, one));
        let domain = TrustDomain::parse(domain).map_err(|error| format!("{domain:?} is no trust domain: {error}"))?;
        let roots = certificates(Path::new(file))?;
        bundle = Some(match bundle {
            None => TrustBundle::new(domain, roots)?,
            Some(bundle) => bundle.with_domain(domain, roots)?,
        });
    }
    Ok(bundle.expect("the command line has one at least"))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
    let mut pem = Vec::new();
    // One byte more than is read says that there is more.
    let read = File::open(path).and_then(|file| file.take(MAX_PEM_BYTES as u64 + 1).read_to_end(&mut pem));
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(read_pem(&pem).map_err(|error| format!("{}: {error}", path.display()))?)
}

fn text(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

fn duration(text: &str) -> Result<Duration, String> {
    istio::parse_duration(text).ok_or_else(|| "not a duration, such as 12h or 90s".to_owned())
}

fn moment(text: &str) -> Result<UnixTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "not a moment such as 2026-11-30T12:00:00Z")?;
    let seconds = u64::try_from(time.unix_timestamp()).map_err(|_| "a moment before 1970")?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}
