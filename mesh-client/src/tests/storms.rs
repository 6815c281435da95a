//! What retries and cancellations leave behind: no storm, and nothing held.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use mesh_core::Entropy;
use mesh_core::config::{Backoff, Cluster, RetryLimits, RetryOn, RetryPolicy, Route, Version};
use mesh_core::retry::{Budget, MAX_SAVED, RetryState, Rules, SHARE, TryEnd, Verdict, World};
use mesh_core::route::RequestHead;
use tokio::time::Instant;

use super::net::{Net, call, channel, one_cluster, post, say_status, silent};
use crate::cluster::{ClusterHandle, Target};
use crate::route::RouteLayer;

fn storming(route: &mut Route, _: &mut Cluster) {
    route.retry = RetryPolicy {
        on: RetryOn::parse("5xx"),
        retries: 3,
        explicit: true,
        ..RetryPolicy::default()
    };
}

/// Tries per call over `seconds` of total failure at `rate` calls a second; all of them, and those after the first 10 s.
fn amplification(rate: u32, seconds: u32) -> (f64, f64) {
    let policy = RetryPolicy {
        on: RetryOn::parse("5xx"),
        retries: 3,
        explicit: true,
        ..RetryPolicy::default()
    };
    let (rules, budget, entropy) = (Rules::new(&policy, None), Budget::default(), Entropy::seeded(1));
    let end = TryEnd::Answered {
        status: StatusCode::SERVICE_UNAVAILABLE,
        grpc: None,
    };
    let (uri, headers) = (http::Uri::from_static("/"), HeaderMap::new());
    let head = RequestHead {
        method: &Method::GET,
        uri: &uri,
        headers: &headers,
        target: "t",
    };
    let mut tries = [0u32; 2];
    for second in 0..seconds {
        for _ in 0..rate {
            let mut state = RetryState::begin(&policy, &head, false);
            budget.deposit();
            loop {
                tries[usize::from(second >= 10)] += 1;
                budget.failed();
                let mut world = World {
                    budget: &budget,
                    places: &budget,
                    priority: mesh_core::config::RoutingPriority::Default,
                    limits: RetryLimits::default(),
                    calls: 1,
                    draw: &mut entropy.draw(),
                    unix_seconds: None,
                };
                match state.judge(&rules, &Method::GET, end, None, &mut world) {
                    Verdict::Again(_) => budget.end_retry(mesh_core::config::RoutingPriority::Default),
                    Verdict::GiveUp(_) => break,
                }
            }
        }
    }
    let share = |tries: u32, seconds: u32| f64::from(tries) / f64::from(rate * seconds);
    (share(tries[0] + tries[1], seconds), share(tries[1], seconds - 10))
}

/// For the generated documentation.
pub(super) fn amplification_table() -> String {
    let mut text = String::from("| calls a second | over all 60 s | after the first 10 s |\n|---|---|---|\n");
    for rate in [1, 5, 50, 500, 5_000] {
        let (all, later) = amplification(rate, 60);
        writeln!(text, "| {rate} | {all:.3} | {later:.3} |").unwrap();
    }
    text
}

/// A cluster that answers 503 for a minute of virtual time; tries per call, whatever `meddle` does before each call.
async fn storm(rate: u32, mut meddle: impl FnMut(&mesh_core::link::Source, u32)) -> f64 {
    let net = Net::default();
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    net.serve(1, move |_, respond| {
        count.fetch_add(1, Ordering::Relaxed);
        async { say_status(respond, 503) }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], storming));
    let channel = channel(&link);
    let begun = Instant::now();
    for n in 0..60 * rate {
        meddle(&source, n);
        tokio::time::sleep_until(begun + Duration::from_secs(1) * n / rate).await;
        assert_eq!(call(&channel, post("")).await.unwrap().status().as_u16(), 503);
    }
    let (tries, calls) = (tries.load(Ordering::Relaxed) as f64, f64::from(60 * rate));
    assert!(tries <= calls * (1.0 + SHARE) + f64::from(MAX_SAVED));
    tries / calls
}

