//! The tables of Envoy's documentation, and what a pick makes of them.
//!
//! Where the documentation's figures round to a nearest percent, so do these: what whole percents leave over goes to whom its
//! fraction belongs to. (Envoy's code gives all of it to the first.)

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::*;
use crate::balance::Ask;
use crate::config::{
    Cluster, CommonLb, Endpoint, Failover, Health, LbPolicy, Localities, Locality, LocalityWeight, Percent, TlsMode,
    Weight,
};
use crate::entropy::Entropy;

fn census(healthy: u64, degraded: u64, total: u64) -> Census {
    let hosts = Count {
        healthy,
        degraded,
        total,
    };
    Census { hosts, weight: hosts }
}

fn loads(shares: &[(u64, u64)], common: &CommonLb) -> Vec<(u32, u32, bool)> {
    let census: Vec<Census> = shares
        .iter()
        .map(|(healthy, degraded)| census(*healthy, *degraded, 100))
        .collect();
    let loads = Loads::of(&census, common, &Localities::default());
    loads
        .iter()
        .map(|load| (load.healthy, load.degraded, load.panic))
        .collect()
}

fn healthy(shares: &[u64], common: &CommonLb) -> Vec<(u32, bool)> {
    let shares: Vec<(u64, u64)> = shares.iter().map(|healthy| (*healthy, 0)).collect();
    loads(&shares, common)
        .into_iter()
        .map(|(load, _, panic)| (load, panic))
        .collect()
}

const NO_PANIC: CommonLb = CommonLb {
    panic_threshold: Percent::ZERO,
    ..CommonLb::ENVOY
};

/// "Priority levels": the tables for two priorities, and for three.
#[test]
fn a_priority_takes_what_it_is_able_to_and_the_rest_spills() {
    let cases: [(&[u64], &[u32]); 18] = [
        (&[100, 100], &[100, 0]),
        (&[72, 100], &[100, 0]),
        (&[71, 100], &[99, 1]),
        (&[50, 100], &[70, 30]),
        (&[25, 100], &[35, 65]),
        (&[0, 100], &[0, 100]),
        (&[72, 72], &[100, 0]),
        (&[71, 71], &[99, 1]),
        (&[50, 50], &[70, 30]),
        (&[25, 25], &[50, 50]),
        (&[100, 100, 100], &[100, 0, 0]),
        (&[72, 72, 100], &[100, 0, 0]),
        (&[71, 71, 100], &[99, 1, 0]),
        (&[50, 50, 100], &[70, 30, 0]),
        (&[25, 100, 100], &[35, 65, 0]),
        (&[25, 25, 100], &[35, 35, 30]),
        (&[25, 25, 20], &[36, 36, 28]),
        (&[0, 0, 1], &[0, 0, 100]),
    ];
    for (shares, expected) in cases {
        let loads: Vec<u32> = healthy(shares, &NO_PANIC).into_iter().map(|(load, _)| load).collect();
        assert_eq!(loads, expected, "{shares:?}");
    }
}

/// "Degraded endpoints": healthy, degraded, and the rest unhealthy, of one priority.
#[test]
fn degraded_endpoints_take_what_healthy_ones_cannot() {
    let cases = [
        ((100, 0), (100, 0)),
        ((71, 0), (100, 0)),
        ((71, 29), (99, 1)),
        ((25, 65), (35, 65)),
        ((5, 0), (100, 0)),
    ];
    for (shares, expected) in cases {
        let [(healthy, degraded, _)] = loads(&[shares], &NO_PANIC)[..] else {
            panic!("one priority")
        };
        assert_eq!((healthy, degraded), expected, "{shares:?}");
    }
    // The healthy ones of all priorities come before any degraded one.
    assert_eq!(
        loads(&[(25, 75), (25, 0)], &NO_PANIC),
        [(35, 30, false), (35, 0, false)]
    );
}

