//! What one unary call costs its server: heap allocations, time of the processor and, under a profiler, instructions, beside a bare tonic
//! server with the same mutual TLS.
//!
//! All servers are in this process, on one current-thread runtime, and a client in a process of its own calls them in turn, round by round:
//! so only the server's work is counted, and whatever disturbs the machine disturbs all of them. The mesh's servers have everything on that
//! production has: identities by which peers are let in, a policy of ten rules of which the last lets the caller pass, counters, deadlines.
//! Allocations do not move with the machine's load, so they gate (`--check`); time is told and never judged.
//!
//! `cargo run --release -p benches --bin server -- --check`
//!
//! `--only SERVER CALLS CONCURRENT` has one server called alone, for a profiler, inside of [`profiled`]:
//! `valgrind --tool=callgrind --toggle-collect='server::profiled*'` leaves start-up, handshake and warm-up out.

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

mod load;
#[path = "../pki.rs"]
mod pki;
mod serving;

use std::alloc::System;

use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::Runtime;

use load::Load;
use serving::Served;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most a call may allocate above what the bare server does with one in flight: on tonic's loop, and on the mesh's own, which does with
/// fewer. A little is for the connection's own upkeep.
const MAX_MORE_ON_TONICS_LOOP: f64 = 3.1;
const MAX_MORE_ON_OUR_LOOP: f64 = -2.2;
/// Calls before counting starts.
const WARM_UP: usize = 320;
const CALLS: usize = 2_000;
const ROUNDS: usize = 5;
const CONCURRENT: [usize; 2] = [1, 16];

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if mesh_core::TESTING {
        return Err("built with the feature `testing`: measure with `cargo run --release -p benches`".into());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--load") {
        return load::run();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (server, client) = pki::issue()?;
    let identity = server.identity()?;
    let mut served = Vec::new();
    for name in serving::NAMES {
        served.push(runtime.block_on(serving::start(name, &identity))?);
    }
    let mut load = Load::spawn(&client, &served)?;
    if let Some(at) = arguments.iter().position(|argument| argument == "--only") {
        let number = |offset: usize, default| {
            let text = arguments.get(at + offset);
            text.map_or(Ok(default), |text| text.parse())
        };
        let name = arguments.get(at + 1).map_or("mesh", String::as_str);
        let served = served.iter().find(|served| served.name == name);
        let served = served.ok_or_else(|| format!("no server {name:?}: one of {:?}", serving::NAMES))?;
        let (calls, concurrent) = (number(2, CALLS)?, number(3, 1)?);
        measure(&runtime, &mut load, served, WARM_UP, concurrent)?;
        let cost = profiled(&runtime, &mut load, served, calls, concurrent)?;
        eprintln!("{name}: {calls} calls, {concurrent} at a time, {cost}");
        return Ok(());
    }
    let mut report = json!({
        "what": "unary, mutual TLS, 1 KiB each way, current-thread runtime; per call, server side",
        "calls_per_round": CALLS,
        "rounds": ROUNDS,
    });
    for concurrent in CONCURRENT {
        report[format!("concurrent_{concurrent}")] = compare(&runtime, &mut load, &served, concurrent)?;
    }
    println!("{report:#}");
    if has("--check") {
        check(&report["concurrent_1"])?;
    }
    Ok(())
}

/// What gates, with one call in flight.
fn check(report: &Value) -> Result<(), Failure> {
    let allocations = |server: &str| report[server]["allocations"].as_f64().ok_or("a figure is missing");
    let bare = allocations("bare")?;
    let judged = [
        (
            "mesh on tonic's loop",
            allocations("mesh_tonic")? - bare,
            MAX_MORE_ON_TONICS_LOOP,
        ),
        (
            "mesh on its own loop",
            allocations("mesh")? - bare,
            MAX_MORE_ON_OUR_LOOP,
        ),
    ];
    for (what, found, most) in judged {
        eprintln!("{what}: {found:.2} allocations above {bare:.2} of the bare server, at most {most}");
    }
    match judged.iter().find(|(_, found, most)| found > most) {
        Some((what, found, most)) => {
            Err(format!("{what}: {found} allocations a call above bare, and at most {most}").into())
        }
        None => Ok(()),
    }
}

/// The servers in turn, round by round; the median of the rounds.
fn compare(runtime: &Runtime, load: &mut Load, served: &[Served], concurrent: usize) -> Result<Value, Failure> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); served.len()];
    for server in served {
        measure(runtime, load, server, WARM_UP, concurrent)?;
    }
    for round in 1..=ROUNDS {
        for (server, costs) in served.iter().zip(&mut costs) {
            let cost = measure(runtime, load, server, CALLS, concurrent)?;
            eprintln!("{concurrent} at a time, round {round}/{ROUNDS}: {} {cost}", server.name);
            costs.push(cost);
        }
    }
    let mut report = json!({});
    for (server, costs) in served.iter().zip(costs) {
        report[server.name] = json!({
            "allocations": median(costs.iter().map(|cost| cost.allocations)),
            "bytes": median(costs.iter().map(|cost| cost.bytes)),
            "cpu_us": median(costs.iter().map(|cost| cost.cpu_us)),
        });
    }
    Ok(report)
}

/// A profiler finds it by its name.
#[inline(never)]
fn profiled(
    runtime: &Runtime,
    load: &mut Load,
    served: &Served,
    calls: usize,
    concurrent: usize,
) -> Result<Cost, Failure> {
    measure(runtime, load, served, calls, concurrent)
}

/// `calls` in all, of `concurrent` callers that each wait for one answer before the next call.
fn measure(
    runtime: &Runtime,
    load: &mut Load,
    served: &Served,
    calls: usize,
    concurrent: usize,
) -> Result<Cost, Failure> {
    let (cpu, region) = (cpu_nanoseconds()?, Region::new(ALLOCATOR));
    runtime.block_on(load.call(served.name, calls, concurrent))?;
    let (heap, cpu) = (region.change(), cpu_nanoseconds()? - cpu);
    let calls = calls as f64;
    Ok(Cost {
        allocations: heap.allocations as f64 / calls,
        bytes: heap.bytes_allocated as f64 / calls,
        cpu_us: cpu as f64 / 1_000.0 / calls,
    })
}

/// What this thread has had of the processor, where the system tells (Linux); else 0.
fn cpu_nanoseconds() -> Result<u64, Failure> {
    let Ok(text) = std::fs::read_to_string("/proc/thread-self/schedstat") else {
        return Ok(0);
    };
    Ok(text.split_whitespace().next().unwrap_or("0").parse()?)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    allocations: f64,
    bytes: f64,
    cpu_us: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            allocations,
            bytes,
            cpu_us,
        } = self;
        write!(
            f,
            "{allocations:.2} allocations, {bytes:.0} bytes, {cpu_us:.1} us of the processor"
        )
    }
}
