//! The whole story in one command: `cargo run --release --bin payments`.
//!
//! `--json` prints the figures as one JSON object, the last line on standard output. The exit code is 1 when a promise was
//! broken.

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

use std::process::ExitCode;

use clap::Parser;
use examples::{logs, story};

/// Plays a canary from 95/5 to its revert, on loopback, and says what came of it.
#[derive(Debug, Parser)]
struct Arguments {
    /// One JSON object instead of lines for people.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, story::Failure> {
    let arguments = Arguments::parse();
    logs("warn");
    let report = if arguments.json {
        story::play(&|line| eprintln!("{line}")).await?
    } else {
        story::play(&|line| println!("{line}")).await?
    };
    if arguments.json {
        println!("{}", report.json());
    } else {
        println!("\n{}", report.verdict());
    }
    Ok(if report.broken().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