/// "Panic threshold": both tables. (In the second the documentation divides 50/60 and 25/100 without the factor of 1.4 that
/// its other figures have; here they have it too.)
#[test]
fn a_priority_panics_when_all_together_do_not_suffice() {
    type Case = (&'static [u64], &'static [(u32, bool)]);
    let cases: [Case; 15] = [
        (&[72, 100], &[(100, false), (0, false)]),
        (&[71, 100], &[(99, false), (1, false)]),
        (&[50, 100], &[(70, false), (30, false)]),
        (&[25, 100], &[(35, false), (65, false)]),
        (&[0, 100], &[(0, false), (100, false)]),
        (&[72, 72], &[(100, false), (0, false)]),
        (&[71, 71], &[(99, false), (1, false)]),
        (&[50, 60], &[(70, false), (30, false)]),
        (&[25, 100], &[(35, false), (65, false)]),
        (&[25, 25], &[(50, true), (50, true)]),
        (&[5, 65], &[(7, true), (93, false)]),
        // Everybody is out: by how many there are.
        (&[0, 0], &[(50, true), (50, true)]),
        (&[0], &[(100, true)]),
        (&[49], &[(100, true)]),
        (&[50], &[(100, false)]),
    ];
    for (shares, expected) in cases {
        assert_eq!(healthy(shares, &CommonLb::ENVOY), expected, "{shares:?}");
    }
    let sizes = [census(0, 0, 1), census(0, 0, 2), census(0, 0, 0)];
    let all_out = Loads::of(&sizes, &CommonLb::ENVOY, &Localities::default());
    let shares: Vec<u32> = all_out.iter().map(|load| load.healthy).collect();
    assert_eq!(shares, [34, 66, 0]);
    // Degraded endpoints can be called, so they count against panic.
    assert_eq!(loads(&[(10, 45)], &CommonLb::ENVOY), [(18, 82, false)]);
    assert_eq!(loads(&[(10, 30)], &CommonLb::ENVOY), [(100, 0, true)]);
    // Switched off: who is out is not called, even if nobody is then.
    assert_eq!(healthy(&[5, 65], &NO_PANIC), [(7, false), (93, false)]);
    assert_eq!(healthy(&[0, 0], &NO_PANIC), [(0, false), (0, false)]);
    assert_eq!(healthy(&[], &CommonLb::ENVOY), []);
}

#[test]
fn the_first_priority_that_can_be_called_takes_everything_in_grpc() {
    type Case = (&'static [(u64, u64)], &'static [(u32, u32, bool)]);
    let cases: [Case; 5] = [
        (&[(1, 0), (100, 0)], &[(100, 0, false), (0, 0, false)]),
        (&[(0, 0), (1, 0)], &[(0, 0, false), (100, 0, false)]),
        (&[(0, 50), (1, 0)], &[(0, 0, false), (100, 0, false)]),
        (&[(0, 0), (0, 1)], &[(0, 0, false), (0, 100, false)]),
        (&[(0, 0), (0, 0)], &[(0, 0, false), (0, 0, false)]),
    ];
    for (shares, expected) in cases {
        assert_eq!(loads(shares, &CommonLb::GRPC), expected, "{shares:?}");
    }
}

#[test]
fn health_may_be_counted_by_weight_and_the_factor_may_be_another() {
    let hosts = Count {
        healthy: 9,
        degraded: 0,
        total: 10,
    };
    let weight = Count {
        healthy: 9,
        degraded: 0,
        total: 36,
    };
    let other = census(10, 0, 10);
    let spread = |localities: &Localities| {
        let loads = Loads::of(&[Census { hosts, weight }, other], &CommonLb::ENVOY, localities);
        loads.iter().map(|load| load.healthy).collect::<Vec<_>>()
    };
    assert_eq!(spread(&Localities::default()), [100, 0]);
    let by_weight = Localities {
        weighted_health: true,
        ..Localities::default()
    };
    assert_eq!(spread(&by_weight), [35, 65]);
    let tight = Localities {
        overprovisioning_factor: 100,
        ..Localities::default()
    };
    assert_eq!(spread(&tight), [90, 10]);
}

/// Envoy's rule for `previous_priorities`: what is left is spread over the rest; when nothing is left, over all.
#[test]
fn priorities_gone_to_are_left_out_as_far_as_there_are_others() {
    let census = [census(100, 0, 100), census(50, 0, 100), census(100, 0, 100)];
    let all = Loads::of(&census, &CommonLb::ENVOY, &Localities::default());
    let shares = |out: &[usize]| {
        let left = all.without(|rank| out.contains(&rank))?;
        Some(left.iter().map(|load| load.healthy).collect::<Vec<_>>())
    };
    assert_eq!(shares(&[0]).unwrap(), [0, 70, 30]);
    assert_eq!(shares(&[0, 2]).unwrap(), [0, 100, 0]);
    assert_eq!(shares(&[0, 1, 2]), None);
    let out = |tries: usize, update_frequency| {
        GoneTo {
            priorities: &[7; 8][..tries],
            update_frequency,
        }
        .out()
        .len()
    };
    assert_eq!([0, 1, 2, 3, 4, 5].map(|tries| out(tries, 2)), [0, 0, 2, 2, 4, 4]);
}

