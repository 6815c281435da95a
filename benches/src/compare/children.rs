//! The processes of a run, and what the system tells of them.
//!
//! Each ends when its standard input closes, which the system does when we end, however that happens: nothing outlives an interrupted or a
//! killed run. They are in process groups of their own, so that an interrupt from the keyboard reaches us alone. A program that does not look
//! at its standard input (Envoy) has a guard that does.

use std::fs;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;

/// The longest that a process may take to start, or to answer an order.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest that a process which was told to end may take.
const LAST: Duration = Duration::from_secs(3);
/// How often a guard looks whether its program is still there.
const LOOK: Duration = Duration::from_millis(250);

/// A process that is asked in lines and answers in lines.
#[derive(Debug)]
pub(crate) struct Worker {
    name: String,
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Worker {
    /// On one core alone, where `core` says so.
    pub(crate) fn spawn(name: &str, program: &Path, arguments: &[&str], core: Option<usize>) -> Result<Self, Failure> {
        let mut command = match core {
            None => Command::new(program),
            Some(core) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(program);
                command
            }
        };
        let mut child = command
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name}: {}: {error}", program.display()))?;
        let orders = child.stdin.take();
        let stdout = child.stdout.take().ok_or("the child has no standard output")?;
        let (told, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            orders,
            answers,
        })
    }

    /// By the system's number. What `taskset` started has taken its place.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, what: &impl Serialize) -> Result<(), Failure> {
        let orders = self.orders.as_mut().ok_or("the child has no standard input")?;
        writeln!(orders, "{}", serde_json::to_string(what)?)?;
        Ok(())
    }

    pub(crate) fn answer<A: DeserializeOwned>(&self) -> Result<A, Failure> {
        let line = self.answers.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("{} says nothing for {} s", self.name, PATIENCE.as_secs()),
            RecvTimeoutError::Disconnected => format!("{} ended", self.name),
        })?;
        Ok(serde_json::from_str(&line).map_err(|error| format!("{} says {line:?}: {error}", self.name))?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        let end = Instant::now() + LAST;
        while Instant::now() < end {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guard's life: starts a program, tells its number, and ends it when its own standard input closes.
pub(crate) fn guard(log: &str, command: &[String]) -> Result<(), Failure> {
    let (program, arguments) = command.split_first().ok_or("guard what?")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(log)?)
        .spawn()?;
    println!("{}", child.id());
    let (over, ended) = channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        drop(over);
    });
    while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        if let Some(status) = child.try_wait()? {
            return Err(format!("{program} ended by itself, {status}; see {log}").into());
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// What a process has had of the processors, in nanoseconds: the sum over its threads that are there, where the system counts so finely, else
/// in ticks of a hundredth of a second.
pub(crate) fn cpu_nanoseconds(process: u32) -> Result<u64, Failure> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            return cpu_ticks(process);
        };
        total += text.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
    }
    Ok(total)
}

fn cpu_ticks(process: u32) -> Result<u64, Failure> {
    const NANOSECONDS: u64 = 10_000_000;
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in brackets, may hold anything.
    let (_, fields) = text.rsplit_once(')').ok_or("no name in stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|text| text.parse::<u64>().ok()));
    Ok((user.unwrap_or(0) + system.unwrap_or(0)) * NANOSECONDS)
}

/// The memory that a process has, in KiB.
pub(crate) fn resident_kib(process: u32) -> Result<u64, Failure> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no VmRSS")?.parse()?)
}

/// All processors together, in ticks since the machine started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) all: u64,
    pub(crate) idle: u64,
    /// Wanted here and given to another guest.
    pub(crate) stolen: u64,
}

impl Machine {
    pub(crate) fn now() -> Result<Self, Failure> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal; what guests had is in the first two.
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .map_while(|tick| tick.parse().ok())
            .take(8)
            .collect();
        let at = |field: usize| ticks.get(field).copied().unwrap_or(0);
        Ok(Self {
            all: ticks.iter().sum(),
            idle: at(3) + at(4),
            stolen: at(7),
        })
    }
}
