//! What it costs to choose: a route of the ten that each of a hundred targets has, a cluster of a split, and a host of it, policy by
//! policy; and what a picker of a hundred thousand hosts costs.
//!
//! These are the decisions of `mesh-core` as the client makes them, without a call around them. They must not allocate
//! (`--check`), however many hosts there are; how many instructions the whole way takes is for a profiler, and times are told and
//! not judged, but for a pick whose cost grows with the number of hosts.
//!
//! `cargo run --release -p benches --bin pick -- --check`
//!
//! `--only TIMES` goes the whole way so often, for `valgrind --tool=callgrind --toggle-collect='pick::profiled*'`.

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

use std::alloc::System;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use mesh_core::Entropy;
use mesh_core::balance::{Ask, Load, Picker, Reported};
use mesh_core::config::{
    ClientWeights, Domain, HashBy, HashPolicy, LbPolicy, LeastRequest, Maglev, PathMatch, RingHash, Route, RouteTree,
    Split, Subject, VirtualHost,
};
use mesh_core::route::{Caller, RequestHead, choose, first_match, hash, virtual_host};
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const VIRTUAL_HOSTS: usize = 100;
const ROUTES: usize = 10;
const HOSTS: usize = 50;
/// A cluster as large as they come.
const MANY: usize = 100_000;
const PICKS: u32 = 100_000;
/// The longest that the slowest hundredth of the picks among many may take (it is told), and by how much that must be missed to
/// fail the check: a busy machine passes, and a walk of all hosts, a hundred times the limit, does not.
const SLOWEST: Duration = Duration::from_micros(2);
const NOISE: u32 = 10;

type Failure = Box<dyn std::error::Error>;

/// A host as the client has it: counters that others write to.
struct Host {
    address: SocketAddr,
    in_flight: AtomicU32,
    weight: u32,
    reported: Reported,
}

