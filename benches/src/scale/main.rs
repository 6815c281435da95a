//! What the size of a mesh costs a client: 100,000 endpoints as 10,000 clusters of 10, and as one cluster.
//!
//! Three things are told of each: reading the configuration off the wire, assembling it for the first time, and what one
//! changed endpoint costs afterwards, when its message is read and when the snapshot is brought up to it. All of it runs
//! through the client's own state, without a socket (`mesh_xds::measuring`). Beside it stands what the data plane does with
//! the change: from the publication until requests are served by it.
//!
//! A third thing is measured by itself: the hosts of one cluster of 100,000 endpoints, beside those of one of 100
//! ([`hosts`]): to make them, what each idle one keeps, to follow a change of one, and to pick one.
//!
//! Memory and allocations do not move with the machine's load, so they gate (`--check`). Times gate at their limit itself, by the best of
//! many rounds: what else the machine does makes rounds slower and none faster, and what the work itself takes, each round
//! takes. The median is told beside it.
//!
//! `cargo run --release -p benches --bin scale -- --check`; with `--curves` how it all grows, by powers of ten ([`curves`]).

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

use std::alloc::System;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::{Cluster, ClusterName, Endpoint, Route, RouteTree, Snapshot, Split, TlsMode, Version, Weight};
use mesh_xds::measuring::{self, Client, Scale};
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::sync::Notify;

mod curves;
mod hosts;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Target and route configuration.
const TARGET: &str = "scale";
/// How often one endpoint is changed; the best counts and the median is told.
const CHANGES: u32 = 31;
/// The longest the data plane may take to follow before something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(30);

/// One shape of 100,000 endpoints and what it may cost.
struct Shape {
    name: &'static str,
    clusters: usize,
    endpoints_each: usize,
    /// The longest that one changed endpoint may take to be assembled.
    changed_within: Duration,
    /// Whether the reading of its message counts: it does not where that is a hundred thousand endpoints.
    with_decode: bool,
    /// The most allocations for that. A walk of ten thousand clusters is tens of thousands.
    changed_allocations: usize,
    /// The most bytes of heap per endpoint that stay after the first assembly, half as much again as when this was written:
    /// the value, the bytes as they came, and for a small cluster its share of the names, the tree and the report.
    bytes_per_endpoint: f64,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "10,000 clusters x 10 endpoints",
        clusters: 10_000,
        endpoints_each: 10,
        changed_within: Duration::from_millis(1),
        with_decode: true,
        changed_allocations: 400,
        bytes_per_endpoint: 700.0,
    },
    Shape {
        name: "1 cluster x 100,000 endpoints",
        clusters: 1,
        endpoints_each: 100_000,
        changed_within: Duration::from_millis(20),
        with_decode: false,
        changed_allocations: 400,
        bytes_per_endpoint: 150.0,
    },
];

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if mesh_core::TESTING {
        return Err("built with the feature `testing`: measure with `cargo run --release -p benches`".into());
    }
    if std::env::args().skip(1).any(|argument| argument == "--curves") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        println!("{}", runtime.block_on(async { curves::measure() })?);
        return Ok(());
    }
    let is_check = std::env::args().skip(1).any(|argument| argument == "--check");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut reports, mut missed) = (Vec::new(), Vec::new());
    for shape in &SHAPES {
        let (report, over) = runtime.block_on(measure(shape))?;
        reports.push(report);
        missed.extend(over);
    }
    let (hosts, over) = runtime.block_on(async { hosts::measure() })?;
    missed.extend(over);
    println!(
        "{}",
        json!({ "what": "a client at scale", "shapes": reports, "hosts": hosts, "missed": missed })
    );
    match missed.is_empty() || !is_check {
        true => Ok(()),
        false => Err(missed.join("; ").into()),
    }
}