/// "Locality weighted": X weighs 1 and Y 2, all of Y is healthy.
#[test]
fn a_locality_takes_less_as_fewer_of_it_can_be_called() {
    for (x, expected) in [
        (100, [33, 67]),
        (70, [33, 67]),
        (69, [32, 68]),
        (50, [26, 74]),
        (25, [15, 85]),
        (0, [0, 100]),
    ] {
        let weights = [effective_weight(1, x, 100, 140), effective_weight(2, 100, 100, 140)];
        // 32.57 % is told as 32 there: what it is cut to, and the rest is the other's.
        let share = (weights[0] * 1000 / (weights[0] + weights[1])) as u32;
        assert!(
            share / 10 == expected[0] || share.div_ceil(10) == expected[0],
            "{x}: {share}"
        );
        assert_eq!(expected[0] + expected[1], 100);
    }
    assert_eq!(effective_weight(u32::MAX, u64::MAX, 0, u32::MAX), 0);
}

#[derive(Clone, Debug)]
struct Host {
    index: usize,
    available: bool,
    ejected: bool,
}

impl crate::balance::Load for Host {
    fn in_flight(&self) -> u32 {
        0
    }

    fn is_available(&self) -> bool {
        self.available
    }

    fn weight(&self) -> u32 {
        1
    }

    fn hash_key(&self, key: &mut String) {
        key.push_str(&self.index.to_string());
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn reported(&self) -> Option<&crate::balance::Reported> {
        None
    }
}

impl Member for Host {
    fn is_ejected(&self) -> bool {
        self.ejected
    }
}

fn endpoint(priority: u32, zone: &str, health: Health) -> Endpoint {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let address = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let locality = Locality {
        zone: zone.into(),
        ..Locality::default()
    };
    Endpoint {
        priority,
        health,
        locality: Arc::new(locality),
        ..Endpoint::new(SocketAddr::from((Ipv4Addr::from(address), 1)))
    }
}

fn cluster(endpoints: Vec<Endpoint>, common_lb: CommonLb) -> Cluster {
    Cluster {
        common_lb,
        lb: LbPolicy::Random,
        ..Cluster::new("c", TlsMode::Plaintext, endpoints)
    }
}

/// What came of so many picks, by endpoint, and the plan's groups.
struct Rig {
    hosts: Vec<Host>,
    picker: LevelPicker,
    entropy: Entropy,
}

impl Rig {
    fn new(cluster: &Cluster, ejected: &[usize]) -> Self {
        let plan = Plan::of(cluster, |index| ejected.contains(&index), false);
        let count = cluster.endpoints.len();
        let order = plan.order.clone().map_or_else(
            || (0..count).collect(),
            |order| order.iter().map(|at| *at as usize).collect::<Vec<_>>(),
        );
        let hosts: Vec<Host> = order
            .into_iter()
            .map(|index| Host {
                index,
                available: true,
                ejected: ejected.contains(&index),
            })
            .collect();
        let entropy = Entropy::seeded(17);
        let first_ready = cluster.common_lb.failover == Failover::FirstReady;
        let weights = vec![1; hosts.len()];
        let places = (&hosts[..], &weights[..]);
        let picker = LevelPicker::new(plan, |_| &cluster.lb, places, first_ready, &mut entropy.draw());
        Self { hosts, picker, entropy }
    }

    fn pick(&self, hash: Option<u64>) -> Option<usize> {
        let ask = Ask { hash, ..Ask::default() };
        let place = self
            .picker
            .pick(&self.hosts, ask, |_| false, &mut self.entropy.draw())?;
        Some(self.hosts[place].index)
    }

