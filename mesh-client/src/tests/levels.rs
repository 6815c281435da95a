//! Which endpoints are called: of which priorities and localities, and how much each; what becomes of that when some fail.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{
    Cluster, CommonLb, Endpoint, Health, LbPolicy, Locality, LocalityWeight, Percent, RetryOn, RetryPolicy, Route,
    SlowStart, Snapshot, Split, TlsMode, Version, Weight,
};
use mesh_core::link::{Parts, Source};

use super::net::{Net, Plain, address, call, channel, one_cluster, post, say_status, text};
use super::outliers::istio;
use crate::clusters;
use crate::wait::until;

/// Servers 1 to `count` that answer 200, but for those of `failing`, which answer 503.
fn servers(count: u8, failing: &'static [u8]) -> Net {
    let net = Net::default();
    for n in 1..=count {
        let status = if failing.contains(&n) { 503 } else { 200 };
        net.serve(n, move |_, respond| async move { say_status(respond, status) });
    }
    net
}

async fn peer(channel: &Plain) -> Option<SocketAddr> {
    match call(channel, post("")).await {
        Ok(response) => {
            let peer = response.body().peer();
            text(response).await;
            peer
        }
        Err(error) => error.peer(),
    }
}

/// How many of so many calls each server took, by its number.
async fn shares(channel: &Plain, calls: u32) -> BTreeMap<u8, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..calls {
        let SocketAddr::V4(peer) = peer(channel).await.expect("each call goes somewhere") else {
            panic!("servers have addresses of four bytes")
        };
        *shares.entry(peer.ip().octets()[3]).or_default() += 1;
    }
    shares
}

/// A snapshot of its own number, in which servers 1 to `count` are called by chance and each call is one try, with this change.
fn publish(source: &Source, count: u8, change: impl FnOnce(&mut Cluster)) {
    let mut route = Route::to(Split::all_to("c"));
    route.retry = RetryPolicy::never();
    let endpoints = (1..=count).map(|n| Endpoint::new(address(n))).collect();
    let mut cluster = Cluster::new("c", TlsMode::Plaintext, endpoints);
    cluster.lb = LbPolicy::Random;
    change(&mut cluster);
    let next = Version(source.snapshots.reader().load().version().0 + 1);
    let builder = Snapshot::builder().version(next).route("t", route);
    source.snapshots.publish(builder.cluster(cluster).build().unwrap());
}

/// The even numbers are of priority 1.
fn two_priorities(cluster: &mut Cluster) {
    for (index, endpoint) in Arc::make_mut(&mut cluster.endpoints).iter_mut().enumerate() {
        endpoint.priority = index as u32 % 2;
    }
}

fn set_health(cluster: &mut Cluster, healths: &[Health]) {
    for (endpoint, health) in Arc::make_mut(&mut cluster.endpoints).iter_mut().zip(healths) {
        endpoint.health = *health;
    }
}

#[tokio::test]
async fn calls_spill_to_the_next_priority_as_the_first_one_fails() {
    let net = servers(8, &[]);
    let (source, link) = net.link();
    publish(&source, 8, two_priorities);
    let channel = channel(&link);
    let seen = shares(&channel, 100).await;
    assert!(seen.keys().all(|n| n % 2 == 1) && seen.len() == 4, "{seen:?}");
    // Half of the first priority is unhealthy: 70 % and 30 %.
    let (healthy, out) = (Health::Healthy, Health::Unhealthy);
    publish(&source, 8, |cluster| {
        two_priorities(cluster);
        set_health(
            cluster,
            &[out, healthy, out, healthy, healthy, healthy, healthy, healthy],
        );
    });
    applied(&link).await;
    let seen = shares(&channel, 1_000).await;
    assert_eq!((seen.get(&1), seen.get(&3)), (None, None));
    let first: u32 = [5, 7].iter().map(|n| seen[n]).sum();
    // Five standard deviations of a thousand draws at 70 % are 72.
    assert!(first.abs_diff(700) < 73, "{seen:?}");
    let [cluster] = &clusters(&link)[..] else {
        panic!("one cluster")
    };
    let told: Vec<_> = cluster
        .priorities
        .iter()
        .map(|one| (one.priority, one.healthy_percent, one.panic))
        .collect();
    assert_eq!(told, [(0, 70, false), (1, 30, false)]);
}

/// Waits until the newest configuration is what calls go by.
async fn applied(link: &mesh_core::Link) {
    let version = link.snapshots().load().version();
    until(&link.applied(), |applied| *applied >= version).await;
}

