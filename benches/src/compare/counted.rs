//! What does not move with the machine's load: allocations, writes, system calls and instructions of one client, by `cost`.
//!
//! Another program than the one that is timed, since its allocator counts, which takes time. Instructions and system calls are those of many
//! calls less those of few, or of what stands inside of `profiled`, so start-up and handshake are in neither.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

use crate::Failure;
use crate::results::{Counted, LeftOut, short};

/// Calls of a counted run; of one under a profiler; and the two of which the difference is system calls.
const CALLS: usize = 1600;
const PROFILED: usize = 800;
const TRACED: [usize; 2] = [160, 1760];

/// A program that counts, and the client that it is to be.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    pub(crate) program: PathBuf,
    /// What its profiled function is called.
    pub(crate) profiled: &'static str,
    pub(crate) client: &'static str,
    /// What it is told by its standard input: whom to call, where it does not start the server itself.
    pub(crate) whom: Option<String>,
}

/// What it prints.
#[derive(Deserialize)]
struct Said {
    allocations: f64,
    bytes: f64,
    writes: f64,
}

/// What the machine can count with, and what it cannot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tools {
    valgrind: bool,
    strace: bool,
}

impl Tools {
    pub(crate) fn found(left_out: &mut Vec<LeftOut>) -> Self {
        let mut is_there = |tool: &str, arguments: &[&str], what: &str| {
            let works = Command::new(tool)
                .args(arguments)
                .output()
                .is_ok_and(|output| output.status.success());
            if !works {
                left_out.push(LeftOut {
                    what: what.to_owned(),
                    why: format!("{tool} is not there, or may not be used"),
                });
            }
            works
        };
        Self {
            valgrind: is_there("valgrind", &["--version"], "instructions"),
            strace: is_there("strace", &["-c", "-o", "/dev/null", "true"], "system calls"),
        }
    }
}

impl Counter {
    pub(crate) fn count(&self, concurrent: usize, tools: Tools) -> Result<Counted, Failure> {
        let said: Said = serde_json::from_slice(&self.run(&[], CALLS, concurrent)?.stdout)?;
        let mut counted = Counted {
            allocations: short(said.allocations),
            bytes: short(said.bytes),
            // One that others have made has sockets that do not count.
            writes: self.whom.is_none().then(|| short(said.writes)),
            instructions: None,
            system_calls: None,
        };
        if tools.strace {
            let (few, many) = (self.traced(TRACED[0], concurrent)?, self.traced(TRACED[1], concurrent)?);
            let each = |at: usize| short((many[at] - few[at]) / (TRACED[1] - TRACED[0]) as f64);
            counted.system_calls = Some(each(0));
            counted.writes = counted.writes.or_else(|| Some(each(1)));
        }
        if tools.valgrind {
            counted.instructions = Some(short(self.instructions(concurrent)?));
        }
        Ok(counted)
    }

    fn instructions(&self, concurrent: usize) -> Result<f64, Failure> {
        let toggle = format!("--toggle-collect={}", self.profiled);
        let valgrind = [
            "valgrind",
            "--tool=callgrind",
            &toggle,
            "--callgrind-out-file=/dev/null",
        ];
        let report = self.run(&valgrind, PROFILED, concurrent)?.stderr;
        let report = String::from_utf8_lossy(&report);
        let collected = report.lines().find_map(|line| line.split_once("Collected :"));
        let (_, number) = collected.ok_or("callgrind collected nothing")?;
        Ok(number.trim().parse::<f64>()? / PROFILED as f64)
    }

    /// System calls of the whole run, and those of them that write: of the client alone, which has one thread.
    fn traced(&self, calls: usize, concurrent: usize) -> Result<[f64; 2], Failure> {
        const WRITE: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];
        let report = self
            .run(&["strace", "-c", "-U", "calls,name"], calls, concurrent)?
            .stderr;
        let report = String::from_utf8_lossy(&report);
        let (mut total, mut writes) = (None, 0.0);
        for line in report.lines() {
            let [count, name] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                continue;
            };
            match (count.parse::<f64>(), name) {
                (Ok(count), "total") => total = Some(count),
                (Ok(count), name) if WRITE.contains(&name) => writes += count,
                _ => {}
            }
        }
        Ok([total.ok_or("strace counted nothing")?, writes])
    }

    fn run(&self, under: &[&str], calls: usize, concurrent: usize) -> Result<Output, Failure> {
        let program = self.program.to_string_lossy();
        let (calls, concurrent) = (calls.to_string(), concurrent.to_string());
        let all = [under, &[&program, "--only", self.client, &calls, &concurrent]].concat();
        let (first, rest) = all.split_first().ok_or("nothing to run")?;
        let mut child = Command::new(first)
            .args(rest)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let (Some(whom), Some(mut stdin)) = (&self.whom, child.stdin.take()) {
            writeln!(stdin, "{whom}")?;
        }
        let output = child.wait_with_output()?;
        match output.status.success() {
            true => Ok(output),
            false => Err(format!("{all:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}

/// Has cargo build a program of ours as we were built, and says where it is.
pub(crate) fn build(root: &Path, arguments: &[&str], name: &str, target: Option<&Path>) -> Result<PathBuf, Failure> {
    let own = env::current_exe()?;
    let folder = own.parent().ok_or("no folder")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.arg("build").arg("--locked").args(arguments).current_dir(root);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let mut folder = folder.to_owned();
    if let Some(target) = target {
        command.arg("--target-dir").arg(target);
        folder = target.join(folder.file_name().ok_or("no folder")?);
    }
    eprintln!("building {name}");
    let built = command.output()?;
    match built.status.success() {
        true => Ok(folder.join(name)),
        false => {
            let said = String::from_utf8_lossy(&built.stderr);
            let error = said
                .lines()
                .find(|line| line.starts_with("error"))
                .unwrap_or("cargo failed");
            Err(error.to_owned().into())
        }
    }
}
