//! Hosts that are taken out and return: what counts, at once or at the end of an interval; what survives a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use mesh_core::Link;
use mesh_core::config::{
    Cluster, Consecutive, LbPolicy, OutlierDetection, OutlierRules, Percent, RetryPolicy, Route, Snapshot, Version,
};
use mesh_core::link::Source;

use super::net::{
    Net, Plain, address, call, channel, grpc, one_cluster, post, say, say_grpc, say_status, silent, text,
};
use crate::clusters;

/// Five errors in a row take a host out, and all may go: what Istio's users mostly write.
pub(super) fn istio() -> OutlierDetection {
    let mut detection = OutlierDetection {
        max_ejection_percent: Percent::ALL,
        ..OutlierDetection::new(OutlierRules::Envoy)
    };
    detection.success_rate.enforcing = Percent::ZERO;
    detection
}

/// Watched, in turn, without retries: each call is one try, and says where it went.
fn watched(servers: &[u8], detection: OutlierDetection) -> Snapshot {
    one_cluster(servers, |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.lb = LbPolicy::RoundRobin;
        cluster.outlier = Some(detection);
    })
}

fn out(link: &Link) -> Vec<std::net::SocketAddr> {
    let [cluster] = &clusters(link)[..] else {
        panic!("one cluster")
    };
    cluster.ejected.iter().map(|one| one.address).collect()
}

/// Lets the manager's task run.
async fn settled() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// Where a call went, and how its answer began; the answer is read to its end.
async fn one_call(channel: &Plain) -> (Option<std::net::SocketAddr>, Option<u16>) {
    match call(channel, post("")).await {
        Ok(response) => {
            let (peer, status) = (response.body().peer(), response.status().as_u16());
            text(response).await;
            (peer, Some(status))
        }
        Err(error) => (error.peer(), None),
    }
}

/// Servers that answer 200, and a switch for what the first of them answers.
struct Rig {
    net: Net,
    source: Source,
    link: Link,
    channel: Plain,
    first: Arc<AtomicU16>,
}

impl Rig {
    fn new(servers: &[u8], detection: OutlierDetection) -> Self {
        let net = Net::default();
        let first = Arc::new(AtomicU16::new(200));
        for n in servers {
            let (n, first) = (*n, Arc::clone(&first));
            net.serve(n, move |_, respond| {
                let status = if n == 1 { first.load(Ordering::Relaxed) } else { 200 };
                async move { say_status(respond, status) }
            });
        }
        let (source, link) = net.link();
        source.snapshots.publish(watched(servers, detection));
        let channel = channel(&link);
        Self {
            net,
            source,
            link,
            channel,
            first,
        }
    }

    /// Of so many calls, how many went to the first server.
    async fn calls_to_first(&self, calls: usize) -> usize {
        let mut to_first = 0;
        for _ in 0..calls {
            to_first += usize::from(one_call(&self.channel).await.0 == Some(address(1)));
        }
        to_first
    }
}

#[tokio::test(start_paused = true)]
async fn five_errors_in_a_row_take_a_host_out_with_the_very_next_pick_and_an_interval_lets_it_back_in() {
    let rig = Rig::new(&[1, 2, 3], istio());
    rig.first.store(500, Ordering::Relaxed);
    // In turn: the fifth error is the fifteenth call at the latest.
    assert_eq!(rig.calls_to_first(15).await, 5);
    assert_eq!(out(&rig.link), [address(1)]);
    assert_eq!(rig.calls_to_first(300).await, 0);
    let tally = rig.link.tally();
    assert_eq!(tally.get("outlier_ejected", "consecutive_5xx"), 1);
    rig.first.store(200, Ordering::Relaxed);
    // It was ejected within the first interval: the one that ends at 30 s is too early by a moment, that at 40 s is not.
    tokio::time::advance(Duration::from_secs(29)).await;
    settled().await;
    assert_eq!(rig.calls_to_first(30).await, 0);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(out(&rig.link), []);
    assert_eq!(rig.calls_to_first(30).await, 10);
    assert_eq!(tally.get("outlier_returned", "consecutive_5xx"), 1);
    assert_eq!(
        tally.total("outlier_over_limit") + tally.total("outlier_not_enforced"),
        0
    );
}

