//! How what the mesh does grows with the size of what it is told, by powers of ten: `scale --curves`.
//!
//! Each figure is the best of many rounds, since what else the machine does makes rounds slower and none faster. The slope is that of the line
//! through the points where both sides are logarithms: 0 is the same whatever the size, 1 is in proportion to it. `compare` publishes them.

use std::hint::black_box;
use std::time::Instant;

use http::Request;
use mesh_client::measuring::Hosts;
use mesh_core::Entropy;
use mesh_core::Link;
use mesh_core::authorize::Facts;
use mesh_core::config::{
    Authorization, FilterRules, PathMatch, PermissionTest, PrincipalTest, Rbac, RbacAction, RbacFilter, RbacPolicy,
    Route, Rule, Snapshot, Split, StringMatch,
};
use mesh_core::identity::SpiffeId;
use mesh_core::route::{RequestHead, first_match};
use serde_json::{Value, json};
use stats_alloc::Region;

use super::hosts::cluster;
use super::{ALLOCATOR, Client, Configuration, Cost, Failure, TARGET, good, millis};

/// Rounds of a change or of a configuration; the best counts.
const ROUNDS: u32 = 15;
/// How long what takes nanoseconds is repeated, in each round.
const REPEATED: u32 = 2_000;

/// All curves.
pub(super) fn measure() -> Result<Value, Failure> {
    let mut curves = Vec::new();
    let mut changed_of_clusters = Points::default();
    let mut allocated = Points::default();
    let mut first = Points::default();
    let mut kept = Points::default();
    for clusters in powers(10_000) {
        let told = Told::of(clusters, 10)?;
        changed_of_clusters.push(clusters, told.changed_us);
        allocated.push(clusters, told.changed_allocations);
        first.push(clusters, told.first_us);
        kept.push(clusters, told.kept);
    }
    curves.push(first.curve(
        "the first configuration, read and assembled",
        "clusters of 10 endpoints",
        "us",
    ));
    curves.push(kept.curve("heap kept of it", "clusters of 10 endpoints", "bytes"));
    curves.push(changed_of_clusters.curve(
        "one changed endpoint, read and assembled",
        "clusters of 10 endpoints",
        "us",
    ));
    curves.push(allocated.curve("allocations for that", "clusters of 10 endpoints", "allocations"));
    let (mut followed, mut assembled, mut picked) = (Points::default(), Points::default(), Points::default());
    let link = Link::fixed(Snapshot::empty(), None);
    for endpoints in powers(100_000) {
        assembled.push(endpoints, Told::of(1, endpoints)?.assembled_us);
        let hosts = Hosts::new(&link, &cluster(endpoints, |_| ()));
        let mut best = f64::INFINITY;
        for round in 0..ROUNDS {
            let changed = cluster(endpoints, |endpoint| {
                endpoint.weight = mesh_core::config::Weight(round + 2)
            });
            let start = Instant::now();
            hosts.update(&changed);
            best = best.min(millis(start.elapsed()) * 1000.0);
        }
        followed.push(endpoints, best);
        picked.push(endpoints, nanoseconds(&|| hosts.pick().is_some()));
    }
    curves.push(assembled.curve("one changed endpoint, assembled", "endpoints of one cluster", "us"));
    curves.push(followed.curve(
        "one changed endpoint, followed by the data plane",
        "endpoints of one cluster",
        "us",
    ));
    curves.push(picked.curve("a pick", "endpoints of one cluster", "ns"));
    let (mut routed, mut judged) = (Points::default(), Points::default());
    for number in powers(10_000) {
        routed.push(number, route_the_last(number)?);
        judged.push(number, judge_by_the_last(number)?);
    }
    curves.push(routed.curve("the last route that matches is found", "routes of a target", "ns"));
    curves.push(judged.curve("the last rule lets a request pass", "authorization rules", "ns"));
    Ok(Value::Array(curves))
}

/// 10, 100, 1,000 and so on.
fn powers(last: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(10), |size| Some(size * 10)).take_while(move |size| *size <= last)
}

/// What it costs to be told of so many.
struct Told {
    first_us: f64,
    kept: f64,
    changed_us: f64,
    assembled_us: f64,
    changed_allocations: f64,
}

