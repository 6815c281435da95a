//! What the data plane keeps and does for a cluster of 100,000 endpoints, beside one of 100.
//!
//! A pick must not look at more hosts because there are more: it may cost what the memory that they lie in costs, and no more.
//! So it is told for both sizes, and gates as their ratio; single picks are timed, so that one in a hundred is seen, and what
//! the clock itself takes is told beside it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_client::measuring::Hosts;
use mesh_core::Link;
use mesh_core::config::{Cluster, Endpoint, Snapshot, TlsMode, Weight};
use serde_json::{Value, json};
use stats_alloc::Region;

use super::{ALLOCATOR, CHANGES, Failure, address, millis};

/// The cluster that is asked about, and the one that it is compared with.
const MANY: usize = 100_000;
const FEW: usize = 100;
/// Single picks that are timed of each, in each round.
const PICKS: usize = 200_000;
/// How often the hosts are made, and rounds of picks are timed; the best counts.
const ROUNDS: usize = 5;

/// The longest that making the hosts may take.
const BUILT_WITHIN: Duration = Duration::from_millis(300);
/// The most bytes of heap that an idle host keeps, what the configuration keeps of its endpoint included.
const BYTES_PER_HOST: f64 = 400.0;
/// The longest that following a change of one endpoint may take.
const CHANGED_WITHIN: Duration = Duration::from_millis(5);
/// The longest that 99 of 100 picks may take.
const PICKED_WITHIN: Duration = Duration::from_micros(2);
/// By how much a pick among many may be dearer than one among few: a thousand times as many hosts do not all lie in the
/// processor's caches. One that walks them is a thousand times as dear.
const PICK_RATIO: f64 = 50.0;

/// The figures, and the limits that were missed.
pub(super) fn measure() -> Result<(Value, Vec<String>), Failure> {
    let link = Link::fixed(Snapshot::empty(), None);
    println!("\nhosts of 1 cluster x {MANY} endpoints");
    let configured = cluster(MANY, |_| ());
    let built = |_| {
        let start = Instant::now();
        let hosts = Hosts::new(&link, &configured);
        let took = start.elapsed();
        drop(hosts);
        took
    };
    let built = (0..ROUNDS).map(built).min().ok_or("nothing was built")?;
    drop(configured);
    let heap = Region::new(ALLOCATOR);
    let configured = cluster(MANY, |_| ());
    let hosts = Hosts::new(&link, &configured);
    let change = heap.change();
    let kept = (change.bytes_allocated as f64 - change.bytes_deallocated as f64) / MANY as f64;
    println!("  {:<34} {:>10.3} ms", "build", millis(built));
    println!("  {:<34} {kept:10.1} bytes of heap per endpoint", "kept");

    // The fastest: what other processes of the machine take does not belong to it.
    let fastest = |change: &dyn Fn(u32, &mut Endpoint)| {
        let updated = |turn: u32| {
            let changed = cluster(MANY, |endpoint| change(turn, endpoint));
            let start = Instant::now();
            hosts.update(&changed);
            start.elapsed()
        };
        (0..CHANGES).map(updated).min().ok_or("nothing was changed")
    };
    let replaced = fastest(&|turn, endpoint| endpoint.address = address(MANY as u32 + turn))?;
    let changed = fastest(&|turn, endpoint| endpoint.weight = Weight(turn + 2))?;
    println!("  {:<34} {:>10.3} ms", "one changed endpoint", millis(changed));
    println!("  {:<34} {:>10.3} ms", "one replaced endpoint", millis(replaced));

    // As the many: of different weights.
    let few = Hosts::new(&link, &cluster(FEW, |endpoint| endpoint.weight = Weight(2)));
    let (mut of_few, mut of_many) = (Picks::of(&few)?, Picks::of(&hosts)?);
    for _ in 1..ROUNDS {
        of_few = of_few.best(&Picks::of(&few)?);
        of_many = of_many.best(&Picks::of(&hosts)?);
    }
    of_few.tell("pick among 100");
    of_many.tell("pick among 100,000");
    let ratio = of_many.each / of_few.each;
    println!("  {:<34} {ratio:>10.2}", "ratio of the mean");

    let mut missed = Vec::new();
    let mut gate = |is_over: bool, what: String| {
        if is_over {
            missed.push(format!("hosts: {what}"));
        }
    };
    gate(kept > BYTES_PER_HOST, format!("{kept:.0} bytes per host"));
    gate(built > BUILT_WITHIN, format!("built in {} ms", millis(built)));
    for (what, time) in [("changed", changed), ("replaced", replaced)] {
        gate(
            time > CHANGED_WITHIN,
            format!("{} ms for one {what} endpoint", millis(time)),
        );
    }
    gate(of_many.p99 > PICKED_WITHIN, format!("a pick of {:?}", of_many.p99));
    gate(of_many.allocations > 0, format!("{} allocations", of_many.allocations));
    gate(
        ratio > PICK_RATIO,
        format!("a pick among many is {ratio:.1} of one among few"),
    );
    let report = json!({
        "build_ms": millis(built), "kept_bytes_per_endpoint": kept.round(), "changed_ms": millis(changed),
        "replaced_ms": millis(replaced),
        "pick": { "few": of_few.json(), "many": of_many.json(), "ratio": ratio },
        "within_limits": built <= BUILT_WITHIN && changed <= CHANGED_WITHIN && of_many.p99 <= PICKED_WITHIN,
    });
    Ok((report, missed))
}

