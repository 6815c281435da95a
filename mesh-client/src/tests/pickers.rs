//! Which host of a cluster: by what a request hashes to, by what hosts report, by who is there; and how a slow one is avoided.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, Response};
use http_body_util::Full;
use mesh_core::config::{
    ClientWeights, Cluster, Endpoint, HashBy, HashCookie, HashPolicy, HostSelection, LbPolicy, Maglev, Metadata,
    RetryOn, RetryPolicy, RingHash, Route, Snapshot, Subject, Version,
};
use mesh_core::link::Source;

use super::net::{Net, Plain, address, call, channel, one_cluster, post, say_status, text};

const SERVERS: [u8; 5] = [1, 2, 3, 4, 5];

fn by_header() -> HashPolicy {
    HashPolicy::new(HashBy::Header {
        subject: Subject::parse("x-user").unwrap(),
        rewrite: None,
    })
}

fn by_cookie(ttl: u64) -> HashPolicy {
    HashPolicy::new(HashBy::Cookie(Box::new(HashCookie {
        name: "who".into(),
        ttl: Some(Duration::from_secs(ttl)),
        path: "/".into(),
        attributes: [].into(),
    })))
}

fn hashing(servers: &[u8], lb: &LbPolicy, policies: &[HashPolicy], retry: RetryPolicy) -> Snapshot {
    one_cluster(servers, |route, cluster| {
        route.retry = retry;
        cluster.lb = lb.clone();
        forward(route).hash = policies.into();
    })
}

