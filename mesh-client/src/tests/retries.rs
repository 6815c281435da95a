//! What is tried again, where, and how often.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use h2::Reason;
use mesh_core::config::{RetryOn, RetryPolicy, Route, RoutingPriority};

use super::net::{Net, call, channel, grpc, grpc_status, one_cluster, post, say, say_grpc, say_status, text};

/// Serves `fail` for the first `failures` calls and 200 afterwards; counts them.
fn failing_first(net: &Net, failures: usize, fail: fn(h2::server::SendResponse<bytes::Bytes>)) -> Arc<AtomicUsize> {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    net.serve(1, move |_, respond| {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        async move {
            if n < failures {
                fail(respond)
            } else {
                say(respond, "ok")
            }
        }
    });
    calls
}

fn policy(words: &'static str) -> impl FnOnce(&mut Route, &mut mesh_core::config::Cluster) {
    move |route, _| {
        route.retry = RetryPolicy {
            on: RetryOn::parse(words),
            explicit: true,
            ..RetryPolicy::default()
        }
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_unavailable_is_tried_again_where_the_policy_was_written_and_internal_is_not() {
    for (code, expected, handled) in [("14", "ok", 3), ("13", "13", 1)] {
        let net = Net::default();
        let calls = match code {
            "14" => failing_first(&net, 2, |respond| say_grpc(respond, "14")),
            _ => failing_first(&net, 2, |respond| say_grpc(respond, "13")),
        };
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], policy("unavailable")));
        let response = call(&channel(&link), grpc()).await.unwrap();
        let seen = match response.headers().contains_key("grpc-status") {
            true => grpc_status(response).await.0,
            false => text(response).await,
        };
        assert_eq!((seen.as_str(), calls.load(Ordering::Relaxed)), (expected, handled));
    }
}

/// Each priority has limits of its own (Envoy `max_retries`): that one may have no retry keeps the other from none.
#[tokio::test(start_paused = true)]
async fn retries_are_limited_by_the_priority_of_their_route() {
    for (priority, expected, handled) in [(RoutingPriority::Default, 503, 1), (RoutingPriority::High, 200, 3)] {
        let net = Net::default();
        let calls = failing_first(&net, 2, |respond| say_status(respond, 503));
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, cluster| {
            policy("5xx")(route, cluster);
            route.priority = priority;
            cluster.breakers.default.retries.max = Some(0);
            cluster.breakers.high.retries.max = Some(3);
        }));
        let status = call(&channel(&link), post("")).await.unwrap().status();
        assert_eq!((status.as_u16(), calls.load(Ordering::Relaxed)), (expected, handled));
    }
}

/// What is longer than may be replayed is sent again only where nothing was done with it.
#[tokio::test(start_paused = true)]
async fn a_long_body_is_repeated_within_its_limit() {
    let (busy, refused): (fn(_), fn(_)) = (
        |respond| say_status(respond, 503),
        |mut respond: h2::server::SendResponse<bytes::Bytes>| respond.send_reset(Reason::REFUSED_STREAM),
    );
    let mebibyte = 1024 * 1024;
    let cases = [
        (busy, None, 60_000, 3),
        (busy, None, mebibyte + 1, 1),
        (busy, Some(1_024), 60_000, 1),
        (busy, Some(60_000), 60_000, 3),
        (refused, Some(1_024), 60_000, 3),
    ];
    for (fail, limit, size, handled) in cases {
        let net = Net::default();
        let calls = failing_first(&net, 2, fail);
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, cluster| {
            policy("5xx,refused-stream")(route, cluster);
            route.retry.replay_bytes = limit;
        }));
        call(&channel(&link), post(vec![0; size])).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), handled, "{size} of {limit:?}");
    }
}