/// All of a priority is ejected: its calls go to the next one, and come back when they do.
#[tokio::test(start_paused = true)]
async fn ep_11_the_next_priority_takes_the_calls_of_one_that_is_out() {
    let net = servers(4, &[1, 3]);
    let (source, link) = net.link();
    publish(&source, 4, |cluster| {
        two_priorities(cluster);
        cluster.outlier = Some(istio());
    });
    let channel = channel(&link);
    while clusters(&link)[0].ejected.len() < 2 {
        peer(&channel).await;
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let seen = shares(&channel, 100).await;
    assert!(seen.keys().all(|n| n % 2 == 0), "{seen:?}");
    assert_eq!(link.tally().total("lb_healthy_panic"), 0);
    tokio::time::sleep(Duration::from_secs(41)).await;
    let first = peer(&channel).await;
    assert!([Some(address(1)), Some(address(3))].contains(&first), "{first:?}");
}

/// By gRPC's rules (A56) it is enough that nobody can be reached.
#[tokio::test(start_paused = true)]
async fn grpcs_next_priority_takes_over_when_nobody_can_be_reached() {
    let net = servers(4, &[]);
    let (source, link) = net.link();
    publish(&source, 4, |cluster| {
        two_priorities(cluster);
        cluster.common_lb = CommonLb::GRPC;
    });
    let channel = channel(&link);
    assert!(shares(&channel, 20).await.keys().all(|n| n % 2 == 1));
    net.kill(1);
    net.kill(3);
    // Each is tried once more, and then not while its pause runs.
    for _ in 0..4 {
        peer(&channel).await;
    }
    let seen = shares(&channel, 20).await;
    assert!(seen.keys().all(|n| n % 2 == 0), "{seen:?}");
}

#[tokio::test]
async fn localities_take_what_they_weigh() {
    let net = servers(6, &[]);
    let (source, link) = net.link();
    publish(&source, 6, |cluster| {
        cluster.common_lb.by_locality = true;
        let zone = |zone: &str| {
            Arc::new(Locality {
                zone: zone.into(),
                ..Locality::default()
            })
        };
        let (x, y) = (zone("x"), zone("y"));
        for (index, endpoint) in Arc::make_mut(&mut cluster.endpoints).iter_mut().enumerate() {
            endpoint.locality = Arc::clone(if index == 0 { &x } else { &y });
        }
        let weight = |locality, weight| LocalityWeight {
            priority: 0,
            locality,
            weight: Weight(weight),
        };
        cluster.localities.weights = [weight(x, 3), weight(y, 1)].into();
    });
    let seen = shares(&channel(&link), 1_000).await;
    assert_eq!(seen.len(), 6);
    assert!(seen[&1].abs_diff(750) < 69, "{seen:?}");
}

/// Istio `retryRemoteLocalities`, Envoy `previous_priorities`.
#[tokio::test]
async fn a_further_try_goes_to_another_priority() {
    let net = servers(3, &[1, 2]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1, 2, 3], |route, cluster| {
        let mut retry = RetryPolicy {
            retries: 2,
            on: RetryOn::parse("5xx"),
            explicit: true,
            ..RetryPolicy::default()
        };
        retry.hosts.other_priorities = Some(1);
        retry.hosts.other_hosts = false;
        route.retry = retry;
        for (priority, endpoint) in (0..).zip(Arc::make_mut(&mut cluster.endpoints)) {
            endpoint.priority = priority;
        }
    }));
    let channel = channel(&link);
    let response = call(&channel, post("")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.body().peer()),
        (200, Some(address(3)))
    );
    text(response).await;
}