    fn shares(&self, picks: u32) -> Vec<u32> {
        let mut shares = vec![0; self.hosts.len()];
        for _ in 0..picks {
            shares[self.pick(None).unwrap()] += 1;
        }
        shares
    }
}

fn near(count: u32, expected: u32) -> bool {
    // Five standard deviations of 10,000 draws at the worst share are 250.
    count.abs_diff(expected) < 250
}

#[test]
fn one_group_stands_as_it_was_written() {
    let all = cluster(
        (0..4).map(|_| endpoint(0, "", Health::Healthy)).collect(),
        CommonLb::ENVOY,
    );
    let plan = Plan::of(&all, |_| false, false);
    assert_eq!(plan.order, None);
    assert_eq!(plan.tiers.len(), 1);
    assert_eq!(plan.tiers[0].groups, [Group { hosts: 0..4, weight: 1 }]);
    assert!(matches!(Rig::new(&all, &[]).picker.kind, picker::Kind::One(_)));
}

#[test]
fn calls_are_dealt_out_as_the_loads_say() {
    // Half of the first priority is out: it takes 70 %.
    let mut endpoints: Vec<Endpoint> = (0..4).map(|_| endpoint(1, "", Health::Healthy)).collect();
    endpoints.extend(
        [Health::Unhealthy, Health::Healthy, Health::Draining, Health::Healthy].map(|health| endpoint(0, "", health)),
    );
    let rig = Rig::new(&cluster(endpoints, CommonLb::ENVOY), &[]);
    let shares = rig.shares(10_000);
    assert_eq!((shares[4], shares[6]), (0, 0));
    assert!(near(shares[5] + shares[7], 7_000), "{shares:?}");
    assert!(!rig.picker.is_in_panic());
    // The same request goes to the same priority.
    let of = |hash| rig.pick(Some(hash)).unwrap() >= 4;
    for hash in 0..200 {
        assert_eq!(of(hash), hash % 100 < 70);
    }
}

#[test]
fn in_panic_all_are_called_but_those_that_finish() {
    let healths = [Health::Healthy, Health::Unhealthy, Health::Healthy, Health::Draining];
    let all = cluster(healths.map(|health| endpoint(0, "", health)).into(), CommonLb::ENVOY);
    let rig = Rig::new(&all, &[0]);
    assert!(rig.picker.is_in_panic());
    let shares = rig.shares(9_000);
    assert_eq!(shares[3], 0);
    assert!(shares[..3].iter().all(|share| near(*share, 3_000)), "{shares:?}");
    // Nothing else is there.
    let finishing = cluster(vec![endpoint(0, "", Health::Draining)], CommonLb::ENVOY);
    assert_eq!(Rig::new(&finishing, &[]).pick(None), Some(0));
    // Or nobody is called, where that was asked for.
    for common in [
        CommonLb {
            fail_on_panic: true,
            ..CommonLb::ENVOY
        },
        NO_PANIC,
    ] {
        let out = cluster(
            vec![endpoint(0, "", Health::Healthy), endpoint(0, "", Health::Healthy)],
            common,
        );
        assert_eq!(Rig::new(&out, &[0, 1]).pick(None), None);
    }
    let one_left = cluster(
        vec![endpoint(0, "", Health::Healthy), endpoint(0, "", Health::Healthy)],
        NO_PANIC,
    );
    assert_eq!(Rig::new(&one_left, &[0]).shares(100), [0, 100]);
}

#[test]
fn a_locality_is_chosen_by_its_weight_and_its_health() {
    let by_locality = CommonLb {
        by_locality: true,
        ..CommonLb::ENVOY
    };
    let mut endpoints: Vec<Endpoint> = (0..4).map(|_| endpoint(0, "x", Health::Healthy)).collect();
    endpoints.extend((0..2).map(|_| endpoint(0, "y", Health::Healthy)));
    endpoints.push(endpoint(0, "z", Health::Healthy));
    let mut weighted = cluster(endpoints, by_locality);
    let weight = |zone: &str, weight| LocalityWeight {
        priority: 0,
        locality: Arc::new(Locality {
            zone: zone.into(),
            ..Locality::default()
        }),
        weight: Weight(weight),
    };
    weighted.localities.weights = [weight("x", 1), weight("y", 2), weight("z", 0)].into();
    let sums = |rig: &Rig| {
        let shares = rig.shares(10_000);
        [shares[..4].iter().sum::<u32>(), shares[4..6].iter().sum(), shares[6]]
    };
    let all = sums(&Rig::new(&weighted, &[]));
    assert!(near(all[0], 3_333) && near(all[1], 6_667) && all[2] == 0, "{all:?}");
    // Half of X is out: 26 % and 74 %.
    let half = sums(&Rig::new(&weighted, &[1, 2]));
    assert!(near(half[0], 2_593) && near(half[1], 7_407), "{half:?}");
    // gRPC chooses among those that can be called, whatever share of them can.
    weighted.common_lb = CommonLb::GRPC;
    let grpc = sums(&Rig::new(&weighted, &[1, 2]));
    assert!(near(grpc[0], 3_333) && near(grpc[1], 6_667), "{grpc:?}");
    // One picker for all of them weighs endpoints by their part of the locality's weight.
    let shares = shares(&weighted).unwrap();
    assert_eq!(shares[..], [250, 250, 250, 250, 1_000, 1_000, 0]);
    // Not weighed: as much as there are endpoints in each.
    weighted.localities.weights = Arc::default();
    weighted.common_lb = by_locality;
    let unsaid = sums(&Rig::new(&weighted, &[]));
    assert!(
        near(unsaid[0], 5_714) && near(unsaid[1], 2_857) && near(unsaid[2], 1_429),
        "{unsaid:?}"
    );
    // Not asked for: one list.
    weighted.common_lb = CommonLb::ENVOY;
    assert_eq!(Plan::of(&weighted, |_| false, false).tiers[0].groups.len(), 1);
}

#[test]
fn grpc_goes_on_to_the_next_priority_when_no_host_can_be_reached() {
    let endpoints = (0..6).map(|index| endpoint(index / 2, "", Health::Healthy)).collect();
    let mut rig = Rig::new(&cluster(endpoints, CommonLb::GRPC), &[]);
    assert_eq!(rig.shares(1_000)[2..], [0; 4]);
    rig.hosts[0].available = false;
    assert_eq!(rig.shares(1_000)[..2], [0, 1_000]);
    rig.hosts[1].available = false;
    let shares = rig.shares(1_000);
    assert_eq!((shares[2] + shares[3], shares[4]), (1_000, 0));
    // None can be reached: the call learns why from one of the first.
    rig.hosts.iter_mut().for_each(|host| host.available = false);
    assert!(rig.pick(None).unwrap() < 2);
}

#[test]
fn a_locality_out_of_reach_does_not_fail_the_calls_that_another_can_take() {
    let by_locality = CommonLb {
        by_locality: true,
        ..CommonLb::ENVOY
    };
    let endpoints = vec![endpoint(0, "x", Health::Healthy), endpoint(0, "y", Health::Healthy)];
    let mut rig = Rig::new(&cluster(endpoints, by_locality), &[]);
    rig.hosts[0].available = false;
    let shares = rig.shares(1_000);
    // Six draws all fall on it once in 64.
    assert!(shares[0] < 50, "{shares:?}");
}

#[test]
fn a_further_try_goes_to_a_priority_that_none_went_to() {
    let endpoints = (0..3).map(|priority| endpoint(priority, "", Health::Healthy)).collect();
    let rig = Rig::new(&cluster(endpoints, CommonLb::ENVOY), &[]);
    let pick = |priorities: &[u32]| {
        let gone_to = GoneTo {
            priorities,
            update_frequency: 1,
        };
        let place = rig
            .picker
            .pick_again(&rig.hosts, Ask::default(), |_| false, gone_to, &mut rig.entropy.draw());
        rig.hosts[place.unwrap()].index as u32
    };
    for _ in 0..100 {
        assert_eq!(pick(&[]), 0);
        assert_eq!(pick(&[0]), 1);
        assert_eq!(pick(&[0, 1]), 2);
        assert_eq!(pick(&[0, 1, 2]), 0);
    }
}

/// A host that counts how often it is looked at.
struct Watched<'a>(&'a Cell<usize>);