impl Load for Host {
    fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn is_available(&self) -> bool {
        true
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn hash_key(&self, key: &mut String) {
        key.push_str(&self.address.to_string());
    }

    fn is_connected(&self) -> bool {
        false
    }

    fn reported(&self) -> Option<&Reported> {
        Some(&self.reported)
    }
}

fn hosts(count: usize, weighted: bool) -> Vec<Arc<Host>> {
    let now = Instant::now();
    let host = |index: usize| Host {
        address: SocketAddr::from(((0x0a00_0000 + index as u32).to_be_bytes(), 80)),
        in_flight: AtomicU32::new(index as u32 % 3),
        weight: if weighted { 1 + index as u32 % 5 } else { 1 },
        reported: Reported::new(now),
    };
    (0..count).map(|index| Arc::new(host(index))).collect()
}

fn main() -> Result<(), Failure> {
    if mesh_core::TESTING {
        return Err("built with the feature `testing`: measure with `cargo run --release -p benches`".into());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let whole_way = WholeWay::new()?;
    if let Some(at) = arguments.iter().position(|argument| argument == "--only") {
        let times = arguments.get(at + 1).map_or(Ok(PICKS), |text| text.parse())?;
        profiled(&whole_way, times);
        return Ok(());
    }
    let mut missed = Vec::new();
    let mut policies = serde_json::Map::new();
    for (name, policy, weighted) in policies_of() {
        let few = Measured::of(&policy, HOSTS, weighted, &name, &mut missed);
        let many = Measured::of(&policy, MANY, weighted, &name, &mut missed);
        if many.slowest > SLOWEST * NOISE {
            missed.push(format!("{name}: a pick of {MANY} hosts takes {:?}", many.slowest));
        }
        policies.insert(name, json!({ "50": few.json(), "100000": many.json() }));
    }
    let (allocations, each) = counted(PICKS, || whole_way.go());
    if allocations > 0 {
        missed.push(format!("the whole way allocates: {allocations} in {PICKS}"));
    }
    let (hashing, hash_each) = counted(PICKS, || {
        black_box(whole_way.hash());
    });
    if hashing > 0 {
        missed.push(format!("hashing a header allocates: {hashing} in {PICKS}"));
    }
    let report = json!({
        "what": "choosing: route of 100 targets x 10, split, host; by policy among 50 and 100,000 hosts",
        "whole_way": { "allocations": allocations, "ns": each.as_nanos() as u64 },
        "hash_of_a_header": { "allocations": hashing, "ns": hash_each.as_nanos() as u64 },
        "policies": policies,
        "missed": missed,
    });
    println!("{report:#}");
    let is_check = arguments.iter().any(|argument| argument == "--check");
    match missed.is_empty() || !is_check {
        true => Ok(()),
        false => Err(missed.join("; ").into()),
    }
}

/// Every policy, and where weights make a difference, with them.
fn policies_of() -> Vec<(String, LbPolicy, bool)> {
    let least = |bias_per_mille| {
        LbPolicy::LeastRequest(LeastRequest {
            choices: 2,
            bias_per_mille,
        })
    };
    let all = [
        ("least_request", LbPolicy::LEAST_REQUEST, false),
        ("least_request, weighted", LbPolicy::LEAST_REQUEST, true),
        ("least_request, biased", least(1_500), true),
        ("round_robin", LbPolicy::RoundRobin, false),
        ("round_robin, weighted", LbPolicy::RoundRobin, true),
        ("random", LbPolicy::Random, false),
        ("random, weighted", LbPolicy::Random, true),
        ("ring_hash", LbPolicy::RingHash(RingHash::DEFAULT), false),
        ("maglev", LbPolicy::Maglev(Maglev::DEFAULT), false),
        (
            "client_side_weighted_round_robin",
            LbPolicy::ClientSideWeightedRoundRobin(ClientWeights::default()),
            false,
        ),
        ("pick_first", LbPolicy::PickFirst { shuffle: true }, false),
    ];
    all.map(|(name, policy, weighted)| (name.into(), policy, weighted))
        .into()
}

struct Measured {
    build: Duration,
    bytes_per_host: f64,
    each: Duration,
    /// The hundredth part of the picks that took longest took at least this, the clock's own time included.
    slowest: Duration,
}

impl Measured {
    fn of(policy: &LbPolicy, count: usize, weighted: bool, name: &str, missed: &mut Vec<String>) -> Self {
        let hosts = hosts(count, weighted);
        let entropy = Entropy::seeded(7);
        let region = Region::new(ALLOCATOR);
        let begun = Instant::now();
        let picker = Picker::new(policy, &hosts, &mut entropy.draw());
        let build = begun.elapsed();
        let heap = region.change();
        let kept = heap.bytes_allocated as f64 - heap.bytes_deallocated as f64;
        let mut pick = || {
            let mut draw = entropy.draw();
            let ask = Ask {
                hash: Some(draw.next()),
                ..Ask::default()
            };
            black_box(picker.pick(&hosts, ask, |_| false, &mut draw));
        };
        let (allocations, each) = counted(PICKS, &mut pick);
        if allocations > 0 {
            missed.push(format!(
                "{name} allocates: {allocations} in {PICKS} picks of {count} hosts"
            ));
        }
        let mut times: Vec<Duration> = (0..PICKS)
            .map(|_| {
                let begun = Instant::now();
                pick();
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        Self {
            build,
            bytes_per_host: kept / count as f64,
            each,
            slowest: times[times.len() * 99 / 100],
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "ns": self.each.as_nanos() as u64,
            "p99_ns": self.slowest.as_nanos() as u64,
            "build_us": self.build.as_micros() as u64,
            "bytes_per_host": self.bytes_per_host,
        })
    }
}

/// How many allocations so many turns make, and how long one takes.
fn counted(times: u32, mut turn: impl FnMut()) -> (usize, Duration) {
    let region = Region::new(ALLOCATOR);
    let begun = Instant::now();
    for _ in 0..times {
        turn();
    }
    (region.change().allocations, begun.elapsed() / times)
}

/// All that is chosen for one request: route, cluster, hash, host. Which virtual host it goes by is its target's, and was found when the
/// configuration came.
struct WholeWay {
    /// Each with the routes of its target.
    calls: Vec<(Vec<Arc<Route>>, Request<()>)>,
    hosts: Vec<Arc<Host>>,
    picker: Picker,
    entropy: Entropy,
    hashed: Vec<HashPolicy>,
}

impl WholeWay {
    fn new() -> Result<Self, Failure> {
        let split = || Split::weighted([("stable".into(), 95), ("canary".into(), 5)]);
        let host = |host: usize| -> Result<VirtualHost, Failure> {
            let route = |route: usize| -> Result<Arc<Route>, Failure> {
                let mut one = Route::to(split()?);
                one.matches.path = PathMatch::Prefix(format!("/service.v{route}/").into());
                Ok(Arc::new(one))
            };
            let domain = Domain::parse(&format!("shop-{host}.example"))?;
            let routes = (0..ROUTES).map(route).collect::<Result<_, _>>()?;
            Ok(VirtualHost::new(format!("host-{host}"), vec![domain], routes))
        };
        let virtual_hosts = (0..VIRTUAL_HOSTS).map(host).collect::<Result<_, _>>()?;
        let tree = RouteTree::new("bench", virtual_hosts);
        // One for each route of a few hosts: the first is found at once, the last after all others.
        let calls = (0..VIRTUAL_HOSTS).map(|host| {
            let target = format!("shop-{host}.example");
            let uri = format!("http://{target}/service.v{}/Method", host % ROUTES);
            let request = Request::post(uri).header("x-user", "ann").body(())?;
            let host = virtual_host(&tree, &target).ok_or("a target without a host")?;
            Ok::<_, Failure>((host.routes.clone(), request))
        });
        let entropy = Entropy::seeded(3);
        let hosts = hosts(HOSTS, false);
        Ok(Self {
            calls: calls.collect::<Result<_, _>>()?,
            picker: Picker::new(&LbPolicy::LEAST_REQUEST, &hosts, &mut entropy.draw()),
            hashed: vec![HashPolicy::new(HashBy::Header {
                subject: Subject::parse("x-user").ok_or("a header's name")?,
                rewrite: None,
            })],
            hosts,
            entropy,
        })
    }

    fn go(&self) {
        let mut draw = self.entropy.draw();
        let (routes, request) = &self.calls[draw.below(self.calls.len() as u64) as usize];
        let head = RequestHead::of(request, "shop");
        let Some(route) = first_match(routes, &head, &mut draw) else {
            return;
        };
        let Some(split) = routes[route].split() else { return };
        black_box(choose(split, &mut draw));
        let picked = self.picker.pick(&self.hosts, Ask::default(), |_| false, &mut draw);
        black_box(picked);
    }

    /// What balancing by a header costs besides.
    fn hash(&self) -> Option<u64> {
        let caller = Caller {
            channel: 1,
            source: None,
        };
        let head = RequestHead::of(&self.calls[0].1, "shop");
        hash(&self.hashed, &head, caller, &mut self.entropy.draw()).hash
    }
}

/// A profiler finds it by its name.
#[inline(never)]
fn profiled(way: &WholeWay, times: u32) {
    for _ in 0..times {
        way.go();
    }
}
