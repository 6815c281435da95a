//! What one unary call costs its caller: heap allocations and write syscalls, beside a bare tonic `Channel`.
//!
//! The echo server runs in a process of its own, so that only the caller's work is counted. Both clients speak the same
//! mutual TLS to it through the same counting socket, from one current-thread runtime, in interleaved rounds. Allocations and
//! writes do not move with the machine's load, so they gate (`--check`); time is not judged here.
//!
//! `cargo run --release -p benches --bin cost -- --check`

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

mod bare;
mod counting;
mod echo;
mod meshed;
mod pki;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use counting::Writes;
use echo::Caller;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most a call through the mesh may allocate, and write: one write a call, and the connection's own upkeep (a WINDOW_UPDATE
/// now and then).
const MAX_ALLOCATIONS: f64 = 28.0;
const MAX_WRITES: f64 = 1.01;
/// Calls before counting starts: connections, tables and buffers have their size then.
const WARM_UP: usize = 300;
const CALLS: usize = 2_000;
const ROUNDS: usize = 5;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if mesh_core::TESTING {
        return Err("built with the feature `testing`: measure with `cargo run --release -p benches`".into());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--serve") {
        return echo::serve();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // One client alone, for a profiler: `--only mesh 1000`.
    if let Some(at) = arguments.iter().position(|argument| argument == "--only") {
        let calls = arguments
            .get(at + 2)
            .and_then(|calls| calls.parse().ok())
            .unwrap_or(CALLS);
        return runtime.block_on(alone(arguments.get(at + 1).map_or("mesh", String::as_str), calls));
    }
    let report = runtime.block_on(compare())?;
    println!("{report:#}");
    let mesh = &report["mesh"];
    let over = |figure: &serde_json::Value, limit: f64| figure.as_f64().is_none_or(|value| value > limit);
    if has("--check") && (over(&mesh["allocations"], MAX_ALLOCATIONS) || over(&mesh["writes"], MAX_WRITES)) {
        return Err(format!("over the limit of {MAX_ALLOCATIONS} allocations and {MAX_WRITES} writes per call").into());
    }
    Ok(())
}

/// The two clients in turn, round by round; the median of the rounds.
async fn compare() -> Result<serde_json::Value, Failure> {
    let server = echo::Server::spawn()?;
    let writes = Writes::default();
    let mut bare = bare::caller(&server, &writes).await?;
    let mut mesh = meshed::caller(&server, &writes)?;
    measure(&mut bare, &writes, WARM_UP).await?;
    measure(&mut mesh, &writes, WARM_UP).await?;
    let (mut of_bare, mut of_mesh) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        of_bare.push(measure(&mut bare, &writes, CALLS).await?);
        of_mesh.push(measure(&mut mesh, &writes, CALLS).await?);
        eprintln!(
            "round {round}/{ROUNDS}: bare {} mesh {}",
            of_bare[round - 1],
            of_mesh[round - 1]
        );
    }
    let (bare, mesh) = (Cost::median(of_bare), Cost::median(of_mesh));
    Ok(serde_json::json!({
        "what": "unary, mutual TLS, 1 KiB each way, 1 concurrent, current-thread runtime; per call, client side",
        "calls_per_round": CALLS,
        "rounds": ROUNDS,
        "bare_channel": bare.json(),
        "mesh": mesh.json(),
        "ratio": { "allocations": mesh.allocations / bare.allocations, "writes": mesh.writes / bare.writes },
    }))
}

async fn alone(which: &str, calls: usize) -> Result<(), Failure> {
    let server = echo::Server::spawn()?;
    let writes = Writes::default();
    let cost = match which {
        "bare" => measure(&mut bare::caller(&server, &writes).await?, &writes, calls).await?,
        _ => measure(&mut meshed::caller(&server, &writes)?, &writes, calls).await?,
    };
    eprintln!("{which}: {calls} calls, {cost}");
    Ok(())
}

async fn measure(caller: &mut impl Caller, writes: &Writes, calls: usize) -> Result<Cost, Failure> {
    let note = bytes::Bytes::from(vec![b'x'; 1024]);
    let writes_before = writes.count();
    let region = Region::new(ALLOCATOR);
    for _ in 0..calls {
        caller.call(note.clone()).await?;
    }
    let heap = region.change();
    Ok(Cost {
        allocations: heap.allocations as f64 / calls as f64,
        reallocations: heap.reallocations as f64 / calls as f64,
        bytes: heap.bytes_allocated as f64 / calls as f64,
        writes: (writes.count() - writes_before) as f64 / calls as f64,
    })
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    allocations: f64,
    reallocations: f64,
    bytes: f64,
    writes: f64,
}

impl Cost {
    fn median(mut rounds: Vec<Self>) -> Self {
        rounds.sort_by(|a, b| a.allocations.total_cmp(&b.allocations));
        rounds[rounds.len() / 2]
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "allocations": self.allocations,
            "reallocations": self.reallocations,
            "bytes": self.bytes,
            "writes": self.writes,
        })
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} allocations, {:.0} bytes, {:.3} writes",
            self.allocations, self.bytes, self.writes
        )
    }
}
