//! Writes `RELIABILITY.md`: every fault that is asked about, its tests, how they ended, and the figures they printed.
//!
//! ```sh
//! cargo run -p tests --bin reliability                          # runs all tests of the workspace, once
//! cargo run -p tests --bin reliability -- --transcript run.txt  # reads what a run said; may be given more than once
//! cargo run -p tests --bin reliability -- --only cp_3           # runs one fault's tests and tells of them; writes nothing
//! ```
//!
//! A transcript is what `cargo test --workspace --no-fail-fast -- --nocapture` says. `-o json` ends with one line of JSON on standard output.
//! Progress goes to standard error. The exit code is 1 when a test failed or the tests could not be run, and 2 when the arguments are wrong.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool's result goes to standard output, its progress to standard error"
)]

mod source;
mod table;
mod transcript;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use source::Test;
use table::{Row, Standing};
use transcript::Transcript;

/// Progress is told once in so many tests.
const TOLD_EVERY: usize = 50;
const USAGE: &str = "usage: reliability [--only ID] [--transcript FILE]... [--note TEXT] [-o json]";

#[derive(Default)]
struct Arguments {
    only: Option<String>,
    transcripts: Vec<PathBuf>,
    json: bool,
    /// What there is to know of the run.
    note: Option<String>,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("reliability: {why}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut arguments = Arguments::default();
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--only" => arguments.only = Some(source::leading_id(&given.next()?)?.0),
            "--transcript" => arguments.transcripts.push(given.next()?.into()),
            "--note" => arguments.note = Some(given.next()?),
            "-o" => arguments.json = given.next()? == "json",
            _ => return None,
        }
    }
    Some(arguments)
}

/// Whether nothing failed.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?;
    let mut tests = source::tests(root);
    let mut asked = source::asked();
    if let Some(only) = &arguments.only {
        asked.retain(|asked| asked.id == only);
    }
    if asked.is_empty() {
        return Err("nobody asks about that".to_owned());
    }
    let mut said = Transcript::default();
    for file in &arguments.transcripts {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        for line in text.lines() {
            said.read(line);
        }
    }
    if arguments.transcripts.is_empty() {
        let own = arguments.only.as_ref().and_then(|only| tests.get(only));
        test(
            root,
            arguments.only.as_deref(),
            own.map_or(&[], Vec::as_slice),
            &mut said,
        )?;
    }
    let rows: Vec<Row> = asked
        .into_iter()
        .map(|asked| {
            let own = tests.remove(asked.id).unwrap_or_default();
            Row::new(asked, own, &said)
        })
        .collect();
    match &arguments.only {
        Some(_) => rows.iter().for_each(|row| print!("{}", table::told(row))),
        None => {
            let about = about(root, said.ended(), arguments.note.as_deref());
            let file = root.join("RELIABILITY.md");
            std::fs::write(&file, table::document(&rows, &about))
                .map_err(|error| format!("{}: {error}", file.display()))?;
            eprintln!("wrote {}", file.display());
        }
    }
    if arguments.json {
        println!("{}", table::json(&rows));
    }
    Ok(rows.iter().all(|row| row.standing() != Standing::Failed))
}

/// What was run, of which commit.
fn about(root: &Path, tests: usize, note: Option<&str>) -> String {
    let git = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .current_dir(root)
        .output();
    let commit = git.ok().filter(|git| git.status.success());
    let commit = commit.map_or_else(String::new, |git| {
        format!(" at commit `{}`", String::from_utf8_lossy(&git.stdout).trim())
    });
    let note = note.map_or_else(String::new, |note| format!(" What was run: {note}."));
    format!("Written{commit}, of a run in which {tests} tests ended, those of no fault among them.{note}")
}

/// Runs the tests of one fault where they are, or all there are.
fn test(root: &Path, only: Option<&str>, own: &[Test], said: &mut Transcript) -> Result<(), String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["test", "--no-fail-fast"]);
    match only {
        None => {
            cargo.arg("--workspace");
        }
        Some(_) if own.is_empty() => return Ok(()),
        Some(only) => {
            let mut packages: Vec<&str> = own.iter().map(|test| test.package.as_str()).collect();
            packages.dedup();
            for package in packages {
                cargo.args(["-p", package]);
            }
            cargo.arg(format!("{}_", only.to_ascii_lowercase().replace('-', "_")));
        }
    }
    cargo
        .args(["--", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().map_err(|error| format!("cargo: {error}"))?;
    let mut ended = 0;
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        // What is no text is no word of the tests'.
        if line.is_ok_and(|line| said.read(&line)) {
            ended += 1;
            if ended % TOLD_EVERY == 0 {
                eprintln!("{ended} tests ended");
            }
        }
    }
    // That tests failed is in what was read; that none ended is not.
    child.wait().map_err(|error| format!("cargo: {error}"))?;
    match ended {
        0 => Err("no test ended: they do not compile, or there are none".to_owned()),
        _ => Ok(()),
    }
}
