//! GOAWAY, stream limits, breakers, dials that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;

use super::net::{Net, call, channel, one_cluster, post, say, silent, text};

#[tokio::test]
async fn goaway_drains_without_a_failed_call() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    for n in 0..100 {
        let mut request = post("x");
        if n % 10 == 5 {
            // The server begins its graceful end with this call.
            request.headers_mut().insert("x-go-away", HeaderValue::from_static("1"));
        }
        assert_eq!(text(call(&channel, request).await.unwrap()).await, "ok", "call {n}");
    }
    assert!((10..=12).contains(&net.dials()), "{}", net.dials());
}

#[tokio::test]
async fn when_the_peers_stream_limit_is_reached_another_connection_is_opened() {
    let net = Net::default();
    let busy = Arc::new(AtomicUsize::new(0));
    let (release, released) = tokio::sync::watch::channel(false);
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(2);
    let counter = Arc::clone(&busy);
    net.serve_with(1, settings, None, move |_, respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut released = released.clone();
        async move {
            released.wait_for(|go| *go).await.unwrap();
            say(respond, "ok");
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    let mut calls = Vec::new();
    for n in 1..=6 {
        let channel = channel.clone();
        calls.push(tokio::spawn(async move {
            text(call(&channel, post("")).await.unwrap()).await
        }));
        // Each call arrives before the next is made, so that the limit is known by then.
        for _ in 0..10_000 {
            if busy.load(Ordering::Relaxed) == n {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(busy.load(Ordering::Relaxed), n);
    }
    assert_eq!(net.dials(), 3);
    release.send(true).unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn over_max_requests_a_call_fails_at_once_and_places_come_back() {
    let net = Net::default();
    net.serve(1, |_, respond| silent(respond));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, cluster| {
        cluster.breakers.default.max_requests = 2
    }));
    let channel = channel(&link);
    for round in 0..3 {
        let held: Vec<_> = (0..2)
            .map(|_| {
                let channel = channel.clone();
                tokio::spawn(async move { call(&channel, post("")).await.map(|_| ()) })
            })
            .collect();
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let error = call(&channel, post("")).await.unwrap_err();
        assert!(
            error.is_overflow() && error.response_flag() == "UO",
            "round {round}: {error}"
        );
        for call in held {
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_fails_typed_and_is_dialled_with_a_pause() {
    let net = Net::default();
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.retry = mesh_core::config::RetryPolicy::never()
    }));
    let channel = channel(&link);
    for _ in 0..1_000 {
        let error = call(&channel, post("")).await.unwrap_err();
        assert!(error.is_connect() && !error.may_have_been_processed() && error.response_flag() == "UF");
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    // 10 s of calls: a pause of 50 ms that grows by 1.6 allows about ten dials.
    assert!((6..=16).contains(&net.dials()), "{}", net.dials());
    net.serve(1, |_, respond| async { say(respond, "back") });
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "back");
}

#[tokio::test]
async fn calls_to_a_cluster_with_one_dead_endpoint_of_two_all_succeed() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1, 2], |_, _| {}));
    let channel = channel(&link);
    for n in 0..200 {
        assert_eq!(text(call(&channel, post("x")).await.unwrap()).await, "ok", "call {n}");
    }
}

/// A cancelled stream holds its place in `h2` until its reset is written; calls that follow at once must not be refused, nor
/// cost the connection.
#[tokio::test]
async fn calls_right_after_many_were_cancelled_keep_the_connection() {
    let net = Net::default();
    let mut settings = h2::server::Builder::new();
    settings.max_concurrent_streams(10);
    net.serve_with(1, settings, None, |request, respond| async move {
        if request.uri().path() == "/slow" {
            silent(respond).await
        } else {
            say(respond, "ok")
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    // The limit is known after the first answer.
    assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "ok");
    for round in 0..20 {
        let mut slow: Vec<_> = (0..10).map(|_| Box::pin(call(&channel, get("/slow")))).collect();
        for call in &mut slow {
            poll_once(call.as_mut()).await;
        }
        // The streams are opened on the wire.
        tokio::task::yield_now().await;
        drop(slow);
        // Begun before the connection's task runs again: the resets are not written yet.
        let mut next: Vec<_> = (0..10).map(|_| Box::pin(call(&channel, get("/")))).collect();
        for call in &mut next {
            poll_once(call.as_mut()).await;
        }
        for call in next {
            assert_eq!(text(call.await.unwrap()).await, "ok", "round {round}");
        }
    }
    assert_eq!(net.dials(), 1);
}

fn get(path: &'static str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = post("");
    *request.uri_mut() = http::Uri::from_static(path);
    request
}

/// Polls a future that must not be done yet.
async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) {
    std::future::poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
}

/// A host that vanishes without a word: its connection stays, and nothing comes over it any more.
#[tokio::test(start_paused = true)]
async fn ep_3_a_silent_peer_is_noticed_and_its_connection_ended() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say(respond, "ok") });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "ok");
    net.freeze(true);
    let begun = tokio::time::Instant::now();
    let error = call(&channel, post("")).await.unwrap_err();
    assert!(error.may_have_been_processed(), "{error}");
    // Asked within 10 s, answered within 5 s: not a second more.
    assert!(begun.elapsed() <= Duration::from_secs(16), "{:?}", begun.elapsed());
    net.freeze(false);
    assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "ok");
    assert_eq!(net.dials(), 2);
}

/// A live peer is left alone however long its call takes.
#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_a_silent_peer() {
    let net = Net::default();
    net.serve(1, |_, respond| async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        say(respond, "ok");
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    assert_eq!(text(call(&channel(&link), post("")).await.unwrap()).await, "ok");
    assert_eq!(net.dials(), 1);
}