fn forward(route: &mut Route) -> &mut mesh_core::config::Forward {
    match &mut route.action {
        mesh_core::config::Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

struct Rig {
    net: Net,
    source: Source,
    channel: Plain,
    _link: mesh_core::Link,
}

fn rig(snapshot: Snapshot) -> Rig {
    let net = Net::default();
    for n in SERVERS {
        net.serve(n, |_, respond| async { say_status(respond, 200) });
    }
    let (source, link) = net.link();
    source.snapshots.publish(snapshot);
    Rig {
        channel: channel(&link),
        net,
        source,
        _link: link,
    }
}

fn of_user(user: &str) -> Request<Full<Bytes>> {
    let mut request = post("");
    request.headers_mut().insert("x-user", user.parse().unwrap());
    request
}

async fn went(channel: &Plain, request: Request<Full<Bytes>>) -> SocketAddr {
    let response = call(channel, request).await.unwrap();
    let peer = response.body().peer().unwrap();
    text(response).await;
    peer
}

fn hashed_policies() -> [LbPolicy; 2] {
    [LbPolicy::RingHash(RingHash::DEFAULT), LbPolicy::Maglev(Maglev::DEFAULT)]
}

#[tokio::test(start_paused = true)]
async fn one_user_is_always_at_one_host_and_users_are_spread() {
    for lb in hashed_policies() {
        let rig = rig(hashing(&SERVERS, &lb, &[by_header()], RetryPolicy::never()));
        let mut hosts: HashMap<SocketAddr, usize> = HashMap::new();
        for user in 0..100 {
            let user = format!("user-{user}");
            let first = went(&rig.channel, of_user(&user)).await;
            for _ in 0..3 {
                assert_eq!(went(&rig.channel, of_user(&user)).await, first, "{user}");
            }
            *hosts.entry(first).or_default() += 1;
        }
        assert!(
            hosts.len() == 5 && hosts.values().all(|users| *users >= 5),
            "{lb:?}: {hosts:?}"
        );
        // Without the header anywhere.
        let mut anywhere = std::collections::HashSet::new();
        for _ in 0..60 {
            anywhere.insert(went(&rig.channel, post("")).await);
        }
        assert_eq!(anywhere.len(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_goes_moves_its_users_alone_and_they_come_back_with_it() {
    let lb = LbPolicy::RingHash(RingHash::DEFAULT);
    let rig = rig(hashing(&SERVERS, &lb, &[by_header()], RetryPolicy::never()));
    let users: Vec<String> = (0..60).map(|user| format!("user-{user}")).collect();
    let mut before = Vec::new();
    for user in &users {
        before.push(went(&rig.channel, of_user(user)).await);
    }
    // It is there and refuses: nobody else's place on the ring changes for that.
    rig.net.stop(3).await;
    let mut moved = 0;
    for (user, before) in users.iter().zip(&before) {
        let Ok(response) = call(&rig.channel, of_user(user)).await else {
            // The first to find out, and no one after.
            moved += 1;
            assert_eq!(*before, address(3));
            continue;
        };
        let now = response.body().peer().unwrap();
        text(response).await;
        assert!(now == *before || *before == address(3), "{user}");
    }
    assert!(moved <= 2, "{moved}");
    rig.net.serve(3, |_, respond| async { say_status(respond, 200) });
    tokio::time::advance(Duration::from_secs(10)).await;
    for (user, before) in users.iter().zip(&before) {
        assert_eq!(went(&rig.channel, of_user(user)).await, *before, "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_given_a_cookie_once_and_stays_where_it_was() {
    let rig = rig(hashing(
        &SERVERS,
        &LbPolicy::RingHash(RingHash::DEFAULT),
        &[by_cookie(60)],
        RetryPolicy::never(),
    ));
    let mut hosts = std::collections::HashSet::new();
    for _ in 0..40 {
        let response = call(&rig.channel, post("")).await.unwrap();
        let peer = response.body().peer().unwrap();
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap().to_owned();
        let (pair, rest) = cookie.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; Path=/; HttpOnly");
        hosts.insert(peer);
        for _ in 0..3 {
            let mut request = post("");
            request.headers_mut().insert(COOKIE, pair.parse().unwrap());
            let response = call(&rig.channel, request).await.unwrap();
            assert_eq!(response.body().peer(), Some(peer));
            assert!(!response.headers().contains_key(SET_COOKIE));
        }
    }
    assert_eq!(hosts.len(), 5);
    // Where the balancing does not go by it, nobody is given one.
    let random = hashing(&SERVERS, &LbPolicy::Random, &[by_cookie(60)], RetryPolicy::never());
    rig.source.snapshots.publish(Snapshot::clone(&random));
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    let response = call(&rig.channel, post("")).await.unwrap();
    assert!(!response.headers().contains_key(SET_COOKIE));
}

#[tokio::test(start_paused = true)]
async fn a_channel_stays_at_its_host_and_channels_are_spread() {
    let by_channel = [HashPolicy::new(HashBy::Channel)];
    let lb = LbPolicy::RingHash(RingHash::DEFAULT);
    let rig = rig(hashing(&SERVERS, &lb, &by_channel, RetryPolicy::never()));
    let mut hosts = std::collections::HashSet::new();
    for _ in 0..40 {
        let channel = channel(&rig._link);
        let first = went(&channel, post("")).await;
        assert_eq!(went(&channel.clone(), post("")).await, first);
        hosts.insert(first);
    }
    assert!(hosts.len() >= 4, "{hosts:?}");
}

#[tokio::test(start_paused = true)]
async fn retries_leave_the_host_of_the_hash_where_the_policy_says_so() {
    for (hosts, distinct) in [(HostSelection::ISTIO, 3), (HostSelection::ANY, 1)] {
        let net = Net::default();
        let tried = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        for n in SERVERS {
            let tried = std::sync::Arc::clone(&tried);
            net.serve(n, move |request, respond| {
                let fails = request.headers()["x-user"] == "ann";
                if fails {
                    tried.lock().unwrap().push(n);
                }
                async move { say_status(respond, if fails { 503 } else { 200 }) }
            });
        }
        let (source, link) = net.link();
        let retry = RetryPolicy {
            on: RetryOn::parse("5xx"),
            retries: 2,
            hosts,
            explicit: true,
            ..RetryPolicy::default()
        };
        let lb = LbPolicy::RingHash(RingHash::DEFAULT);
        source.snapshots.publish(hashing(&SERVERS, &lb, &[by_header()], retry));
        let channel = channel(&link);
        let mut orders = Vec::new();
        for _ in 0..3 {
            // So that the budget has room for both.
            for _ in 0..60 {
                went(&channel, of_user("bob")).await;
            }
            call(&channel, of_user("ann")).await.unwrap();
            let order = std::mem::take(&mut *tried.lock().unwrap());
            let hosts: std::collections::HashSet<_> = order.iter().collect();
            assert_eq!((order.len(), hosts.len()), (3, distinct), "{order:?}");
            orders.push(order);
        }
        assert!(orders.iter().all(|order| *order == orders[0]), "{orders:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hash_key_of_its_own_keeps_an_endpoints_users_when_its_address_changes() {
    let lb = LbPolicy::RingHash(RingHash::DEFAULT);
    let at = |servers: [u8; 3], version| {
        let mut snapshot = None;
        let built = one_cluster(&[1], |route, cluster| {
            forward(route).hash = [by_header()].into();
            cluster.lb = lb.clone();
            let endpoints = ["a", "b", "c"].iter().zip(servers).map(|(key, n)| Endpoint {
                metadata: std::sync::Arc::new(Metadata::new([("envoy.lb", "hash_key", *key)]).unwrap()),
                ..Endpoint::new(address(n))
            });
            cluster.endpoints = endpoints.collect();
            snapshot = Some((route.clone(), Cluster::clone(cluster)));
        });
        drop(built);
        let (route, cluster) = snapshot.unwrap();
        Snapshot::builder()
            .version(Version(version))
            .route("t", route)
            .cluster(cluster)
            .build()
            .unwrap()
    };
    let rig = rig(at([1, 2, 3], 1));
    let users: Vec<String> = (0..30).map(|user| format!("user-{user}")).collect();
    let mut before = Vec::new();
    for user in &users {
        before.push(went(&rig.channel, of_user(user)).await);
    }
    rig.source.snapshots.publish(at([1, 4, 3], 2));
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    for (user, before) in users.iter().zip(before) {
        let expected = if before == address(2) { address(4) } else { before };
        assert_eq!(went(&rig.channel, of_user(user)).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_host_takes_all_calls_and_the_next_when_it_is_gone() {
    let rig = rig(one_cluster(&SERVERS, |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.lb = LbPolicy::PickFirst { shuffle: false };
    }));
    for _ in 0..10 {
        assert_eq!(went(&rig.channel, post("")).await, address(1));
    }
    rig.net.stop(1).await;
    // One call finds out.
    drop(call(&rig.channel, post("")).await);
    for _ in 0..10 {
        assert_eq!(went(&rig.channel, post("")).await, address(2));
    }
    assert_eq!((rig.net.dials_to(2), rig.net.dials_to(3)), (1, 0));
}

/// What the slow one of five gets of the calls of five seconds, two thousand a second: the others answer within 20 ms, it within
/// 200 ms. All say so in their answers.
async fn share_of_the_slow(lb: LbPolicy) -> f64 {
    const CALLS: u32 = 10_000;
    let net = Net::default();
    for n in SERVERS {
        let (latency, load) = match n {
            1 => (200, "TEXT rps_fractional=100,cpu_utilization=1.0"),
            _ => (20, "TEXT rps_fractional=100,cpu_utilization=0.1"),
        };
        net.serve(n, move |_, mut respond| async move {
            tokio::time::sleep(Duration::from_millis(latency)).await;
            let answer = Response::builder().header("endpoint-load-metrics", load);
            // A caller that is gone is none of the server's business.
            drop(respond.send_response(answer.body(()).unwrap(), true));
        });
    }
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&SERVERS, |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.lb = lb;
    }));
    let channel = channel(&link);
    let mut calls = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..CALLS / 2 {
        ticks.tick().await;
        for _ in 0..2 {
            let channel = channel.clone();
            calls.spawn(async move { went(&channel, post("")).await });
        }
    }
    let peers = calls.join_all().await;
    let slow = peers.iter().filter(|peer| **peer == address(1)).count();
    slow as f64 / f64::from(CALLS)
}

/// The share of one of five.
const FAIR: f64 = 0.2;

#[tokio::test(start_paused = true)]
async fn ep_4_a_host_ten_times_slower_gets_a_third_of_its_share_by_least_request() {
    let share = share_of_the_slow(LbPolicy::LEAST_REQUEST).await;
    assert!(share <= FAIR / 3.0, "{share}");
    // It is the policy that does it.
    let share = share_of_the_slow(LbPolicy::RoundRobin).await;
    assert!((share - FAIR).abs() < 0.001, "{share}");
}

#[tokio::test(start_paused = true)]
async fn ep_4_and_by_what_it_reports() {
    let settings = ClientWeights {
        blackout: Duration::ZERO,
        ..ClientWeights::default()
    };
    let share = share_of_the_slow(LbPolicy::ClientSideWeightedRoundRobin(settings)).await;
    // In the first second nothing is taken over yet; from then on it has a tenth of the others' weight.
    let expected = FAIR / 5.0 + 0.8 * (0.1 / 4.1);
    assert!((share - expected).abs() < 0.005 && share <= FAIR / 3.0, "{share}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_back_is_not_weighed_by_what_it_reported_before() {
    let net = Net::default();
    for n in SERVERS {
        let load = match n {
            1 => "TEXT rps_fractional=100,cpu_utilization=1.0",
            _ => "TEXT rps_fractional=100,cpu_utilization=0.1",
        };
        net.serve(n, move |_, mut respond| async move {
            let answer = Response::builder().header("endpoint-load-metrics", load);
            respond.send_response(answer.body(()).unwrap(), true).unwrap();
        });
    }
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&SERVERS, |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.lb = LbPolicy::ClientSideWeightedRoundRobin(ClientWeights::default());
    }));
    let channel = channel(&link);
    // How many of so many calls, one every tenth of a second, went to the slow one.
    let to_slow = async |calls: usize| {
        let mut slow = 0;
        for _ in 0..calls {
            tokio::time::sleep(Duration::from_millis(100)).await;
            slow += usize::from(went(&channel, post("")).await == address(1));
        }
        slow
    };
    // For ten seconds nobody's word counts, and then it does.
    assert_eq!(to_slow(90).await, 18);
    to_slow(30).await;
    let slow = to_slow(200).await;
    assert!((3..=8).contains(&slow), "{slow}");
    // Its next call, within five seconds, finds it gone and back: it counts for the mean until its word has stood for ten more.
    net.end_connections(1);
    let back = to_slow(100).await;
    assert!(back >= 8, "{back}");
    to_slow(100).await;
    let slow = to_slow(200).await;
    assert!((3..=8).contains(&slow), "{slow}");
}