impl Watched<'_> {
    fn look(&self) {
        self.0.set(self.0.get() + 1);
    }
}

impl crate::balance::Load for Watched<'_> {
    fn in_flight(&self) -> u32 {
        self.look();
        0
    }

    fn is_available(&self) -> bool {
        self.look();
        true
    }

    fn weight(&self) -> u32 {
        self.look();
        1
    }

    fn hash_key(&self, key: &mut String) {
        key.push('h');
    }

    fn is_connected(&self) -> bool {
        self.look();
        true
    }

    fn reported(&self) -> Option<&crate::balance::Reported> {
        None
    }
}

impl Member for Watched<'_> {
    fn is_ejected(&self) -> bool {
        self.look();
        false
    }
}

/// Nothing that a pick does grows with the number of endpoints, of one priority and locality or of many.
#[test]
fn ep_14_a_pick_looks_at_as_few_hosts_among_many_as_among_few() {
    let looks = |count: u32, spread: bool, policy: LbPolicy| {
        let endpoints = (0..count).map(|index| match spread {
            true => endpoint(index % 3, ["a", "b", "c"][index as usize % 3], Health::Healthy),
            false => endpoint(0, "", Health::Healthy),
        });
        let by_locality = CommonLb {
            by_locality: spread,
            ..CommonLb::ENVOY
        };
        let all = Cluster {
            lb: policy,
            ..cluster(endpoints.collect(), by_locality)
        };
        let seen = Cell::new(0);
        let hosts: Vec<Watched<'_>> = (0..count).map(|_| Watched(&seen)).collect();
        let entropy = Entropy::seeded(3);
        // Half of the first priority is out, so that several take part.
        let plan = Plan::of(&all, |index| spread && index % 6 == 0, false);
        let weights = vec![1; hosts.len()];
        let picker = LevelPicker::new(plan, |_| &all.lb, (&hosts, &weights), false, &mut entropy.draw());
        let mut most = 0;
        for _ in 0..1_000 {
            let before = seen.get();
            picker
                .pick(&hosts, Ask::default(), |_| false, &mut entropy.draw())
                .unwrap();
            most = most.max(seen.get() - before);
        }
        most
    };
    for spread in [false, true] {
        for policy in [LbPolicy::LEAST_REQUEST, LbPolicy::RoundRobin, LbPolicy::Random] {
            let [few, many] = [99, 99_999].map(|count| looks(count, spread, policy.clone()));
            assert!(many <= few && many <= 40, "{policy:?}: {few} and {many}");
        }
    }
}

