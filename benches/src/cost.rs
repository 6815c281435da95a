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
mod caller;
mod clients;
mod counting;
mod direct;
mod echo;
mod measuring;
mod meshed;
mod pki;
mod transport;
mod web;

use std::alloc::System;

use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Runtime;

use clients::Client;
use counting::Writes;
use echo::{Server, Spoken};
use measuring::{Cost, measure};

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
/// Those of the clients that are judged, and what they are judged beside.
const COMPARED: [&str; 5] = ["bare_channel", "direct", "transport", "mesh", "everything"];

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if mesh_core::TESTING {
        return Err("built with the feature `testing`: measure with `cargo run --release -p benches`".into());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if let Some(spoken) = [Spoken::Grpc, Spoken::Web]
        .into_iter()
        .find(|spoken| has(spoken.flag()))
    {
        return echo::serve(spoken);
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
    let server = Server::spawn(Spoken::Grpc)?;
    let writes = Writes::default();
    let mut clients = Vec::new();
    for name in COMPARED {
        let client = Client::new(name, &server.target, &writes).await?;
        measure(&client, ALLOCATOR, &|| writes.count(), WARM_UP, concurrent).await?;
        clients.push((name, client, Vec::new()));
    }
    for round in 1..=ROUNDS {
        for (name, client, costs) in &mut clients {
            let cost = measure(client, ALLOCATOR, &|| writes.count(), CALLS, concurrent).await?;
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
    let server = Server::spawn(Spoken::by(name))?;
    let writes = Writes::default();
    let client = runtime.block_on(Client::new(name, &server.target, &writes))?;
    runtime.block_on(measure(&client, ALLOCATOR, &|| writes.count(), WARM_UP, concurrent))?;
    let cost = profiled(runtime, &client, &writes, calls, concurrent)?;
    eprintln!("{name}: {calls} calls, {concurrent} at a time, {cost}");
    println!("{}", cost.json());
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
    runtime.block_on(measure(client, ALLOCATOR, &|| writes.count(), calls, concurrent))
}