/// Answers a gRPC call whose status stands in the trailers.
fn trailers(mut respond: SendResponse<Bytes>, code: &'static str) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static(code),
    )]))
    .unwrap();
}

/// How a server behaves, and whether five calls of that kind take it out.
#[tokio::test(start_paused = true)]
async fn what_counts_against_a_host() {
    type Behaviour = fn(SendResponse<Bytes>);
    let broken: Behaviour = |mut respond| respond.send_reset(h2::Reason::INTERNAL_ERROR);
    let within: Behaviour = |mut respond| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"part"), false).unwrap();
        body.send_reset(h2::Reason::INTERNAL_ERROR);
    };
    let held: Behaviour = |respond| drop(tokio::spawn(silent(respond)));
    let half: Behaviour = |mut respond| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"part"), false).unwrap();
        tokio::spawn(async move {
            let _open = (respond, body);
            std::future::pending::<()>().await
        });
    };
    let limits = |route: &mut Route| route.timeout = Some(Duration::from_millis(100));
    let per_try = |route: &mut Route| route.retry.per_try_timeout = Some(Duration::from_millis(100));
    type Change = fn(&mut Route);
    let nothing: Change = |_| {};
    let cases: [(&str, Behaviour, Change, bool); 17] = [
        ("200", |respond| say_status(respond, 200), nothing, false),
        ("404", |respond| say_status(respond, 404), nothing, false),
        ("429", |respond| say_status(respond, 429), nothing, false),
        ("500", |respond| say_status(respond, 500), nothing, true),
        ("503", |respond| say_status(respond, 503), nothing, true),
        ("NOT_FOUND", |respond| trailers(respond, "5"), nothing, false),
        (
            "UNAVAILABLE in the trailers",
            |respond| trailers(respond, "14"),
            nothing,
            true,
        ),
        (
            "INTERNAL in the trailers",
            |respond| trailers(respond, "13"),
            nothing,
            true,
        ),
        (
            "UNAVAILABLE in the headers",
            |respond| say_grpc(respond, "14"),
            nothing,
            true,
        ),
        (
            "CANCELLED in the headers",
            |respond| say_grpc(respond, "1"),
            nothing,
            false,
        ),
        ("a reset", broken, nothing, true),
        ("a reset within the answer", within, nothing, true),
        (
            "REFUSED_STREAM",
            |mut respond| respond.send_reset(h2::Reason::REFUSED_STREAM),
            nothing,
            true,
        ),
        ("no answer in the try's time", held, per_try, true),
        ("no answer in the call's time", held, limits, true),
        ("a long answer", half, limits, false),
        ("a long answer, and a try's time", half, per_try, false),
    ];
    for (name, behave, change, expected) in cases {
        let net = Net::default();
        net.serve(1, move |_, respond| async move { behave(respond) });
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, cluster| {
            route.retry = RetryPolicy::never();
            change(route);
            cluster.outlier = Some(istio());
        }));
        let channel = channel(&link);
        for _ in 0..5 {
            // REFUSED_STREAM is asked again once: both tries count.
            if let Ok(response) = call(&channel, grpc()).await {
                let read = http_body_util::BodyExt::collect(response.into_body());
                // Who reads no further says nothing of the host.
                let _ = tokio::time::timeout(Duration::from_secs(1), read).await;
            }
        }
        assert_eq!(out(&link).len(), usize::from(expected), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_says_nothing_of_the_host_and_neither_does_what_is_lacking_here() {
    let net = Net::default();
    net.serve(1, |_, respond| silent(respond));
    let (source, link) = net.link();
    source.snapshots.publish(watched(&[1], istio()));
    let channel = channel(&link);
    for _ in 0..20 {
        let call = call(&channel, post(""));
        assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err());
    }
    assert_eq!(out(&link), []);
    // Mutual TLS without an identity of our own: the host was not even asked.
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.outlier = Some(istio());
        cluster.tls = mesh_core::config::TlsMode::Mutual(mesh_core::config::MutualTls {
            expected: mesh_core::config::ExpectedPeers::exactly(["spiffe://d/ns/n/sa/a"]),
            sni: None,
            ..Default::default()
        });
    }));
    settled().await;
    for _ in 0..20 {
        assert!(call(&channel, post("")).await.unwrap_err().is_connect());
    }
    assert_eq!(out(&link), []);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_succeeds_less_often_than_the_others_goes_at_the_end_of_the_interval() {
    let mut detection = OutlierDetection::new(OutlierRules::Grpc);
    detection.max_ejection_percent = Percent::new(20).unwrap();
    let rig = Rig::new(&[1, 2, 3, 4, 5], detection);
    rig.first.store(503, Ordering::Relaxed);
    assert_eq!(rig.calls_to_first(500).await, 100);
    assert_eq!(out(&rig.link), []);
    tokio::time::sleep(Duration::from_secs(10)).await;
    settled().await;
    assert_eq!(out(&rig.link), [address(1)]);
    assert_eq!(rig.link.tally().get("outlier_ejected", "success_rate"), 1);
    assert_eq!(rig.calls_to_first(500).await, 0);
}

