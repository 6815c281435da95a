//! Tries that race.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use mesh_core::config::{HostSelection, LbPolicy, RetryOn, RetryPolicy, Route};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::Service as _;

use super::net::{Net, call, channel, one_cluster, post, say, say_status, silent, text};
use super::outliers::istio;

fn hedged(per_try: u64, retries: u32) -> impl FnOnce(&mut Route, &mut mesh_core::config::Cluster) {
    move |route, _| {
        route.retry = RetryPolicy {
            on: RetryOn::parse("5xx"),
            retries,
            per_try_timeout: Some(Duration::from_millis(per_try)),
            hedge: true,
            explicit: true,
            ..RetryPolicy::default()
        };
    }
}

/// Answers the n-th call after `times[n]` with `statuses[n]`; tells which were reset.
fn timed(net: &Net, plan: &'static [(u64, u16)]) -> (Arc<AtomicUsize>, mpsc::UnboundedReceiver<usize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let (reset, resets) = mpsc::unbounded_channel();
    let counter = Arc::clone(&calls);
    net.serve(1, move |_, mut respond| {
        let (n, reset) = (counter.fetch_add(1, Ordering::Relaxed), reset.clone());
        async move {
            let (after, status) = plan[n];
            tokio::select! {
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => reset.send(n).unwrap(),
                () = tokio::time::sleep(Duration::from_millis(after)) => match status {
                    200 => say(respond, ["first", "second", "third"][n]),
                    status => say_status(respond, status),
                },
            }
        }
    });
    (calls, resets)
}

#[tokio::test(start_paused = true)]
async fn a_slow_try_is_raced_and_the_loser_is_cancelled() {
    let net = Net::default();
    let (calls, mut resets) = timed(&net, &[(1_000, 200), (50, 200)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], hedged(100, 2)));
    let begun = Instant::now();
    assert_eq!(text(call(&channel(&link), post("")).await.unwrap()).await, "second");
    assert_eq!(begun.elapsed(), Duration::from_millis(150));
    assert_eq!(resets.recv().await, Some(0));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn the_slow_try_may_win() {
    let net = Net::default();
    let (_, mut resets) = timed(&net, &[(150, 200), (1_000, 200)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], hedged(100, 2)));
    assert_eq!(text(call(&channel(&link), post("")).await.unwrap()).await, "first");
    assert_eq!(resets.recv().await, Some(1));
}

/// Who is slow is not asked twice.
#[tokio::test(start_paused = true)]
async fn a_try_that_races_goes_to_another_host() {
    let net = Net::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    net.serve(1, move |request, respond| {
        let is_quick = request.uri().path() == "/quick";
        counter.fetch_add(usize::from(!is_quick), Ordering::Relaxed);
        async move {
            match is_quick {
                true => say(respond, "quick"),
                false => silent(respond).await,
            }
        }
    });
    net.serve(2, |_, respond| async { say(respond, "quick") });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1, 2], |route, cluster| {
        hedged(100, 1)(route, cluster);
        route.retry.hosts = HostSelection::ISTIO;
    }));
    let channel = channel(&link);
    let mut raced = 0;
    for _ in 0..20 {
        // So that the budget has room.
        for _ in 0..60 {
            let mut request = post("");
            *request.uri_mut() = http::Uri::from_static("/quick");
            text(call(&channel, request).await.unwrap()).await;
        }
        let begun = Instant::now();
        let answer = tokio::time::timeout(Duration::from_secs(1), call(&channel, post(""))).await;
        assert_eq!(
            text(
                answer
                    .unwrap_or_else(|_| panic!("it went to the slow one again"))
                    .unwrap()
            )
            .await,
            "quick"
        );
        raced += u32::from(!begun.elapsed().is_zero());
    }
    assert!(raced > 5, "{raced}");
    assert_eq!(asked.load(Ordering::Relaxed), raced as usize);
}