/// A host that is only not called at the moment keeps its connection: it finishes what it does, and is not dialled anew later.
#[tokio::test]
async fn a_host_that_is_out_for_a_while_keeps_its_connection() {
    let net = servers(2, &[]);
    let (source, link) = net.link();
    let with = |healths: [Health; 2]| move |cluster: &mut Cluster| set_health(cluster, &healths);
    publish(&source, 2, with([Health::Healthy, Health::Unhealthy]));
    let channel = channel(&link);
    assert_eq!(shares(&channel, 10).await, [(1, 10)].into());
    publish(&source, 2, with([Health::Unhealthy, Health::Healthy]));
    applied(&link).await;
    assert_eq!(shares(&channel, 10).await, [(2, 10)].into());
    publish(&source, 2, with([Health::Healthy, Health::Unhealthy]));
    applied(&link).await;
    assert_eq!(shares(&channel, 10).await, [(1, 10)].into());
    assert_eq!((net.dials_to(1), net.dials_to(2)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_new_host_gets_its_share_bit_by_bit() {
    let net = servers(2, &[]);
    let (source, link) = net.link();
    let slow = |cluster: &mut Cluster| {
        cluster.common_lb.slow_start = Some(SlowStart::new(Duration::from_secs(100)));
        cluster.lb = LbPolicy::RoundRobin;
    };
    publish(&source, 1, slow);
    let channel = channel(&link);
    assert_eq!(shares(&channel, 10).await, [(1, 10)].into());
    publish(&source, 2, slow);
    applied(&link).await;
    // A tenth of the other's share at once, half after half of the time, all at its end.
    for (seconds, percent) in [(0, 10), (50, 50), (50, 100)] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let seen = shares(&channel, 1_100).await;
        let expected = 1_100 * percent / (100 + percent);
        // Steps are a twentieth of the window.
        assert!(seen[&2].abs_diff(expected) < 40, "{seen:?} after {seconds} s more");
    }
}

#[tokio::test]
async fn the_threshold_of_panic_is_the_configurations() {
    let net = servers(4, &[]);
    let (source, link) = net.link();
    let with = |percent: u32| {
        move |cluster: &mut Cluster| {
            cluster.common_lb.panic_threshold = Percent::new(percent).unwrap();
            set_health(cluster, &[Health::Unhealthy, Health::Unhealthy, Health::Unhealthy]);
        }
    };
    publish(&source, 4, with(20));
    let channel = channel(&link);
    assert_eq!(shares(&channel, 50).await, [(4, 50)].into());
    publish(&source, 4, with(30));
    applied(&link).await;
    assert_eq!(shares(&channel, 200).await.len(), 4);
    assert_eq!(link.tally().get("lb_healthy_panic", "entered"), 1);
}

/// A process that is to call two of twenty calls two, spreads its calls over both, and keeps them while they are there.
#[tokio::test]
async fn a_process_calls_its_own_few_of_many() {
    let net = servers(20, &[]);
    let parts = Parts {
        subset_size: NonZeroU32::new(2),
        ..Parts::default()
    };
    let (source, link) = net.link_with(parts);
    publish(&source, 20, |_| ());
    let channel = channel(&link);
    let few = shares(&channel, 200).await;
    assert!(few.len() == 2 && few.values().all(|share| *share > 60), "{few:?}");
    assert_eq!(clusters(&link)[0].endpoints, 20);
    // Another goes: nothing changes. One of them goes: one takes its place.
    let without = |gone: u8| {
        move |cluster: &mut Cluster| {
            let rest = cluster.endpoints.iter().filter(|one| one.address != address(gone));
            cluster.endpoints = rest.cloned().collect();
        }
    };
    let other = (1..=20).find(|n| !few.contains_key(n)).unwrap();
    publish(&source, 20, without(other));
    applied(&link).await;
    assert!(shares(&channel, 50).await.keys().eq(few.keys()));
    let one = *few.keys().next().unwrap();
    publish(&source, 20, without(one));
    applied(&link).await;
    let now = shares(&channel, 50).await;
    assert_eq!(
        (now.len(), now.keys().filter(|n| few.contains_key(n)).count()),
        (2, 1),
        "{now:?}"
    );
}

/// A hundred thousand endpoints, of which one in a hundred is another with each update: a host is dialled when it is called and
/// not before, keeps its connection while it is there, and a process that is to call eight calls eight.
#[tokio::test]
async fn ep_14_of_a_hundred_thousand_changing_endpoints_few_are_dialled_and_none_twice() {
    const ALL: u32 = 100_000;
    let list = |generation: u32| -> Vec<Endpoint> {
        // Every hundredth, and each time others of them, is replaced by one that was never there.
        let number = |place: u32| match place % 100 < generation {
            true => ALL * (1 + place % 100) + place,
            false => place,
        };
        let at = |number: u32| SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 81));
        (0..ALL).map(|place| Endpoint::new(at(number(place)))).collect()
    };
    for size in [None, NonZeroU32::new(8)] {
        let net = servers(1, &[]);
        net.stands_in(1);
        let (source, link) = net.link_with(Parts {
            subset_size: size,
            ..Parts::default()
        });
        let generation = |n: u32| publish(&source, 0, |cluster| cluster.endpoints = list(n).into());
        generation(0);
        let channel = channel(&link);
        channel.ready().await;
        assert_eq!(net.dials(), 0);
        for n in 1..=5 {
            for _ in 0..200 {
                assert!(peer(&channel).await.is_some());
            }
            generation(n);
            applied(&link).await;
        }
        // Nobody whom a change left alone is dialled anew.
        assert_eq!(net.dials(), net.dialled());
        let most = match size {
            None => 1_000,
            // Those that it has, and each that took the place of one that went.
            Some(size) => size.get() as usize * 2,
        };
        assert!(net.dialled() <= most, "{}", net.dialled());
    }
}
