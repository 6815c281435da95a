//! Splits, streams, cancellation, flow control and deadlines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use mesh_core::config::{Cluster, Endpoint, Route, Snapshot, Split, TlsMode};
use tokio::sync::mpsc;
use tower::Service as _;

use super::net::{Net, address, call, channel, grpc, grpc_status, one_cluster, post, say, silent, text};
use crate::Channel;

fn split(v1: u32, v2: u32) -> Snapshot {
    let split = Split::weighted([("v1".into(), v1), ("v2".into(), v2)]).unwrap();
    let cluster = |name: &str, n| Cluster::new(name, TlsMode::Plaintext, vec![Endpoint::new(address(n))]);
    let builder = Snapshot::builder().route("t", Route::to(split));
    builder
        .cluster(cluster("v1", 1))
        .cluster(cluster("v2", 2))
        .build()
        .unwrap()
}

fn two_versions() -> (Net, Arc<AtomicUsize>) {
    let (net, to_v2) = (Net::default(), Arc::new(AtomicUsize::new(0)));
    net.serve(1, |_, respond| async { say(respond, "v1") });
    let counter = Arc::clone(&to_v2);
    net.serve(2, move |_, respond| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { say(respond, "v2") }
    });
    (net, to_v2)
}

#[tokio::test]
async fn a_split_of_95_to_5_holds_over_10_000_calls() {
    let (net, to_v2) = two_versions();
    let (source, link) = net.link();
    source.snapshots.publish(split(95, 5));
    let channel = channel(&link);
    for _ in 0..10_000 {
        assert!(call(&channel, post("")).await.unwrap().status().is_success());
    }
    // The central 99.9 % of Binomial(10000, 0.05).
    let v2 = to_v2.load(Ordering::Relaxed);
    assert!((430..=573).contains(&v2), "{v2}");
}

/// The trap of a generator that is copied with its service: each clone repeats the same first draw.
#[tokio::test]
async fn clones_of_one_channel_do_not_draw_the_same_subset() {
    let (net, to_v2) = two_versions();
    let (source, link) = net.link();
    source.snapshots.publish(split(50, 50));
    let channel = channel(&link);
    for _ in 0..1_000 {
        // `call` clones the channel for each request, as callers clone tonic clients per task.
        call(&channel, post("")).await.unwrap();
    }
    // 500 expected, sd 15.8: five standard deviations, one in two million.
    let v2 = to_v2.load(Ordering::Relaxed);
    assert!((421..=579).contains(&v2), "{v2}");
}

#[tokio::test]
async fn a_bidirectional_stream_is_answered_before_its_request_ends() {
    let net = Net::default();
    net.serve(1, |request, mut respond| async move {
        let mut incoming = request.into_body();
        let mut outgoing = respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(data)) = incoming.data().await {
            incoming.flow_control().release_capacity(data.len()).unwrap();
            outgoing.send_data(data, false).unwrap();
        }
        outgoing.send_data(Bytes::from_static(b"bye"), true).unwrap();
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let (send, receive) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let body = Box::pin(StreamBody::new(tokio_stream_of(receive)));
    let mut channel = Channel::builder(&link, "t").dangerous().plaintext().build();
    let response = channel.call(Request::post("/s/m").body(body).unwrap()).await.unwrap();
    let mut answer = response.into_body();
    for word in ["one", "two", "three"] {
        send.send(Ok(Frame::data(Bytes::from_static(word.as_bytes()))))
            .await
            .unwrap();
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(send);
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "bye");
    assert!(answer.frame().await.is_none());
}

fn tokio_stream_of<T>(mut receive: mpsc::Receiver<T>) -> impl futures_core::Stream<Item = T> {
    async_stream(move |cx| receive.poll_recv(cx))
}

/// A stream out of a poll function.
fn async_stream<T>(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
) -> impl futures_core::Stream<Item = T> {
    struct FromPoll<F>(F);
    impl<T, F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin> futures_core::Stream
        for FromPoll<F>
    {
        type Item = T;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            (self.0)(cx)
        }
    }
    FromPoll(poll)
}