/// A handler that answers UNAVAILABLE has run: nobody asked for it to run again.
#[tokio::test(start_paused = true)]
async fn rs_4_the_default_policy_runs_no_handler_twice() {
    let net = Net::default();
    let calls = failing_first(&net, 1, |respond| say_grpc(respond, "14"));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    assert_eq!(grpc_status(call(&channel(&link), grpc()).await.unwrap()).await.0, "14");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_tried_again_once_even_without_a_policy() {
    for (refusals, expected) in [(1, "ok"), (2, "refused")] {
        let net = Net::default();
        let calls = failing_first(&net, refusals, |mut respond| respond.send_reset(Reason::REFUSED_STREAM));
        let (source, link) = net.link();
        source
            .snapshots
            .publish(one_cluster(&[1], |route, _| route.retry = RetryPolicy::never()));
        let seen = match call(&channel(&link), post("body")).await {
            Ok(response) => text(response).await,
            Err(error) => {
                assert!(!error.may_have_been_processed());
                "refused".into()
            }
        };
        assert_eq!((seen.as_str(), calls.load(Ordering::Relaxed)), (expected, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_call_that_may_have_run_is_not_repeated_by_the_default_policy() {
    let net = Net::default();
    let calls = failing_first(&net, 1, |mut respond| respond.send_reset(Reason::INTERNAL_ERROR));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let error = call(&channel(&link), post("body")).await.unwrap_err();
    assert!(error.may_have_been_processed() && error.response_flag() == "UR");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

/// Headers and body, as they arrived.
type Seen = (http::HeaderMap, Vec<u8>);

#[tokio::test(start_paused = true)]
async fn a_retry_carries_the_same_request() {
    let net = Net::default();
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let log = Arc::clone(&seen);
    net.serve(1, move |request, respond| {
        let log = Arc::clone(&log);
        async move {
            let (parts, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                bytes.extend_from_slice(&data);
            }
            let first = {
                let mut log = log.lock().unwrap();
                log.push((parts.headers, bytes));
                log.len() == 1
            };
            if first {
                say_status(respond, 503)
            } else {
                say(respond, "ok")
            }
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], policy("5xx")));
    let mut request = post("payload");
    request.headers_mut().append("x-a", http::HeaderValue::from_static("1"));
    request.headers_mut().append("x-a", http::HeaderValue::from_static("2"));
    assert_eq!(text(call(&channel(&link), request).await.unwrap()).await, "ok");
    let mut seen = seen.lock().unwrap();
    assert_eq!(seen[1].0.remove("grpc-previous-rpc-attempts").unwrap(), "1");
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_another_endpoint() {
    let net = Net::default();
    let bad = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&bad);
    net.serve(1, move |_, respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move { say_grpc(respond, "14") }
    });
    // Nine good ones, so that a tenth of the calls is tried again: within the budget's fifth.
    for n in 2..=10 {
        net.serve(n, |_, respond| async { say(respond, "ok") });
    }
    let (source, link) = net.link();
    source
        .snapshots
        .publish(one_cluster(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], policy("unavailable")));
    let channel = channel(&link);
    for _ in 0..200 {
        assert_eq!(text(call(&channel, grpc()).await.unwrap()).await, "ok");
    }
    assert!(bad.load(Ordering::Relaxed) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_cluster_gets_few_retries_whatever_swaps_happen() {
    let net = Net::default();
    let calls = failing_first(&net, usize::MAX, |respond| say_grpc(respond, "14"));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], policy("unavailable")));
    let channel = channel(&link);
    for n in 0..500 {
        source.snapshots.publish(one_cluster(&[1], |route, _| {
            route.retry = RetryPolicy {
                explicit: true,
                ..RetryPolicy::default()
            };
            route.timeout = Some(std::time::Duration::from_secs(100 + n));
        }));
        assert_eq!(grpc_status(call(&channel, grpc()).await.unwrap()).await.0, "14");
    }
    let retries = calls.load(Ordering::Relaxed) - 500;
    assert!(retries <= 5, "{retries}");
}

/// The counts of a cluster's retries, by fate, and of the tries that a breaker refused; what is 0 is left out.
fn fates(link: &mesh_core::Link) -> Vec<String> {
    let mut out = mesh_core::report::Exposition::default();
    link.scrape(tokio::time::Instant::now().into_std(), &mut out);
    let names = ["mesh_cluster_retries_total{", "mesh_cluster_breaker_refusals_total{"];
    let of_tries = out
        .text()
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)));
    let short = |line: &str| line.split_once("cluster=\"c\",").unwrap().1.replace(['"', '}'], "");
    of_tries.map(short).filter(|line| !line.ends_with(" 0")).collect()
}

#[tokio::test(start_paused = true)]
async fn retries_are_counted_by_what_became_of_them() {
    let busy: fn(_) = |respond| say_status(respond, 503);
    // How many calls fail first, and what is made of the policy.
    type Change = fn(&mut Route, &mut mesh_core::config::Cluster);
    let cases: [(usize, Change, &[&str]); 5] = [
        (0, |_, _| {}, &[]),
        (1, |_, _| {}, &["fate=retried 1", "fate=success 1"]),
        (9, |_, _| {}, &["fate=retried 2", "fate=limit 1"]),
        (
            9,
            |_, cluster| cluster.breakers.default.retries.max = Some(0),
            &["fate=budget 1"],
        ),
        (9, |route, _| route.retry.explicit = false, &["fate=unsafe 1"]),
    ];
    for (failures, change, expected) in cases {
        let net = Net::default();
        failing_first(&net, failures, busy);
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |route, cluster| {
            policy("5xx")(route, cluster);
            change(route, cluster);
        }));
        call(&channel(&link), post("")).await.unwrap();
        assert_eq!(fates(&link), expected, "{failures}");
    }
    let net = Net::default();
    failing_first(&net, 0, busy);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, cluster| {
        cluster.breakers.default.max_requests = 0
    }));
    call(&channel(&link), post("")).await.unwrap_err();
    assert_eq!(fates(&link), ["limit=max_requests 1"]);
}
