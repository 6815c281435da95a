//! GOAWAY, stream limits, breakers, dials that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use mesh_core::config::{Connections, Http2Settings, KeepAlive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

fn get(path: &'static str) -> http::Request<http_body_util::Full<Bytes>> {
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

/// A peer that was there for long and then is not: after frames of its answer, after a quiet with pings as they were written, and
/// after one with as few as gRPC servers bear.
#[tokio::test(start_paused = true)]
async fn ep_3_a_peer_that_falls_silent_under_a_long_answer_is_noticed() {
    let written = KeepAlive {
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
    };
    let cases = [
        (Some(Duration::from_secs(1)), None, 15),
        (None, Some(written), 15),
        (None, None, 305),
    ];
    for (every, keep_alive, most) in cases {
        let net = Net::default();
        net.serve(1, move |_, mut respond| async move {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            let Some(every) = every else {
                return std::future::pending().await;
            };
            loop {
                tokio::time::sleep(every).await;
                body.send_data(Bytes::from_static(b"x"), false).unwrap();
            }
        });
        let (source, link) = net.link();
        source.snapshots.publish(one_cluster(&[1], |_, cluster| {
            cluster.connections = Arc::new(Connections {
                http2: Http2Settings {
                    keep_alive,
                    ..Http2Settings::default()
                },
                ..Connections::default()
            });
        }));
        let mut answer = call(&channel(&link), post("")).await.unwrap().into_body();
        let reading = tokio::spawn(async move {
            loop {
                match answer.frame().await {
                    Some(Ok(_)) => {}
                    end => return end.map(Result::unwrap_err),
                }
            }
        });
        tokio::time::sleep(Duration::from_secs(100)).await;
        net.freeze(true);
        let begun = tokio::time::Instant::now();
        let error = reading.await.unwrap().expect("it breaks off");
        assert!(error.may_have_been_processed(), "{error}");
        assert!(
            begun.elapsed() <= Duration::from_secs(most + 1),
            "{:?}",
            begun.elapsed()
        );
    }
}

/// Who says GOAWAY goes on with what it has, however long that takes, and whoever calls meanwhile.
#[tokio::test(start_paused = true)]
async fn ep_8_a_call_outlasts_the_goaway_of_its_connection() {
    let net = Net::default();
    net.serve_raw(1, None, |io| async move {
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((_, respond))) = connection.accept().await {
            connection.graceful_shutdown();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(600)).await;
                say(respond, "ok");
            });
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    let mut calls = Vec::new();
    for _ in 0..3 {
        let channel = channel.clone();
        calls.push(tokio::spawn(async move {
            text(call(&channel, post("")).await.unwrap()).await
        }));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), "ok");
    }
    assert_eq!(net.dials(), 3);
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

