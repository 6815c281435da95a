//! Limits of what is in use at once: which refuses, how that is told, and that every place comes back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_core::config::{Cluster, LbPolicy, RetryOn, RetryPolicy, Route, RoutingPriority, Snapshot, Version};
use mesh_core::{Entropy, Link};
use tokio::sync::watch;

use super::net::{Net, Plain, address, call, channel, grpc, grpc_status, one_cluster, post, say, silent, text};
use crate::connect::Connecting;
use crate::{BreakerStatus, Error, clusters, use_connector};

async fn settled() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn status(link: &Link, priority: RoutingPriority) -> BreakerStatus {
    let [cluster] = &clusters(link)[..] else {
        panic!("one cluster")
    };
    match priority {
        RoutingPriority::Default => cluster.default,
        RoutingPriority::High => cluster.high,
    }
}

/// Connections, waiting calls, calls.
fn used(link: &Link) -> [u32; 3] {
    let status = status(link, RoutingPriority::Default);
    [
        status.connections.used,
        status.pending_requests.used,
        status.requests.used,
    ]
}

fn hold(channel: &Plain) -> tokio::task::JoinHandle<Result<(), Error>> {
    let channel = channel.clone();
    tokio::spawn(async move { call(&channel, post("")).await.map(|_| ()) })
}

/// What tries everything again, and names the refusal if it can.
fn eager(route: &mut Route) {
    route.retry = RetryPolicy {
        retries: 5,
        on: RetryOn::parse("5xx,gateway-error,reset,connect-failure,unavailable,refused-stream"),
        explicit: true,
        ..RetryPolicy::default()
    };
}

#[tokio::test]
async fn each_priority_has_its_own_limit_and_a_refusal_names_it() {
    let net = Net::default();
    net.serve(1, |_, respond| silent(respond));
    let (source, link) = net.link();
    let publish = |priority, default, high| {
        source.snapshots.publish(one_cluster(&[1], |route, cluster| {
            eager(route);
            route.priority = priority;
            cluster.breakers.default.max_requests = default;
            cluster.breakers.high.max_requests = high;
            cluster.breakers.high.track_remaining = true;
        }));
    };
    publish(RoutingPriority::Default, 2, 1);
    let channel = channel(&link);
    let mut held = vec![hold(&channel), hold(&channel)];
    settled().await;
    let error = call(&channel, post("")).await.unwrap_err();
    assert_eq!((error.limit(), error.response_flag()), (Some("max_requests"), "UO"));
    assert!(error.is_overflow() && !error.may_have_been_processed() && error.status() == 503);
    // A gRPC caller is told so too, with Envoy's mark; and nobody tries again what would be refused again.
    let response = call(&channel, grpc()).await.unwrap();
    assert_eq!(response.headers()["x-envoy-overloaded"], "true");
    let (code, message) = grpc_status(response).await;
    assert!(code == "14" && message.contains("max_requests"), "{code} {message}");
    assert_eq!(used(&link), [1, 0, 2]);
    // The flood of one priority leaves room for the other, and a swap takes away nothing of either.
    publish(RoutingPriority::High, 2, 1);
    settled().await;
    assert_eq!(status(&link, RoutingPriority::High).requests.remaining, Some(1));
    held.push(hold(&channel));
    settled().await;
    assert_eq!(
        call(&channel, post("")).await.unwrap_err().limit(),
        Some("max_requests")
    );
    let high = status(&link, RoutingPriority::High).requests;
    assert_eq!((high.used, high.remaining), (1, Some(0)));
    publish(RoutingPriority::Default, 3, 1);
    settled().await;
    held.push(hold(&channel));
    settled().await;
    assert_eq!(used(&link)[2], 3);
    assert!(call(&channel, post("")).await.unwrap_err().is_overflow());
    for call in held {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!(
        (used(&link)[2], status(&link, RoutingPriority::High).requests.used),
        (0, 0)
    );
}

/// A link whose dials wait until they are let through.
fn gated(net: &Net) -> (mesh_core::link::Source, Link, watch::Sender<bool>) {
    let (open, opened) = watch::channel(false);
    let parts = mesh_core::link::Parts {
        entropy: Entropy::seeded(42),
        ..mesh_core::link::Parts::default()
    };
    let (source, link) = Link::new(parts);
    let net = net.clone();
    use_connector(&link, move |address| -> Connecting {
        let (net, mut opened) = (net.clone(), opened.clone());
        Box::pin(async move {
            opened.wait_for(|open| *open).await.unwrap();
            net.connect(address)
        })
    })
    .unwrap();
    (source, link, open)
}

#[tokio::test]
async fn only_so_many_wait_for_a_connection() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link, open) = gated(&net);
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        eager(route);
        cluster.breakers.default.max_pending_requests = 2;
    }));
    let channel = channel(&link);
    let waiting = [hold(&channel), hold(&channel)];
    settled().await;
    assert_eq!(used(&link), [1, 2, 2]);
    let error = call(&channel, post("")).await.unwrap_err();
    assert_eq!(
        (error.limit(), error.response_flag()),
        (Some("max_pending_requests"), "UO")
    );
    open.send(true).unwrap();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    assert_eq!(used(&link), [1, 0, 0]);
    // With a connection there is nothing to wait for.
    text(call(&channel, post("")).await.unwrap()).await;
}