#[tokio::test(start_paused = true)]
async fn rs_1_total_failure_is_not_amplified() {
    for (rate, bound) in [(1, 1.5), (5, 1.5), (50, 1.2), (200, 1.2)] {
        let found = storm(rate, |_, _| {}).await;
        assert!(found <= bound, "{rate} calls a second: {found}");
        // What is documented is what the whole client does.
        let (documented, _) = amplification(rate, 60);
        assert!(
            (found - documented).abs() < 0.001,
            "{rate}: {found}, documented {documented}"
        );
    }
}

/// The same while the control plane pushes a hundred times a second: the budget is not part of what is swapped.
#[tokio::test(start_paused = true)]
async fn hs_5_a_hundred_swaps_a_second_refill_no_budget() {
    let found = storm(50, |source, n| {
        for swap in 0..2 {
            let version = u64::from(2 * n + swap + 1);
            let snapshot = one_cluster(&[1], |route, cluster| {
                storming(route, cluster);
                route.timeout = Some(Duration::from_secs(100 + version % 7));
                cluster.breakers.default.max_requests = 1_000 + (version % 5) as u32;
            });
            source
                .snapshots
                .publish(snapshot.with_clusters(Version(version), std::iter::empty()));
        }
    })
    .await;
    assert!(found <= 1.2, "{found}");
}

/// The live cluster of target `t`.
pub(super) fn live(link: &mesh_core::Link) -> Arc<ClusterHandle> {
    let layer = RouteLayer::new(link, "t");
    match &**layer.selector().load() {
        Target::Ready(selector) => Arc::clone(selector.leads[0].shares[0].cluster.as_ref().unwrap()),
        other => panic!("not routed: {other:?}"),
    }
}

pub(super) fn held(cluster: &ClusterHandle) -> (u32, u32, Vec<u32>) {
    use mesh_core::balance::Load as _;
    let hosts = cluster.hosts().load();
    let calls = hosts.hosts.iter().map(|host| host.in_flight()).collect();
    (cluster.in_flight(), cluster.budget().retrying(), calls)
}

#[tokio::test(start_paused = true)]
async fn rs_8_a_call_that_is_cancelled_in_its_pause_gets_its_token_back() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say_status(respond, 503) });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        storming(route, cluster);
        route.retry.backoff = Backoff::new(Duration::from_secs(1_000), None).unwrap();
    }));
    let channel = channel(&link);
    channel.ready().await;
    let cluster = live(&link);
    let saved = cluster.budget().saved();
    // Below a bound of 1000 s, it pauses for longer than this; the seed sees to that.
    let calling = tokio::time::timeout(Duration::from_millis(100), call(&channel, post("")));
    assert!(calling.await.is_err());
    assert_eq!(held(&cluster), (0, 0, vec![0]));
    assert_eq!(cluster.budget().saved(), saved);
}