/// All of one shape: its figures, and the limits it missed.
async fn measure(shape: &Shape) -> Result<(Value, Vec<String>), Failure> {
    let mesh = Configuration::of(shape.clusters, shape.endpoints_each)?;
    let total = (shape.clusters * shape.endpoints_each) as f64;
    println!("\n{}", shape.name);
    let mut client = Client::new(TARGET);
    let everything = Region::new(ALLOCATOR);

    let (mut decode, mut assemble, mut weigh) = (Cost::default(), Cost::default(), Cost::default());
    for message in [&mesh.listener, &mesh.routes, &mesh.clusters, &mesh.endpoints] {
        let scale = Scale::of(message).ok_or("no message")?;
        weigh += Cost::of(|| good(scale.weigh()))?;
        decode += Cost::of(|| good(client.decode(message)))?;
        assemble += Cost::of(|| {
            client.assemble();
            Ok(())
        })?;
    }
    // The reader weighs what it reads, but for the message as a whole, which the stream has weighed by then.
    let weigh_share = weigh.time.as_secs_f64() / decode.time.as_secs_f64();
    let heap = everything.change();
    let kept = (heap.bytes_allocated as f64 - heap.bytes_deallocated as f64) / total;
    decode.tell("first decode", total);
    weigh.tell("of that, and before it: weighing", total);
    println!("  {:<34} {:10.1} % of decoding", "weighing", weigh_share * 100.0);
    assemble.tell("first assembly", total);
    println!("  {:<34} {kept:10.1} bytes of heap per endpoint", "kept");

    let (mut decodes, mut assemblies) = (Vec::new(), Vec::new());
    for turn in 0..CHANGES {
        let message = mesh.change(turn);
        decodes.push(Cost::of(|| good(client.decode(&message)))?);
        let before = client.published();
        assemblies.push(Cost::of(|| {
            client.assemble();
            Ok(())
        })?);
        if client.published() <= before {
            return Err("a changed endpoint was not published".into());
        }
    }
    let counted = |(decode, assembly): (&Cost, &Cost)| match shape.with_decode {
        true => decode.time + assembly.time,
        false => assembly.time,
    };
    let best = decodes.iter().zip(&assemblies).map(counted).min();
    let best = best.ok_or("nothing was changed")?;
    let (changed_decode, changed) = (Cost::median(decodes), Cost::median(assemblies));
    changed_decode.tell("one changed endpoint, decode", 1.0);
    changed.tell("one changed endpoint, assembly", 1.0);

    let applied = applied(&mut client, &mesh).await?;
    println!(
        "  {:<34} {:>10.3} ms",
        "one changed endpoint, data plane",
        millis(applied)
    );

    let mut missed = Vec::new();
    let mut gate = |is_over: bool, what: String| {
        if is_over {
            missed.push(format!("{}: {what}", shape.name));
        }
    };
    let (limit, most) = (shape.changed_within, shape.changed_allocations);
    println!(
        "  {:<34} {:>10.3} ms of {:.3} ms{}, and {most} allocations",
        "best of these, and their limit",
        millis(best),
        millis(limit),
        if shape.with_decode { "" } else { ", decode apart" },
    );
    gate(best > limit, format!("{} ms for one change", millis(best)));
    gate(
        changed.allocations > most,
        format!("{} allocations for one change", changed.allocations),
    );
    gate(kept > shape.bytes_per_endpoint, format!("{kept:.0} bytes per endpoint"));
    let report = json!({
        "shape": shape.name,
        "decode": decode.json(), "weigh_share": weigh_share, "assemble": assemble.json(), "kept_bytes_per_endpoint": kept.round(),
        "changed": { "decode": changed_decode.json(), "assemble": changed.json(), "applied_ms": millis(applied) },
        "best_ms": millis(best), "limit_ms": millis(limit), "within_limit": best <= limit,
    });
    Ok((report, missed))
}