/// How many stand, from host 1's ejection on, whatever is published.
#[tokio::test(start_paused = true)]
async fn what_is_held_against_a_host_survives_every_swap_its_removal_and_its_clusters() {
    let rig = Rig::new(&[1, 2, 3], istio());
    rig.first.store(503, Ordering::Relaxed);
    rig.calls_to_first(15).await;
    rig.first.store(200, Ordering::Relaxed);
    let publish = async |snapshot: Snapshot| {
        rig.source.snapshots.publish(snapshot);
        settled().await;
    };
    let with = |servers: &[u8], change: fn(&mut Route, &mut Cluster)| {
        one_cluster(servers, |route, cluster| {
            route.retry = RetryPolicy::never();
            cluster.lb = LbPolicy::RoundRobin;
            cluster.outlier = Some(istio());
            change(route, cluster);
        })
    };
    // Another timeout, another limit, another order; without it and with it; without its cluster and with it.
    publish(with(&[3, 2, 1], |route, cluster| {
        route.timeout = Some(Duration::from_secs(3));
        cluster.breakers.default.max_requests = 7;
    }))
    .await;
    assert_eq!((rig.calls_to_first(30).await, out(&rig.link)), (0, vec![address(1)]));
    publish(with(&[2, 3], |_, _| {})).await;
    assert_eq!(out(&rig.link), []);
    publish(with(&[1, 2, 3], |_, _| {})).await;
    assert_eq!((rig.calls_to_first(30).await, out(&rig.link)), (0, vec![address(1)]));
    publish(Snapshot::builder().version(Version(9)).build().unwrap()).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    publish(with(&[1, 2, 3], |_, _| {})).await;
    assert_eq!((rig.calls_to_first(30).await, out(&rig.link)), (0, vec![address(1)]));
    // Its configuration gone, everybody is pardoned; and who fails again is ejected for the first time again.
    publish(with(&[1, 2, 3], |_, cluster| cluster.outlier = None)).await;
    assert_eq!((rig.calls_to_first(30).await, out(&rig.link)), (10, Vec::new()));
    publish(with(&[1, 2, 3], |_, _| {})).await;
    rig.first.store(503, Ordering::Relaxed);
    assert_eq!(rig.calls_to_first(15).await, 5);
    let [cluster] = &clusters(&rig.link)[..] else {
        panic!("one cluster")
    };
    assert_eq!(cluster.ejected[0].remaining, Duration::from_secs(30));
    assert_eq!(cluster.ejected[0].cause, "consecutive_5xx");
}

/// 1,000 calls a second; a host is killed and its address still listed, its port refused.
#[tokio::test(start_paused = true)]
async fn ep_2_a_killed_host_gets_less_than_a_hundredth_of_the_calls_after_a_second() {
    let rig = Rig::new(&[1, 2, 3, 4, 5], istio());
    let tick = Duration::from_millis(1);
    for _ in 0..200 {
        one_call(&rig.channel).await;
        tokio::time::sleep(tick).await;
    }
    rig.net.kill(1);
    let mut to_dead = [0; 2];
    for n in 0..10_000 {
        let (peer, status) = one_call(&rig.channel).await;
        assert!(status.is_some() || peer == Some(address(1)));
        to_dead[usize::from(n >= 1_000)] += usize::from(peer == Some(address(1)));
        tokio::time::sleep(tick).await;
    }
    assert!(to_dead[1] < 90, "{to_dead:?}");
    // Its connect pauses alone leave a try every few seconds; it is out before ten calls met it.
    assert!(to_dead[0] <= 10, "{to_dead:?}");
    assert!(rig.net.dials_to(1) <= 12, "{}", rig.net.dials_to(1));
    assert_eq!(out(&rig.link), [address(1)]);
}