#[tokio::test]
async fn one_of_a_hundred_calls_is_cancelled_and_the_others_finish() {
    let net = Net::default();
    let (release, released) = tokio::sync::watch::channel(false);
    let (reset, mut resets) = mpsc::unbounded_channel();
    let (begun, mut begins) = mpsc::unbounded_channel();
    net.serve(1, move |_, mut respond| {
        let (mut released, reset, begun) = (released.clone(), reset.clone(), begun.clone());
        async move {
            begun.send(()).unwrap();
            tokio::select! {
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => reset.send(()).unwrap(),
                _ = released.wait_for(|go| *go) => say(respond, "ok"),
            }
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let channel = channel(&link);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { text(call(&channel, post("x")).await.unwrap()).await })
        })
        .collect();
    for _ in 0..100 {
        begins.recv().await.unwrap();
    }
    calls[17].abort();
    resets.recv().await.unwrap();
    release.send(true).unwrap();
    let mut finished = 0;
    for call in calls {
        finished += usize::from(call.await.is_ok_and(|text| text == "ok"));
    }
    assert_eq!((finished, net.dials()), (99, 1));
}

#[tokio::test]
async fn large_bodies_pass_through_small_windows_both_ways() {
    let net = Net::default();
    let mut settings = h2::server::Builder::new();
    settings
        .initial_window_size(1_000)
        .initial_connection_window_size(70_000);
    net.serve_with(1, settings, None, |request, mut respond| async move {
        let mut incoming = request.into_body();
        let mut outgoing = respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(data)) = incoming.data().await {
            incoming.flow_control().release_capacity(data.len()).unwrap();
            outgoing.send_data(data, false).unwrap();
        }
        outgoing.send_data(Bytes::new(), true).unwrap();
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let sent = Bytes::from((0..1_000_000u32).map(|n| n as u8).collect::<Vec<_>>());
    let whole = call(&channel(&link), post(sent.clone())).await.unwrap();
    assert_eq!(whole.into_body().collect().await.unwrap().to_bytes(), sent);
    // The same as a stream of frames.
    let mut rest = sent.clone();
    let frames = async_stream(move |_| {
        let frame = rest.split_to(rest.len().min(50_000));
        std::task::Poll::Ready((!frame.is_empty()).then(|| Ok::<_, std::convert::Infallible>(Frame::data(frame))))
    });
    let mut channel = Channel::builder(&link, "t").dangerous().plaintext().build();
    let streamed = channel
        .call(Request::post("/s/m").body(StreamBody::new(frames)).unwrap())
        .await
        .unwrap();
    assert_eq!(streamed.into_body().collect().await.unwrap().to_bytes(), sent);
}

#[tokio::test(start_paused = true)]
async fn a_route_timeout_bounds_the_call_to_the_end_of_its_body() {
    let net = Net::default();
    net.serve(1, |_, mut respond| async move {
        // Headers at once, the body never.
        let _body = respond.send_response(Response::new(()), false).unwrap();
        std::future::pending::<()>().await;
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.timeout = Some(Duration::from_secs(2))
    }));
    let begun = tokio::time::Instant::now();
    let channel = channel(&link);
    let error = call(&channel, post(""))
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap_err();
    assert!(error.is_timeout() && error.response_flag() == "UT", "{error}");
    assert_eq!(begun.elapsed().as_secs(), 2);
    // The same for gRPC is a status, not an error.
    let (code, message) = grpc_status(call(&channel, grpc()).await.unwrap()).await;
    assert_eq!(code, "4", "{message}");
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_deadline_shortens_the_routes() {
    let net = Net::default();
    net.serve(1, |_, respond| silent(respond));
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.timeout = Some(Duration::from_secs(60))
    }));
    let mut request = grpc();
    request
        .headers_mut()
        .insert("grpc-timeout", http::HeaderValue::from_static("250m"));
    let begun = tokio::time::Instant::now();
    let (code, _) = grpc_status(call(&channel(&link), request).await.unwrap()).await;
    assert_eq!((code.as_str(), begun.elapsed().as_millis()), ("4", 250));
}