/// So many endpoints, of which one is something else. What they say alike they share, as they do when they are read off the wire.
pub(super) fn cluster(endpoints: usize, change: impl FnOnce(&mut Endpoint)) -> Arc<Cluster> {
    let first = Endpoint::new(address(0));
    let mut list: Vec<Endpoint> = (0u32..)
        .take(endpoints)
        .map(|number| Endpoint {
            address: address(number),
            ..first.clone()
        })
        .collect();
    let middle = list.len() / 2;
    change(&mut list[middle]);
    Arc::new(Cluster::new("many", TlsMode::Plaintext, list))
}

/// What picks cost.
struct Picks {
    /// Nanoseconds of one, on average.
    each: f64,
    p50: Duration,
    p99: Duration,
    /// What the clock takes.
    clock: Duration,
    allocations: usize,
}

impl Picks {
    fn of(hosts: &Hosts) -> Result<Self, Failure> {
        let mut times = Vec::with_capacity(PICKS);
        let heap = Region::new(ALLOCATOR);
        let start = Instant::now();
        for _ in 0..PICKS {
            black_box(hosts.pick().ok_or("nobody was picked")?);
        }
        let each = start.elapsed().as_nanos() as f64 / PICKS as f64;
        for _ in 0..PICKS {
            let start = Instant::now();
            black_box(hosts.pick().ok_or("nobody was picked")?);
            times.push(start.elapsed());
        }
        let change = heap.change();
        times.sort_unstable();
        let mut clock: Vec<Duration> = (0..1_000).map(|_| Instant::now().elapsed()).collect();
        clock.sort_unstable();
        Ok(Self {
            each,
            p50: times[PICKS / 2],
            p99: times[PICKS * 99 / 100],
            clock: clock[clock.len() / 2],
            allocations: change.allocations + change.reallocations,
        })
    }

    /// The better of two rounds, figure by figure. What was allocated in either counts.
    fn best(self, other: &Self) -> Self {
        Self {
            each: self.each.min(other.each),
            p50: self.p50.min(other.p50),
            p99: self.p99.min(other.p99),
            clock: self.clock.min(other.clock),
            allocations: self.allocations.max(other.allocations),
        }
    }

    fn tell(&self, what: &str) {
        println!(
            "  {what:<34} {:>10.1} ns each, {} ns at the median and {} ns at p99 with {} ns of the clock, {} allocations",
            self.each,
            self.p50.as_nanos(),
            self.p99.as_nanos(),
            self.clock.as_nanos(),
            self.allocations
        );
    }

    fn json(&self) -> Value {
        json!({ "ns": self.each, "p50_ns": self.p50.as_nanos() as u64, "p99_ns": self.p99.as_nanos() as u64 })
    }
}