/// Every endpoint is ejected: they are all called rather than none.
#[tokio::test(start_paused = true)]
async fn ep_11_when_all_are_out_all_are_called() {
    let net = Net::default();
    let (served, status) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU16::new(503)));
    for n in 1..=4 {
        let (served, status) = (Arc::clone(&served), Arc::clone(&status));
        net.serve(n, move |_, respond| {
            served.fetch_add(1 << (8 * (n - 1)), Ordering::Relaxed);
            let status = status.load(Ordering::Relaxed);
            async move { say_status(respond, status) }
        });
    }
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1, 2, 3, 4], |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.lb = LbPolicy::Random;
        cluster.outlier = Some(istio());
    }));
    let channel = channel(&link);
    while out(&link).len() < 4 {
        assert_eq!(one_call(&channel).await.1, Some(503));
    }
    settled().await;
    // Who looks sees it: on the status page and among the counts.
    let in_panic = |link: &Link| clusters(link)[0].priorities.iter().any(|one| one.panic);
    let panics = |link: &Link| ["entered", "left"].map(|word| link.tally().get("lb_healthy_panic", word));
    assert!(in_panic(&link));
    assert_eq!(panics(&link), [1, 0]);
    status.store(200, Ordering::Relaxed);
    served.store(0, Ordering::Relaxed);
    for _ in 0..100 {
        // Never "no healthy upstream" while sockets accept.
        assert_eq!(one_call(&channel).await.1, Some(200));
    }
    let served = served.load(Ordering::Relaxed);
    let shares: Vec<usize> = (0..4).map(|n| served >> (8 * n) & 0xff).collect();
    assert!(shares.iter().all(|share| *share >= 5), "{shares:?}");
    assert_eq!(out(&link).len(), 4);
    assert_eq!(
        link.tally().total("outlier_ejected") - link.tally().total("outlier_returned"),
        4
    );
    tokio::time::sleep(Duration::from_secs(41)).await;
    assert_eq!(out(&link), []);
    assert!(!in_panic(&link));
    assert_eq!(panics(&link), [1, 1]);
}

/// Istio switches panic off together with outlier detection: then nobody is called whom it took out.
#[tokio::test(start_paused = true)]
async fn ep_11_without_panic_nobody_is_called_when_all_are_out() {
    let net = Net::default();
    for n in 1..=2 {
        net.serve(n, |_, respond| async { say_status(respond, 503) });
    }
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1, 2], |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.outlier = Some(istio());
        cluster.common_lb.panic_threshold = Percent::ZERO;
    }));
    let channel = channel(&link);
    while out(&link).len() < 2 {
        assert_eq!(one_call(&channel).await.1, Some(503));
        settled().await;
    }
    let error = call(&channel, post("")).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(error.response_flags().to_string(), "UH");
    assert_eq!(link.tally().total("lb_healthy_panic"), 0);
    tokio::time::sleep(Duration::from_secs(41)).await;
    assert_eq!(one_call(&channel).await.1, Some(503));
}

#[tokio::test(start_paused = true)]
async fn no_more_go_than_may_and_that_is_told() {
    let mut detection = istio();
    detection.max_ejection_percent = Percent::new(50).unwrap();
    detection.consecutive_5xx = Consecutive::enforced(2, Percent::ALL);
    let net = Net::default();
    for n in 1..=4 {
        net.serve(n, |_, respond| async { say_status(respond, 500) });
    }
    let (source, link) = net.link();
    source.snapshots.publish(watched(&[1, 2, 3, 4], detection));
    let channel = channel(&link);
    for _ in 0..100 {
        one_call(&channel).await;
        assert!(out(&link).len() <= 2);
    }
    assert_eq!(out(&link).len(), 2);
    assert!(link.tally().get("outlier_over_limit", "consecutive_5xx") >= 2);
}

#[tokio::test(start_paused = true)]
async fn the_manager_goes_with_its_last_user_and_its_sweeps_with_it() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(watched(&[1], istio()));
    let channel = channel(&link);
    text(call(&channel, post("")).await.unwrap()).await;
    drop((channel, link, source, net));
    // The longest that any of its tasks sleeps.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}