/// Each connection says GOAWAY after a few streams, and does not look at what is above them.
#[tokio::test]
async fn ep_8_a_storm_of_goaways_fails_no_call() {
    const CALLS: usize = 6_000;
    /// What 1,000 calls in a second that take a millisecond or two come to.
    const SIDE_BY_SIDE: usize = 2;
    let net = Net::default();
    let (connections, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, counter) = (Arc::clone(&connections), Arc::clone(&served));
    net.serve_raw(1, None, move |io| {
        // 1 to 50, each in its turn.
        let most = 1 + (opened.fetch_add(1, Ordering::Relaxed) * 7) % 50;
        serve_some_streams(io, most, Arc::clone(&counter))
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    let workers: Vec<_> = (0..SIDE_BY_SIDE)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move {
                for n in 0..CALLS / SIDE_BY_SIDE {
                    match call(&channel, post("x")).await {
                        Ok(response) => assert_eq!(text(response).await, "ok"),
                        Err(error) => panic!("call {n}: {error} {:?}", std::error::Error::source(&error)),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(served.load(Ordering::Relaxed), CALLS, "every call was processed once");
    assert!((CALLS / 50..CALLS / 10).contains(&net.dials()), "{}", net.dials());
}

/// A peer that will look at no request.
#[tokio::test(start_paused = true)]
async fn ep_9_goaway_for_ever_is_not_a_hot_loop() {
    let net = Net::default();
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    net.serve_raw(1, None, move |io| serve_some_streams(io, 0, Arc::clone(&counter)));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    const SECONDS: usize = 20;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(SECONDS as u64) {
        let error = call(&channel, post("")).await.unwrap_err();
        assert!(!error.may_have_been_processed() && error.is_unavailable(), "{error}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(net.dials() < 2 * SECONDS, "{} dials in {SECONDS} s", net.dials());
    assert_eq!(served.load(Ordering::Relaxed), 0);
}

/// Speaks HTTP/2 frame by frame: answers `most` streams, says so (GOAWAY), and passes over the later ones.
async fn serve_some_streams(mut io: Box<dyn crate::connect::Io>, most: usize, served: Arc<AtomicUsize>) {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    async fn write(io: &mut Box<dyn crate::connect::Io>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // A client that is done closes.
        let _ = io.write_all(&frame).await;
    }
    let go_away = |last: u32| [last.to_be_bytes(), [0; 4]].concat();
    let mut preface = [0; 24];
    if io.read_exact(&mut preface).await.is_err() {
        return;
    }
    write(&mut io, SETTINGS, 0, 0, &[]).await;
    if most == 0 {
        write(&mut io, GOAWAY, 0, 0, &go_away(0)).await;
    }
    let mut answered = 0;
    let mut head = [0; 9];
    while io.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        if io.read_exact(&mut payload).await.is_err() {
            return;
        }
        match kind {
            SETTINGS if flags & ACK == 0 => write(&mut io, SETTINGS, ACK, 0, &[]).await,
            PING if flags & ACK == 0 => write(&mut io, PING, ACK, 0, &payload).await,
            HEADERS | DATA if flags & END_STREAM != 0 && answered < most => {
                served.fetch_add(1, Ordering::Relaxed);
                answered += 1;
                // `:status: 200`, of the static table.
                write(&mut io, HEADERS, END_HEADERS, stream, &[0x88]).await;
                write(&mut io, DATA, END_STREAM, stream, b"ok").await;
                if answered == most {
                    write(&mut io, GOAWAY, 0, 0, &go_away(stream)).await;
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ep_9_refused_streams_for_ever_are_not_a_hot_loop() {
    let net = Net::default();
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&tries);
    net.serve(1, move |_, mut respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move { respond.send_reset(h2::Reason::REFUSED_STREAM) }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    const CALLS: usize = 500;
    for _ in 0..CALLS {
        let error = call(&channel, post("")).await.unwrap_err();
        assert!(
            !error.may_have_been_processed() && error.response_flag() == "UR",
            "{error}"
        );
    }
    // The first repetition is free and once per call; further ones are the budget's.
    let tries = tries.load(Ordering::Relaxed);
    assert!((2 * CALLS..=2 * CALLS + CALLS / 2).contains(&tries), "{tries}");
    assert_eq!(net.dials(), 1);
}

/// One of five goes, with what it was doing.
#[tokio::test(start_paused = true)]
async fn ep_1_a_killed_endpoint_costs_at_most_what_it_was_working_on() {
    for (method, repeatable) in [(http::Method::GET, true), (http::Method::POST, false)] {
        let net = Net::default();
        let busy = Arc::new(AtomicUsize::new(0));
        for n in 1..=5 {
            let busy = Arc::clone(&busy);
            net.serve(n, move |_, respond| {
                let busy = (n == 1).then(|| Arc::clone(&busy));
                async move {
                    if let Some(busy) = &busy {
                        busy.fetch_add(1, Ordering::Relaxed);
                    }
                    // Eight on each of the five: more than failures of their own would leave the budget open for.
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    if let Some(busy) = busy {
                        busy.fetch_sub(1, Ordering::Relaxed);
                    }
                    say(respond, "ok");
                }
            });
        }
        let (source, link) = net.link();
        // Nobody wrote a policy: a call that is not idempotent is repeated only where it was provably not processed.
        source.snapshots.publish(one_cluster(&[1, 2, 3, 4, 5], |_, _| {}));
        let channel = channel(&link);
        let mut calls = Vec::new();
        let mut at_kill = 0;
        for n in 0..2_000 {
            if n == 1_000 {
                at_kill = busy.load(Ordering::Relaxed);
                net.stop(1).await;
            }
            let channel = channel.clone();
            let mut request = get("/");
            *request.method_mut() = method.clone();
            calls.push(tokio::spawn(async move { call(&channel, request).await.map(drop) }));
            // 1,000 calls in a second.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut failed = 0;
        for call in calls {
            if let Err(error) = call.await.unwrap() {
                assert!(error.may_have_been_processed(), "{error}");
                failed += 1;
            }
        }
        let most = if repeatable { 0 } else { at_kill };
        assert!(at_kill > 0 && failed <= most, "{method}: {failed} of {at_kill}");
    }
}

#[test]
fn a_runtime_that_shuts_down_is_not_held_up_by_who_calls_on_and_on() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let entered = runtime.enter();
    let (source, link) = Net::default().link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    drop(entered);
    let (began, begun) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        began.send(()).unwrap();
        // Keeps this thread until the other one has begun to shut down, since when no task is taken any more.
        while !tokio::spawn(std::future::pending::<()>()).is_finished() {
            std::thread::yield_now();
        }
        loop {
            call(&channel, post("")).await.unwrap_err();
        }
    });
    begun.recv().unwrap();
    let (over, is_over) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        over.send(()).unwrap();
    });
    is_over
        .recv_timeout(Duration::from_secs(30))
        .expect("the runtime shuts down");
}