/// Calls that are cancelled at any moment: while a connection is made, in a pause, before the head, in the body, while they race. A
/// million of them with `RS_8_CALLS=1000000`.
#[tokio::test(start_paused = true)]
async fn rs_8_random_cancellations_leave_nothing_held() {
    let calls = std::env::var("RS_8_CALLS").map_or(20_000, |calls| calls.parse().unwrap());
    let (net, entropy) = (Net::default(), Entropy::seeded(8));
    net.dials_take(Duration::from_millis(20));
    for n in [1, 2, 3] {
        let entropy = entropy.clone();
        net.serve(n, move |_, mut respond| {
            let what = entropy.draw().below(5);
            async move {
                // Whoever called may be gone by now: then there is nobody to tell.
                let head = |status: u16| Response::builder().status(status).body(()).unwrap();
                match what {
                    0 => drop(respond.send_response(head(200), true)),
                    1 => drop(respond.send_response(head(503), true)),
                    2 => silent(respond).await,
                    3 => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    _ => {
                        if let Ok(mut body) = respond.send_response(head(200), false) {
                            let _ = body.send_data(Bytes::from_static(b"part"), false);
                            std::future::pending::<()>().await;
                        }
                    }
                }
            }
        });
    }
    let (source, link) = net.link();
    let publish = |version: u64| {
        let snapshot = one_cluster(&[1, 2, 3], |route, cluster| {
            storming(route, cluster);
            route.timeout = Some(Duration::from_millis(80));
            route.limits.idle = Some(Duration::from_millis(60));
            route.retry.per_try_timeout = Some(Duration::from_millis(15));
            route.retry.hedge = version.is_multiple_of(2);
            cluster.breakers.default.retries.max = Some(50);
        });
        source
            .snapshots
            .publish(snapshot.with_clusters(Version(version), std::iter::empty()));
    };
    publish(1);
    let channel = channel(&link);
    channel.ready().await;
    let cluster = live(&link);
    let mut running = tokio::task::JoinSet::new();
    for n in 0..calls {
        if n % 500 == 499 {
            publish(n as u64);
        }
        let (channel, limit) = (channel.clone(), entropy.draw().below(100_000));
        running.spawn(async move {
            let whole = async {
                if let Ok(answer) = call(&channel, post("x")).await {
                    drop(answer.into_body().collect().await);
                }
            };
            let _ = tokio::time::timeout(Duration::from_micros(limit), whole).await;
        });
        // Successes, so that the gate stays open and there is something to cancel.
        for _ in 0..5 {
            cluster.budget().succeeded();
        }
        if running.len() >= 64 {
            running.join_next().await;
        }
    }
    while running.join_next().await.is_some() {}
    assert_eq!(held(&cluster), (0, 0, vec![0, 0, 0]));
}

/// A server that does a hundred calls a second, one at a time in the order in which they come, and none whose caller has gone.
fn of_limited_capacity(net: &Net) {
    let place = Arc::new(tokio::sync::Semaphore::new(1));
    net.serve(1, move |_, mut respond| {
        let place = Arc::clone(&place);
        async move {
            let served = async {
                let _place = place.acquire().await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let is_served = tokio::select! {
                () = served => true,
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => false,
            };
            if is_served {
                let head = Response::builder().status(200).body(()).unwrap();
                let _ = respond.send_response(head, true);
            }
        }
    });
}

/// So many calls a second for ten seconds, whether they are answered or not; how many were answered well, of all.
async fn goodput(channel: &super::net::Plain, rate: u32) -> f64 {
    let mut calls = Vec::new();
    for _ in 0..rate * 10 {
        let channel = channel.clone();
        calls.push(tokio::spawn(async move {
            call(&channel, post(""))
                .await
                .is_ok_and(|answer| answer.status().is_success())
        }));
        tokio::time::sleep(Duration::from_secs(1) / rate).await;
    }
    let mut good = 0;
    for call in calls {
        good += u32::from(call.await.unwrap());
    }
    f64::from(good) / f64::from(rate * 10)
}

/// Twice as much as can be served, for ten seconds, and then 80 % of it again: what the calls of those ten seconds were tried again for must
/// not keep the server busy after them (metastable failure).
#[tokio::test(start_paused = true)]
async fn rs_3_goodput_comes_back_within_ten_seconds_after_an_overload() {
    let net = Net::default();
    of_limited_capacity(&net);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.timeout = Some(Duration::from_secs(1));
        route.retry = RetryPolicy {
            on: RetryOn::parse("5xx,reset"),
            explicit: true,
            retries: 3,
            per_try_timeout: Some(Duration::from_millis(250)),
            ..RetryPolicy::default()
        };
    }));
    let channel = channel(&link);
    channel.ready().await;
    let before = goodput(&channel, 80).await;
    let during = goodput(&channel, 200).await;
    let _coming_back = goodput(&channel, 80).await;
    let after = goodput(&channel, 80).await;
    assert!(before > 0.99 && during < 0.9, "{before} {during}");
    assert!(after >= 0.9 * before, "{before} {during} {after}");
}