/// The median time from the publication of one changed endpoint until requests are served by it.
async fn applied(client: &mut Client, mesh: &Configuration) -> Result<Duration, Failure> {
    let link = client.link().clone();
    let channel: Channel<tonic::body::Body> = Channel::builder(&link, TARGET).dangerous().plaintext().build();
    tokio::time::timeout(PATIENCE, channel.ready()).await?;
    let mut times = Vec::new();
    for turn in 0..CHANGES {
        good(client.decode(&mesh.change(turn + CHANGES)))?;
        client.assemble();
        let start = Instant::now();
        tokio::time::timeout(PATIENCE, until_applied(&link, client.published())).await?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

async fn until_applied(link: &Link, version: Version) {
    let bell = Arc::new(Notify::new());
    let ring = Arc::clone(&bell);
    let applied = link.applied();
    let _subscription = applied.on_change(move || ring.notify_one());
    while **applied.load() < version {
        bell.notified().await;
    }
}

/// The messages that describe a mesh, encoded.
struct Configuration {
    listener: Vec<u8>,
    routes: Vec<u8>,
    clusters: Vec<u8>,
    endpoints: Vec<u8>,
    lists: BTreeMap<ClusterName, Vec<Endpoint>>,
}

impl Configuration {
    fn of(clusters: usize, endpoints_each: usize) -> Result<Self, Failure> {
        let names = (0..clusters).map(|index| format!("outbound|8080||service-{index}.default.svc.cluster.local"));
        let lists: BTreeMap<ClusterName, Vec<Endpoint>> = (0u32..)
            .zip(names)
            .map(|(index, name)| {
                let each = endpoints_each as u32;
                let list = (index * each..(index + 1) * each).map(|number| Endpoint::new(address(number)));
                (name.as_str().into(), list.collect())
            })
            .collect();
        let clusters: Vec<Cluster> = lists
            .keys()
            .map(|name| Cluster::new(name.as_str(), TlsMode::Plaintext, Vec::new()))
            .collect();
        Ok(Self {
            listener: measuring::listener(TARGET),
            routes: measuring::routes(&tree(&clusters)?),
            clusters: measuring::clusters(&clusters),
            endpoints: measuring::endpoints(lists.iter().map(|(name, list)| (name, list.as_slice()))),
            lists,
        })
    }

    /// A message in which one endpoint of one cluster weighs something else.
    fn change(&self, turn: u32) -> Vec<u8> {
        let (name, list) = self
            .lists
            .iter()
            .nth(turn as usize * 97 % self.lists.len())
            .expect("the remainder is less than the length");
        let mut list = list.clone();
        list[0].weight = Weight(turn + 2);
        measuring::endpoints([(name, list.as_slice())])
    }
}

/// A route to each cluster, in one virtual host.
fn tree(clusters: &[Cluster]) -> Result<RouteTree, Failure> {
    let one = Snapshot::builder()
        .route(TARGET, Route::to(Split::all_to(clusters[0].name.clone())))
        .cluster(clusters[0].clone())
        .build()?;
    let tree = one.target(TARGET).and_then(|tree| tree.as_ref().ok());
    let mut tree = RouteTree::clone(tree.ok_or("the target was added")?);
    tree.virtual_hosts[0].routes = clusters
        .iter()
        .map(|cluster| Arc::new(Route::to(Split::all_to(cluster.name.clone()))))
        .collect();
    Ok(tree)
}

fn address(number: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0a00_0000 + number), 8080).into()
}

fn good(is_good: bool) -> Result<(), Failure> {
    match is_good {
        true => Ok(()),
        false => Err("a message was refused".into()),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a piece of work cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    time: Duration,
    allocations: usize,
    bytes: usize,
}

impl Cost {
    fn of(work: impl FnOnce() -> Result<(), Failure>) -> Result<Self, Failure> {
        let (region, start) = (Region::new(ALLOCATOR), Instant::now());
        work()?;
        let (time, heap) = (start.elapsed(), region.change());
        Ok(Self {
            time,
            allocations: heap.allocations + heap.reallocations,
            bytes: heap.bytes_allocated,
        })
    }

    fn median(mut costs: Vec<Self>) -> Self {
        costs.sort_by_key(|cost| cost.time);
        let middle = costs[costs.len() / 2];
        let most = costs.iter().map(|cost| cost.allocations).max();
        Self {
            allocations: most.unwrap_or_default(),
            ..middle
        }
    }

    /// One line of the table. `parts` is by how many the work is divided.
    fn tell(&self, what: &str, parts: f64) {
        let (allocations, bytes) = (self.allocations as f64 / parts, self.bytes as f64 / parts);
        let time = millis(self.time);
        match parts > 1.0 {
            true => println!(
                "  {what:<34} {time:>10.3} ms   {allocations:8.2} allocations, {bytes:8.0} bytes, {:.0} ns per endpoint",
                time * 1e6 / parts
            ),
            false => println!("  {what:<34} {time:>10.3} ms   {allocations:8.0} allocations, {bytes:8.0} bytes"),
        }
    }

    fn json(&self) -> Value {
        json!({ "ms": millis(self.time), "allocations": self.allocations, "bytes": self.bytes })
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.time += other.time;
        self.allocations += other.allocations;
        self.bytes += other.bytes;
    }
}