impl Told {
    fn of(clusters: usize, endpoints_each: usize) -> Result<Self, Failure> {
        let mesh = Configuration::of(clusters, endpoints_each)?;
        let mut told = Self {
            first_us: f64::INFINITY,
            kept: 0.0,
            changed_us: f64::INFINITY,
            assembled_us: f64::INFINITY,
            changed_allocations: f64::INFINITY,
        };
        let mut client = Client::new(TARGET);
        for _ in 0..3 {
            client = Client::new(TARGET);
            let heap = Region::new(ALLOCATOR);
            let cost = Cost::of(|| {
                for message in [&mesh.listener, &mesh.routes, &mesh.clusters, &mesh.endpoints] {
                    good(client.decode(message))?;
                    client.assemble();
                }
                Ok(())
            })?;
            let heap = heap.change();
            told.kept = heap.bytes_allocated as f64 - heap.bytes_deallocated as f64;
            told.first_us = told.first_us.min(millis(cost.time) * 1000.0);
        }
        for round in 0..ROUNDS {
            let message = mesh.change(round);
            let decode = Cost::of(|| good(client.decode(&message)))?;
            let assembly = Cost::of(|| {
                client.assemble();
                Ok(())
            })?;
            let (decode_us, assembly_us) = (millis(decode.time) * 1000.0, millis(assembly.time) * 1000.0);
            told.changed_us = told.changed_us.min(decode_us + assembly_us);
            told.assembled_us = told.assembled_us.min(assembly_us);
            let allocations = (decode.allocations + assembly.allocations) as f64;
            told.changed_allocations = told.changed_allocations.min(allocations);
        }
        Ok(told)
    }
}

fn route_the_last(routes: usize) -> Result<f64, Failure> {
    let mut all = Vec::new();
    for number in 0..routes {
        let mut route = Route::to(Split::all_to("payment"));
        route.matches.path = PathMatch::Prefix(format!("/payment.v{number}/").into());
        all.push(std::sync::Arc::new(route));
    }
    let request = Request::post(format!("https://payment/payment.v{}/Charge", routes - 1)).body(())?;
    let entropy = Entropy::seeded(1);
    let find = || {
        let head = RequestHead::of(black_box(&request), "shop");
        first_match(&all, &head, &mut entropy.draw()) == Some(routes - 1)
    };
    match find() {
        true => Ok(nanoseconds(&find)),
        false => Err("the last route must match".into()),
    }
}

fn judge_by_the_last(rules: usize) -> Result<f64, Failure> {
    let policies = (0..rules).map(|number| RbacPolicy {
        name: format!("ns[shop]-policy[p{number}]-rule[0]").into(),
        permissions: vec![Rule::Is(PermissionTest::Path(StringMatch::Prefix("/".into())))],
        principals: vec![Rule::Is(PrincipalTest::Peer(Some(StringMatch::Exact(
            format!("spiffe://mesh.test/ns/shop{number}/sa/caller").into(),
        ))))],
    });
    let enforced = Some(Rbac {
        action: RbacAction::Allow,
        policies: policies.collect(),
    });
    let filter = RbacFilter {
        name: "rbac".into(),
        rules: FilterRules { enforced, shadow: None },
    };
    let authorization = Authorization::new(Vec::new(), vec![filter], Vec::new())?;
    let peer = SpiffeId::parse(&format!("spiffe://mesh.test/ns/shop{}/sa/caller", rules - 1))?;
    let request = Request::post("https://payment/payment.v1.Payment/Charge").body(())?;
    let facts = Facts {
        source: Some([10, 0, 0, 7].into()),
        destination: Some(([10, 0, 0, 1], 8080).into()),
        server_name: None,
        peer: Some(&peer),
        claims: None,
        head: Some(RequestHead::of(&request, "")),
    };
    let judge = || authorization.request_passes(black_box(&facts), &mut |_| ()).is_ok();
    match judge() {
        true => Ok(nanoseconds(&judge)),
        false => Err("the last rule must let it pass".into()),
    }
}

fn nanoseconds(what: &dyn Fn() -> bool) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..REPEATED {
            black_box(what());
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(REPEATED));
    }
    best
}

/// Sizes, and what each costs.
#[derive(Default)]
struct Points(Vec<(f64, f64)>);

impl Points {
    fn push(&mut self, size: usize, cost: f64) {
        self.0.push((size as f64, cost));
    }

    fn curve(&self, what: &str, by: &str, unit: &str) -> Value {
        json!({ "what": what, "by": by, "unit": unit, "points": self.0, "slope": self.slope() })
    }

    /// Of the line of least squares through the logarithms.
    fn slope(&self) -> f64 {
        let count = self.0.len() as f64;
        let logs: Vec<(f64, f64)> = self
            .0
            .iter()
            .map(|(size, cost)| (size.ln(), cost.max(1e-9).ln()))
            .collect();
        let mean = |each: fn(&(f64, f64)) -> f64| logs.iter().map(each).sum::<f64>() / count;
        let (size, cost) = (mean(|point| point.0), mean(|point| point.1));
        let along: f64 = logs.iter().map(|point| (point.0 - size) * (point.1 - cost)).sum();
        let across: f64 = logs.iter().map(|point| (point.0 - size).powi(2)).sum();
        along / across
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_the_power() {
        for power in [0.0, 0.5, 1.0, 2.0] {
            let points = powers(100_000).map(|size| (size as f64, 3.0 * (size as f64).powf(power)));
            let slope = Points(points.collect()).slope();
            assert!((slope - power).abs() < 1e-9, "{power}: {slope}");
        }
    }
}