/// What a configuration says holds for an endpoint too, and not only where it is less than what holds otherwise.
#[tokio::test]
async fn as_many_wait_for_one_endpoint_as_the_configuration_says() {
    for (said, waiting) in [(None, 1_024), (Some(2_000), 1_500)] {
        let net = Net::default();
        let (source, link, _open) = gated(&net);
        source.snapshots.publish(one_cluster(&[1], |route, cluster| {
            eager(route);
            cluster.breakers.default.max_requests = 10_000;
            if let Some(said) = said {
                cluster.breakers.default.max_pending_requests = said;
            }
        }));
        let channel = channel(&link);
        let calls: Vec<_> = (0..1_500).map(|_| hold(&channel)).collect();
        settled().await;
        assert_eq!(used(&link)[1], waiting, "{said:?}");
        for call in calls {
            call.abort();
        }
    }
}

#[tokio::test]
async fn connections_are_limited_but_for_the_first_of_each_endpoint() {
    let net = Net::default();
    for n in [1, 2, 3] {
        let mut settings = h2::server::Builder::new();
        settings.max_concurrent_streams(1);
        net.serve_with(n, settings, None, |request, respond| async move {
            match request.uri().path() {
                "/quick" => say(respond, "ok"),
                _ => silent(respond).await,
            }
        });
    }
    // The limit, that per host, and what the call that needs one more connection is told.
    for (max, per_host, told) in [
        (2, None, Some("max_connections")),
        (4, None, None),
        (9, Some(1), Some("max_connections per host")),
        (9, Some(2), None),
    ] {
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1, 2, 3], |route, cluster| {
            eager(route);
            cluster.lb = LbPolicy::RoundRobin;
            cluster.breakers.default.max_connections = max;
            cluster.breakers.default.max_connections_per_host = per_host;
        }));
        let channel = channel(&link);
        for _ in 0..3 {
            let mut request = post("");
            *request.uri_mut() = http::Uri::from_static("/quick");
            text(call(&channel, request).await.unwrap()).await;
        }
        // Each endpoint has its first, whatever the limit; the fourth call finds all of them busy.
        let mut held: Vec<_> = (0..3).map(|_| hold(&channel)).collect();
        settled().await;
        assert_eq!(used(&link), [3, 0, 3], "{max} {per_host:?}");
        match told {
            Some(limit) => {
                let error = call(&channel, post("")).await.unwrap_err();
                assert_eq!(error.limit(), Some(limit));
            }
            None => {
                held.push(hold(&channel));
                settled().await;
                assert_eq!(used(&link), [4, 0, 4]);
            }
        }
        held.iter().for_each(|call| call.abort());
        // What is closed counts no more.
        [1, 2, 3].into_iter().for_each(|n| net.end_connections(n));
        settled().await;
        let mut request = post("");
        *request.uri_mut() = http::Uri::from_static("/quick");
        text(call(&channel, request).await.unwrap()).await;
    }
}

/// A cluster that nothing names any more, and that a call still runs in, comes back with that call counted.
#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_gone_for_long_still_counts_the_calls_that_run() {
    let net = Net::default();
    net.serve(1, |_, respond| silent(respond));
    let (source, link) = net.link();
    let snapshot = || one_cluster(&[1], |_, cluster| cluster.breakers.default.max_requests = 1);
    source.snapshots.publish(snapshot());
    let channel = channel(&link);
    let held = hold(&channel);
    settled().await;
    source
        .snapshots
        .publish(Snapshot::builder().version(Version(2)).build().unwrap());
    settled().await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(29)).await;
        settled().await;
    }
    source.snapshots.publish(snapshot());
    settled().await;
    assert!(call(&channel, post("")).await.unwrap_err().is_overflow());
    held.abort();
    assert!(held.await.unwrap_err().is_cancelled());
    assert_eq!(used(&link)[2], 0);
}

