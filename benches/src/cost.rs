//! What one unary call costs its caller: heap allocations, write syscalls and, under a profiler, instructions, beside a bare tonic
//! `Channel`.
//!
//! The echo server runs in a process of its own, so that only the caller's work is counted. All clients speak the same mutual
//! TLS to it through the same counting socket, from one current-thread runtime, in interleaved rounds, with one call in flight
//! and with sixteen. Allocations and writes do not move with the machine's load, so they gate (`--check`); time is not judged.
//!
//! `cargo run --release -p benches --bin cost -- --check`
//!
//! `--only CLIENT CALLS CONCURRENT` runs one client alone, for a profiler. Its calls are made inside of [`profiled`]:
//! `valgrind --tool=callgrind --toggle-collect='cost::profiled*'` leaves start-up, handshake and warm-up out.

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

mod bare;
mod counting;
mod direct;
mod echo;
mod meshed;
mod pki;
mod transport;

use std::alloc::System;

use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use counting::Writes;
use echo::{Caller, Server};
use meshed::Asked;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most a call through the mesh may allocate with one in flight, lean and with everything, and what its rooms may over its
/// own connections; and write: one write a call. Of both a little for the connection's own upkeep (a WINDOW_UPDATE now and then).
const MAX_ALLOCATIONS: f64 = 25.2;
const MAX_ALLOCATIONS_OF_EVERYTHING: f64 = 25.2;
const MAX_ALLOCATIONS_OF_ROOMS: f64 = 0.2;
const MAX_WRITES: f64 = 1.01;
/// Calls before counting starts: connections, tables and buffers have their size then.
const WARM_UP: usize = 320;
const CALLS: usize = 2_000;
const ROUNDS: usize = 5;
const CONCURRENT: [usize; 2] = [1, 16];

type Failure = Box<dyn std::error::Error>;

/// The clients that are compared.
#[derive(Clone)]
enum Client {
    Bare(bare::Bare),
    Direct(direct::Direct),
    Transport(transport::Bare),
    /// As the mesh is, lean or with everything.
    Mesh(meshed::Meshed),
}

impl Client {
    const NAMES: [&str; 5] = ["bare_channel", "direct", "transport", "mesh", "everything"];

    async fn new(name: &str, server: &Server, writes: &Writes) -> Result<Self, Failure> {
        match name {
            "bare_channel" => Ok(Self::Bare(bare::caller(server, writes).await?)),
            "direct" => Ok(Self::Direct(direct::caller(server, writes).await?)),
            "transport" => Ok(Self::Transport(transport::caller(server, writes).await?)),
            "mesh" => Ok(Self::Mesh(meshed::caller(server, writes, Asked::Lean)?)),
            "everything" => Ok(Self::Mesh(meshed::caller(server, writes, Asked::Everything)?)),
            other => Err(format!("no client {other:?}: one of {:?}", Self::NAMES).into()),
        }
    }

    async fn call(&mut self, note: bytes::Bytes) -> Result<(), Failure> {
        match self {
            Self::Bare(client) => client.call(note).await,
            Self::Direct(client) => client.call(note).await,
            Self::Transport(client) => client.call(note).await,
            Self::Mesh(client) => client.call(note).await,
        }
    }
}

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
    if let Some(at) = arguments.iter().position(|argument| argument == "--only") {
        let number = |offset: usize, default| {
            let text = arguments.get(at + offset);
            text.map_or(Ok(default), |text| text.parse())
        };
        let name = arguments.get(at + 1).map_or("mesh", String::as_str);
        return alone(&runtime, name, number(2, CALLS)?, number(3, 1)?);
    }
    let mut report = json!({
        "what": "unary, mutual TLS, 1 KiB each way, current-thread runtime; per call, client side",
        "calls_per_round": CALLS,
        "rounds": ROUNDS,
    });
    for concurrent in CONCURRENT {
        report[format!("concurrent_{concurrent}")] = runtime.block_on(compare(concurrent))?;
    }
    println!("{report:#}");
    if has("--check") {
        check(&report["concurrent_1"])?;
    }
    Ok(())
}

