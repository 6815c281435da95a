//! `meshctl analyze DIR|FILE...`
//!
//! The verb, the levels, the exit code and the keys of its JSON are istioctl's, so that what reads its output in a pipeline reads ours.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mesh_control::diagnostic::{Code, Diagnostic, Severity};
use mesh_control::translate::Mesh;
use mesh_control::{Reading, analyze};
use serde::Serialize;
use serde_json::json;

use crate::terminal::{Colour, Paint};

/// The exit code when a finding is as bad as `--failure-threshold`, as istioctl's is.
const FOUND: u8 = 79;

/// Say what is wrong with documents of Istio, as the control plane does before it publishes them. Exit code 79 when a finding is an error.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Folders and files. Together they are looked at as if they were one folder.
    #[arg(required_unless_present = "list_codes")]
    paths: Vec<PathBuf>,
    /// How findings are printed.
    #[arg(short, long, value_enum, default_value_t = Output::Log)]
    output: Output,
    /// Warnings fail too: short for `--failure-threshold warning`.
    #[arg(long, conflicts_with = "failure_threshold")]
    strict: bool,
    /// The mildest finding that makes the exit code 79.
    #[arg(long, value_enum, ignore_case = true, default_value_t = Level::Error)]
    failure_threshold: Level,
    /// The mildest finding that is printed.
    #[arg(long, value_enum, ignore_case = true, default_value_t = Level::Info)]
    output_threshold: Level,
    /// Leaves out findings of a code, everywhere or of one document: `IST0174`, `IST0174=DestinationRule default/reviews`.
    #[arg(short = 'S', long, value_parser = suppression)]
    suppress: Vec<Suppression>,
    /// When to colour.
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    color: Colour,
    /// Prints every code, what it means and what to do about it, and looks at nothing.
    #[arg(short = 'L', long)]
    list_codes: bool,
    /// The trust domain of the mesh.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// As of `run`: issuers' keys may be fetched in plaintext.
    #[arg(long)]
    dangerous_plaintext_jwks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line each, as `file:line:column: severity[code]: document: field: message`, a hint below it, and a count.
    Log,
    /// A JSON array with istioctl's keys and more.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Error,
    Warning,
    Info,
}

impl Level {
    /// Whether a finding is at least as bad.
    fn takes(self, severity: Severity) -> bool {
        // The worst is the least.
        severity
            <= match self {
                Self::Error => Severity::Error,
                Self::Warning => Severity::Warning,
                Self::Info => Severity::Info,
            }
    }
}

/// A code, and the one document that is meant.
#[derive(Clone, Debug)]
struct Suppression(Code, Option<String>);

fn suppression(text: &str) -> Result<Suppression, String> {
    let (code, document) = match text.split_once('=') {
        Some((code, document)) => (code, Some(document.to_owned())),
        None => (text, None),
    };
    let known = Code::ALL.iter().find(|known| known.as_str().eq_ignore_ascii_case(code));
    let code = known.ok_or_else(|| format!("{code:?} is no code: --list-codes has them"))?;
    Ok(Suppression(*code, document))
}

impl Suppression {
    fn hides(&self, finding: &Diagnostic) -> bool {
        let document = finding.document.as_deref();
        finding.code == self.0 && self.1.as_deref().is_none_or(|meant| document == Some(meant))
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if arguments.list_codes {
        for code in Code::ALL {
            crate::print(&format_args!("{code}  {}\n         {}", code.about(), code.hint()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mesh = Mesh {
        trust_domain: arguments.trust_domain.as_str().into(),
        plaintext_jwks: arguments.dangerous_plaintext_jwks,
        ..Mesh::default()
    };
    let mut findings = analyze(&Reading::of_paths(&arguments.paths), &mesh);
    findings.retain(|finding| !arguments.suppress.iter().any(|one| one.hides(finding)));
    let mut shown = findings
        .iter()
        .filter(|finding| arguments.output_threshold.takes(finding.severity));
    match arguments.output {
        Output::Log => {
            let paint = Paint::new(arguments.color);
            shown.try_for_each(|finding| {
                crate::print(&paint.severity(finding))?;
                crate::print(&format_args!("    hint: {}", finding.code.hint()))
            })?;
            crate::print(&summary(&findings))?;
        }
        Output::Json => {
            let messages: Vec<Message<'_>> = shown.map(Message::of).collect();
            crate::print(&serde_json::to_string_pretty(&messages)?)?;
        }
    }
    let threshold = match arguments.strict {
        true => Level::Warning,
        false => arguments.failure_threshold,
    };
    let failed = findings.iter().any(|finding| threshold.takes(finding.severity));
    Ok(if failed {
        ExitCode::from(FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

/// How many there are of each, shown or not.
pub(crate) fn summary(findings: &[Diagnostic]) -> serde_json::Value {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    json!({
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "infos": count(Severity::Info),
    })
}

/// A finding as istioctl's JSON has it, and where it stands more exactly.
#[derive(Debug, Serialize)]
struct Message<'a> {
    code: Code,
    level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    reference: String,
    message: &'a str,
    hint: &'static str,
    file: &'a str,
    line: u32,
    column: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl<'a> Message<'a> {
    fn of(finding: &'a Diagnostic) -> Self {
        Self {
            code: finding.code,
            level: match finding.severity {
                Severity::Error => "Error",
                Severity::Warning => "Warning",
                Severity::Info => "Info",
            },
            origin: finding.document.as_deref(),
            reference: format!("{}:{}", finding.file, finding.line),
            message: &finding.message,
            hint: finding.code.hint(),
            file: &finding.file,
            line: finding.line,
            column: finding.column,
            field: finding.field.as_deref(),
        }
    }
}