/// Calls are dropped at any moment: before a dial, in it, while they are sent, answered, read. Every place comes back.
#[tokio::test]
async fn whenever_a_call_is_dropped_its_places_come_back() {
    /// Calls in all; each is dropped after up to so many polls.
    const CALLS: usize = 5_000;
    const POLLS: u64 = 12;
    let net = Net::default();
    for n in [1, 2] {
        let mut settings = h2::server::Builder::new();
        settings.max_concurrent_streams(3);
        net.serve_with(n, settings, None, |_, mut respond| async move {
            // Its caller may be gone, and its connection.
            if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                let _ = body.send_data(bytes::Bytes::from_static(b"answer"), true);
            }
        });
    }
    let (source, link) = net.link();
    let snapshot = |limit: u32| {
        one_cluster(&[1, 2, 3], |route, cluster: &mut Cluster| {
            route.timeout = Some(Duration::from_secs(60));
            cluster.breakers.default.max_requests = 20 + limit;
            cluster.breakers.default.max_pending_requests = 4;
            cluster.breakers.default.max_connections = 3;
        })
    };
    source.snapshots.publish(snapshot(0));
    let (channel, entropy) = (channel(&link), Entropy::seeded(11));
    type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
    let mut running: Vec<(u64, Running)> = Vec::new();
    let mut overflows = 0;
    for n in 0..CALLS {
        let mut draw = entropy.draw();
        let (channel, refused) = (channel.clone(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        let count = Arc::clone(&refused);
        let one = async move {
            match call(&channel, post("x")).await {
                Ok(response) => drop(http_body_util::BodyExt::collect(response.into_body()).await),
                Err(error) => {
                    assert!(error.is_unavailable(), "{error}");
                    count.fetch_add(usize::from(error.is_overflow()), std::sync::atomic::Ordering::Relaxed);
                }
            }
        };
        running.push((draw.below(POLLS), Box::pin(one)));
        running.retain_mut(|(polls, call)| {
            let done = *polls == 0 || call.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(());
            *polls = polls.saturating_sub(1);
            !done
        });
        overflows += refused.load(std::sync::atomic::Ordering::Relaxed);
        if draw.below(3) == 0 {
            tokio::task::yield_now().await;
        }
        if n % 500 == 499 {
            // Connections end under the calls, and limits change.
            net.end_connections(1 + (n / 500 % 2) as u8);
            source.snapshots.publish(snapshot((n / 500) as u32));
        }
        let [connections, pending, requests] = used(&link);
        assert!(
            pending <= 4 && requests <= 40 && connections <= 6,
            "{connections} {pending} {requests}"
        );
    }
    drop(running);
    assert!(overflows > 0, "the limits were met");
    assert_eq!(used(&link)[1..], [0, 0]);
    drop(channel);
    [1, 2].into_iter().for_each(|n| net.kill(n));
    settled().await;
    // Closed connections leave the pool when it is next looked at; by then they are gone for good.
    let last = super::net::channel(&link);
    for _ in 0..6 {
        assert!(call(&last, post("")).await.is_err());
    }
    settled().await;
    assert_eq!(used(&link), [0, 0, 0]);
}

/// A host that refuses is probed once per pause, however many call; and what comes when it is back goes over one connection.
#[tokio::test(start_paused = true)]
async fn ov_2_a_dead_host_is_probed_once_per_pause_and_not_stormed_when_it_returns() {
    let net = Net::default();
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        route.retry = RetryPolicy::never();
        cluster.breakers.default.max_pending_requests = 100;
        cluster.outlier = Some(super::outliers::istio());
    }));
    let channel = channel(&link);
    let begun = tokio::time::Instant::now();
    let mut probes: Vec<Duration> = Vec::new();
    // Fifty calls come in the same instant, every 10 ms for 10 s.
    let storm = async || {
        let calls: Vec<_> = (0..50).map(|_| hold(&channel)).collect();
        let mut well = 0;
        for call in calls {
            well += usize::from(call.await.unwrap().is_ok());
        }
        well
    };
    for _ in 0..1_000 {
        let before = net.dials_to(1);
        assert_eq!(storm().await, 0);
        let made = net.dials_to(1) - before;
        assert!(made <= 1, "{made} dials in an instant");
        probes.extend((made == 1).then(|| begun.elapsed()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Pauses of 50 ms that grow by 1.6 to 5 s, give or take a fifth and the 10 ms between storms.
    let mut pause = 50.0;
    for pair in probes.windows(2) {
        let gap = (pair[1] - pair[0]).as_secs_f64() * 1e3;
        assert!(
            gap >= 0.8 * pause && gap <= 1.2 * pause + 11.0,
            "{gap} ms after a pause of {pause} ms"
        );
        pause = f64::min(pause * 1.6, 5_000.0);
    }
    assert!((7..=12).contains(&probes.len()), "{probes:?}");
    let before = net.dials_to(1);
    net.serve(1, |_, respond| async { say(respond, "back") });
    let mut well = 0;
    for _ in 0..1_000 {
        well += storm().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(net.dials_to(1) - before, 1, "{}", address(1));
    assert!(well >= 20_000, "{well}");
    assert_eq!(used(&link), [1, 0, 0]);
}