/// What gates, with one call in flight.
fn check(report: &Value) -> Result<(), Failure> {
    let figure = |client: &str, of: &str| report[client][of].as_f64().ok_or("a figure is missing");
    let allocations = |client| figure(client, "allocations");
    let judged = [
        ("mesh: allocations", allocations("mesh")?, MAX_ALLOCATIONS),
        ("mesh: writes", figure("mesh", "writes")?, MAX_WRITES),
        (
            "everything: allocations",
            allocations("everything")?,
            MAX_ALLOCATIONS_OF_EVERYTHING,
        ),
        ("everything: writes", figure("everything", "writes")?, MAX_WRITES),
        (
            "rooms: allocations over the mesh's own connections",
            allocations("mesh")? - allocations("transport")?,
            MAX_ALLOCATIONS_OF_ROOMS,
        ),
    ];
    for (what, found, most) in judged {
        eprintln!("{what}: {found:.2}, at most {most}");
    }
    match judged.iter().find(|(_, found, most)| found > most) {
        Some((what, found, most)) => Err(format!("{what}: {found} a call, and at most {most}").into()),
        None => Ok(()),
    }
}

/// The clients in turn, round by round; the median of the rounds.
async fn compare(concurrent: usize) -> Result<Value, Failure> {
    let server = Server::spawn()?;
    let writes = Writes::default();
    let mut clients = Vec::new();
    for name in Client::NAMES {
        let client = Client::new(name, &server, &writes).await?;
        measure(&client, &writes, WARM_UP, concurrent).await?;
        clients.push((name, client, Vec::new()));
    }
    for round in 1..=ROUNDS {
        for (name, client, costs) in &mut clients {
            let cost = measure(client, &writes, CALLS, concurrent).await?;
            eprintln!("{concurrent} at a time, round {round}/{ROUNDS}: {name} {cost}");
            costs.push(cost);
        }
    }
    let mut report = json!({});
    for (name, _, costs) in clients {
        report[name] = Cost::median(costs).json();
    }
    Ok(report)
}

fn alone(runtime: &Runtime, name: &str, calls: usize, concurrent: usize) -> Result<(), Failure> {
    let server = Server::spawn()?;
    let writes = Writes::default();
    let client = runtime.block_on(Client::new(name, &server, &writes))?;
    runtime.block_on(measure(&client, &writes, WARM_UP, concurrent))?;
    let cost = profiled(runtime, &client, &writes, calls, concurrent)?;
    eprintln!("{name}: {calls} calls, {concurrent} at a time, {cost}");
    Ok(())
}

/// A profiler finds it by its name.
#[inline(never)]
fn profiled(
    runtime: &Runtime,
    client: &Client,
    writes: &Writes,
    calls: usize,
    concurrent: usize,
) -> Result<Cost, Failure> {
    runtime.block_on(measure(client, writes, calls, concurrent))
}

/// `calls` in all, by `concurrent` callers that each wait for one answer before the next call.
async fn measure(client: &Client, writes: &Writes, calls: usize, concurrent: usize) -> Result<Cost, Failure> {
    let note = bytes::Bytes::from(vec![b'x'; 1024]);
    let each = calls / concurrent;
    let writes_before = writes.count();
    let region = Region::new(ALLOCATOR);
    let local = LocalSet::new();
    let mut callers = Vec::with_capacity(concurrent);
    for _ in 0..concurrent {
        let (mut client, note) = (client.clone(), note.clone());
        callers.push(local.spawn_local(async move {
            for _ in 0..each {
                client.call(note.clone()).await?;
            }
            Ok::<_, Failure>(())
        }));
    }
    local
        .run_until(async {
            for caller in callers {
                caller.await??;
            }
            Ok::<_, Failure>(())
        })
        .await?;
    let heap = region.change();
    let calls = (each * concurrent) as f64;
    Ok(Cost {
        allocations: heap.allocations as f64 / calls,
        reallocations: heap.reallocations as f64 / calls,
        bytes: heap.bytes_allocated as f64 / calls,
        writes: (writes.count() - writes_before) as f64 / calls,
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

    fn json(&self) -> Value {
        json!({
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
