//! `meshctl`: the control plane as a program, and the tools beside it. A file per verb.
//!
//! Results go to standard output, the last line of it one JSON object; logs go to standard error (`RUST_LOG`, default
//! `info`). Exit codes: 0 done, 1 failed, 2 not understood, 79 something was found.

mod analyze;
mod bootstrap;
mod cert;
mod completion;
mod config;
mod dashboard;
mod deny;
mod describe;
mod explain;
mod precheck;
mod rotate_root;
mod run;
mod shift;
mod status;
mod terminal;
mod watch;
mod workload;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Where the root and the join tokens are when nothing is said.
const DEFAULT_STATE: &str = ".meshctl";
/// Where ADS and the status of clients are served in the clear when nothing is said.
const DEFAULT_PLAINTEXT: &str = "127.0.0.1:15010";

/// Where the page of the mesh is served when nothing is said.
const DEFAULT_ADMIN: &str = "127.0.0.1:15014";

/// The control plane of an in-process service mesh.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what a workload holds of one kind.
    Config(config::Arguments),
    /// Say which documents apply to a service, in the order in which they count.
    Describe(describe::Arguments),
    /// Say what would become of a request, and which document says so.
    Explain(explain::Arguments),
    /// Say what about this machine would keep a mesh from working well.
    Precheck(precheck::Arguments),
    /// Serve a folder of Istio YAML to the mesh until interrupted.
    Run(run::Arguments),
    /// Let a workload in: print the bootstrap it needs, with a join token.
    Bootstrap(bootstrap::Arguments),
    /// Say what is wrong with documents of Istio, before they are served.
    Analyze(analyze::Arguments),
    /// Give the destinations of a service other weights, in the document that is there.
    Shift(shift::Arguments),
    /// Show who is connected, what each was sent, and what it said to that.
    Status(status::Arguments),
    /// Make, read and judge certificates of the mesh.
    Cert(cert::Arguments),
    /// Open the page of a control plane that runs.
    Dashboard(dashboard::Arguments),
    /// Believe no certificate and no join token of a workload any more, since one was stolen.
    Deny(deny::Arguments),
    /// Replace the root of a control plane that runs, in three phases.
    RotateRoot(rotate_root::Arguments),
    /// Print a script that has a shell complete verbs and options.
    Completion(completion::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let done = match arguments.verb {
        Verb::Config(arguments) => config::run(&arguments),
        Verb::Describe(arguments) => describe::run(&arguments),
        Verb::Explain(arguments) => explain::run(&arguments),
        Verb::Precheck(arguments) => precheck::run(&arguments),
        Verb::Run(arguments) => run::run(arguments),
        Verb::Bootstrap(arguments) => bootstrap::run(arguments),
        Verb::Analyze(arguments) => analyze::run(&arguments),
        Verb::Shift(arguments) => shift::run(arguments),
        Verb::Status(arguments) => status::run(&arguments),
        Verb::Dashboard(arguments) => dashboard::run(&arguments),
        Verb::Deny(arguments) => deny::run(&arguments),
        Verb::RotateRoot(arguments) => rotate_root::run(&arguments),
        Verb::Cert(arguments) => cert::run(arguments),
        Verb::Completion(arguments) => completion::run(&arguments),
    };
    done.unwrap_or_else(|error| {
        tracing::error!(error = &*error as &dyn Error, "failed");
        ExitCode::FAILURE
    })
}

/// Prints a line of the result. Unlike `println!` it does not panic when nobody reads any more.
fn print(line: &impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