/// A layer of the application between the rooms sees what they decided.
#[tokio::test]
async fn own_layers_stand_between_the_rooms() {
    let net = Net::default();
    net.serve(1, |request, respond| async move {
        assert_eq!(request.headers()["x-cluster"], "c");
        assert_eq!(request.headers()["x-try"], "1");
        say(respond, "ok");
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let per_call = tower::util::MapRequestLayer::new(|mut request: Request<crate::Routed<Full<Bytes>>>| {
        let cluster = http::HeaderValue::from_str(request.body().cluster().as_str()).unwrap();
        request.headers_mut().insert("x-cluster", cluster);
        request
    });
    let per_attempt = tower::util::MapRequestLayer::new(|mut request: Request<crate::Attempt<Full<Bytes>>>| {
        let number = http::HeaderValue::from(request.body().number());
        request.headers_mut().insert("x-try", number);
        request
    });
    let builder = Channel::builder(&link, "t").per_call(per_call).per_attempt(per_attempt);
    let channel = builder.dangerous().plaintext().build();
    assert_eq!(text(call(&channel, post("")).await.unwrap()).await, "ok");
}

/// What a call waited for its first configuration is part of its time.
#[tokio::test(start_paused = true)]
async fn waiting_for_configuration_counts_against_the_deadline() {
    let net = Net::default();
    net.serve(1, |_, respond| silent(respond));
    let (source, link) = net.link();
    let channel = channel(&link);
    let mut request = grpc();
    request
        .headers_mut()
        .insert("grpc-timeout", http::HeaderValue::from_static("1000m"));
    let begun = tokio::time::Instant::now();
    let publish = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    };
    let (response, ()) = tokio::join!(call(&channel, request), publish);
    assert_eq!(grpc_status(response.unwrap()).await.0, "4");
    assert_eq!(begun.elapsed().as_millis(), 1000);
}

/// A peer that always has another frame does not outlive the deadline, though no poll ever finds nothing.
#[tokio::test(start_paused = true)]
async fn a_busy_stream_ends_at_its_deadline() {
    let net = Net::default();
    net.serve(1, |_, mut respond| async move {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        for _ in 0..1_000 {
            body.send_data(Bytes::from_static(b"frame"), false).unwrap();
        }
        std::future::pending::<()>().await;
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |route, _| {
        route.timeout = Some(Duration::from_millis(300))
    }));
    let mut body = call(&channel(&link), post("")).await.unwrap().into_body();
    let begun = tokio::time::Instant::now();
    let error = loop {
        match body.frame().await.expect("an error ends it, not the peer") {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
        }
    };
    assert!(error.is_timeout());
    assert!(begun.elapsed() <= Duration::from_millis(320), "{:?}", begun.elapsed());
}

/// An HTTP server may answer before it has read the request, and go on reading (RFC 9113 8.1).
#[tokio::test]
async fn an_upload_goes_on_after_an_early_answer() {
    let net = Net::default();
    let (report, mut reports) = mpsc::unbounded_channel();
    net.serve(1, move |request, mut respond| {
        let report = report.clone();
        async move {
            let accepted = Response::builder().status(202).body(()).unwrap();
            respond.send_response(accepted, true).unwrap();
            let (mut body, mut read) = (request.into_body(), 0);
            let outcome = loop {
                match body.data().await {
                    Some(Ok(data)) => {
                        read += data.len();
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                    Some(Err(error)) => break Err(error.to_string()),
                    None => break Ok(read),
                }
            };
            report.send(outcome).unwrap();
        }
    });
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], |_, _| {}));
    let (send, receive) = mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let mut channel = Channel::builder(&link, "t").dangerous().plaintext().build();
    let body = Box::pin(StreamBody::new(tokio_stream_of(receive)));
    let response = channel
        .call(Request::post("/upload").body(body).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 202);
    response.into_body().collect().await.unwrap();
    for _ in 0..10 {
        send.send(Ok(Frame::data(Bytes::from_static(b"0123456789"))))
            .await
            .unwrap();
    }
    drop(send);
    assert_eq!(reports.recv().await.unwrap(), Ok(100));
}