/// What is said of panic, of localities and of their factor is each leaf's, in whatever order they stand (gRFC A75).
#[test]
fn a_priority_is_called_by_the_rules_of_the_cluster_that_it_is_of() {
    // One of four can be called.
    let unfit = |n: u32| if n == 0 { Health::Healthy } else { Health::Unhealthy };
    let poor = |threshold: u32, by_locality: bool| {
        let rules = CommonLb {
            panic_threshold: Percent::new(threshold).unwrap(),
            by_locality,
            ..CommonLb::ENVOY
        };
        let endpoints = (0..4).map(|n| endpoint(0, ["a", "b"][n as usize % 2], unfit(n)));
        Arc::new(cluster(endpoints.collect(), rules))
    };
    for [first, second] in [[0, 50], [50, 0], [50, 50], [0, 0]] {
        let leaves = [poor(first, false), poor(second, false)];
        let whole = Cluster::aggregate("whole".into(), leaves.into());
        let plan = Plan::of(&whole, |_| false, false);
        let panic: Vec<bool> = plan.loads.iter().map(|load| load.panic).collect();
        assert_eq!(panic, [first > 0, second > 0], "{first} and {second}");
    }
    let good = |by_locality: bool, factor: u32| {
        let rules = CommonLb {
            by_locality,
            ..CommonLb::ENVOY
        };
        let endpoints = (0..4).map(|n| endpoint(0, ["a", "b"][n as usize / 2], unfit(n % 2)));
        let mut leaf = cluster(endpoints.collect(), rules);
        leaf.localities.overprovisioning_factor = factor;
        Arc::new(leaf)
    };
    let groups = |leaves: [Arc<Cluster>; 2]| {
        let plan = Plan::of(&Cluster::aggregate("whole".into(), leaves.into()), |_| false, false);
        let tiers = plan.tiers.iter().map(|tier| (tier.load, tier.groups.len()));
        tiers.collect::<Vec<_>>()
    };
    // Half of each can be called: at 140 that is 70 of a hundred, at 100 it is 50.
    assert_eq!(groups([good(true, 140), good(false, 140)]), [(70, 2), (30, 1)]);
    assert_eq!(groups([good(false, 140), good(true, 140)]), [(70, 1), (30, 2)]);
    assert_eq!(groups([good(false, 100), good(true, 140)]), [(50, 1), (50, 2)]);
    // Ninety of a hundred together, in proportion.
    assert_eq!(groups([good(false, 140), good(true, 40)]), [(78, 1), (22, 2)]);
}