/// Its tries go on until others have won, and so never end at their time: that they were slow is told all the same (Envoy).
#[tokio::test(start_paused = true)]
async fn a_host_that_loses_every_race_is_taken_out() {
    let net = Net::default();
    let tried = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&tried);
    net.serve(1, move |_, respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        silent(respond)
    });
    net.serve(2, |_, respond| async { say(respond, "two") });
    let (source, link) = net.link();
    let publish = |servers: &[u8]| {
        source.snapshots.publish(one_cluster(servers, |route, cluster| {
            hedged(50, 1)(route, cluster);
            cluster.lb = LbPolicy::RoundRobin;
            cluster.outlier = Some(istio());
        }));
    };
    publish(&[2]);
    let channel = channel(&link);
    let calls = async |count: usize| {
        for _ in 0..count {
            assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "two");
        }
    };
    // What races cost is saved up.
    calls(50).await;
    publish(&[1, 2]);
    calls(100).await;
    assert_eq!(tried.load(Ordering::Relaxed), 5);
}

/// Racing takes the limit of a try away, and not that of being idle.
#[tokio::test(start_paused = true)]
async fn tries_that_race_end_when_they_are_idle() {
    let net = Net::default();
    let (calls, mut resets) = timed(&net, &[(1_000, 200), (1_000, 200)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        hedged(100, 1)(route, cluster);
        route.retry.per_try_idle_timeout = Some(Duration::from_millis(250));
    }));
    let begun = Instant::now();
    let error = call(&channel(&link), post("")).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(begun.elapsed(), Duration::from_millis(350));
    assert_eq!((resets.recv().await, resets.recv().await), (Some(0), Some(1)));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

/// An answer that is worth another try does not win while others run.
#[tokio::test(start_paused = true)]
async fn a_failure_is_waited_over_while_others_run() {
    let net = Net::default();
    let (calls, _resets) = timed(&net, &[(300, 200), (50, 503)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], hedged(200, 1)));
    assert_eq!(text(call(&channel(&link), post("")).await.unwrap()).await, "first");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_tries_begin_than_the_policy_gives() {
    let net = Net::default();
    let (calls, _resets) = timed(&net, &[(5_000, 200), (5_000, 200), (5_000, 200)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        hedged(100, 2)(route, cluster);
        route.timeout = Some(Duration::from_secs(2));
    }));
    let begun = Instant::now();
    let error = call(&channel(&link), post("")).await.unwrap_err();
    assert!(error.is_timeout() && begun.elapsed() == Duration::from_secs(2));
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

/// All failed, the last of them for good: the answer is the caller's.
#[tokio::test(start_paused = true)]
async fn when_all_have_failed_the_last_answer_is_handed_on() {
    let net = Net::default();
    let (calls, _resets) = timed(&net, &[(250, 503), (50, 503), (1, 503)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], hedged(100, 2)));
    let response = call(&channel(&link), post("")).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(
        response.extensions().get::<crate::ResponseFlags>().unwrap().to_string(),
        "URX"
    );
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

/// The budget pays for races as for any other try, and a dead destination ends them.
#[tokio::test(start_paused = true)]
async fn races_are_paid_for() {
    let net = Net::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    net.serve(1, move |_, respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        silent(respond)
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, cluster| {
        hedged(10, 3)(route, cluster);
        route.timeout = Some(Duration::from_millis(100));
    }));
    let channel = channel(&link);
    for _ in 0..200 {
        call(&channel, post("")).await.unwrap_err();
    }
    let more = calls.load(Ordering::Relaxed) - 200;
    assert!((1..=5).contains(&more), "{more}");
}

/// A streaming body can be read by one try at a time: its slow try is ended as without hedging.
#[tokio::test(start_paused = true)]
async fn streaming_requests_do_not_race() {
    let net = Net::default();
    let (calls, mut resets) = timed(&net, &[(5_000, 200), (10, 200)]);
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], hedged(100, 2)));
    let mut channel = super::streams::channel(&link);
    let body = super::streams::slow(2, Duration::from_millis(10));
    let response = channel.call(Request::post("/up").body(body).unwrap()).await.unwrap();
    assert_eq!(text(response).await, "second");
    assert_eq!((resets.recv().await, calls.load(Ordering::Relaxed)), (Some(0), 2));
}
