//! HTTP/1.1: kept-alive connections, one call at a time on each, and the races that come with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use mesh_core::config::{
    Cluster, Connections, Endpoint, ExpectedPeers, MutualTls, Protocol, Route, Snapshot, Split, TlsMode,
};
use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::testing::TestCa;
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tower::Service as _;

use super::net::{Net, Plain, address, call, channel, grpc, grpc_status, one_cluster, post, say_grpc, text};
use crate::connect::Io;
use crate::{Channel, Error};

/// A head as it came, and the connection's number.
type Seen = Arc<std::sync::Mutex<Vec<(usize, String)>>>;

/// Reads one request of a known length; `None` at the end.
pub(super) async fn read_request(io: &mut Box<dyn Io>, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        match io.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
        }
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse::<usize>().unwrap());
    while buffer.len() < length {
        match io.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
        }
    }
    Some((head, buffer.drain(..length).collect()))
}

/// Answers every request with `answer`, and remembers what came.
fn serve(net: &Net, n: u8, tls: Option<Arc<rustls::ServerConfig>>, answer: &'static str) -> Seen {
    let seen = Seen::default();
    let (log, connections) = (Arc::clone(&seen), Arc::new(AtomicUsize::new(0)));
    net.serve_raw(n, tls, move |mut io| {
        let (log, number) = (Arc::clone(&log), connections.fetch_add(1, Ordering::Relaxed));
        async move {
            let mut buffer = Vec::new();
            while let Some((head, _)) = read_request(&mut io, &mut buffer).await {
                log.lock().unwrap().push((number, head));
                if io.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    seen
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn http1(settings: Connections) -> impl FnOnce(&mut Route, &mut Cluster) {
    move |_, cluster| {
        cluster.connections = Arc::new(Connections {
            protocol: Protocol::Http1,
            ..settings
        });
    }
}

pub(super) fn get(uri: &'static str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

fn plain_channel(net: &Net, settings: Connections) -> (Plain, impl Sized) {
    let (source, link) = net.link();
    source.snapshots.publish(one_cluster(&[1], http1(settings)));
    (channel(&link), (source, link))
}

#[tokio::test]
async fn a_connection_is_kept_and_carries_one_call_after_another() {
    let net = Net::default();
    let seen = serve(&net, 1, None, OK);
    let (channel, _link) = plain_channel(&net, Connections::default());
    for _ in 0..50 {
        assert_eq!(text(call(&channel, get("/a?b")).await.unwrap()).await, "ok");
        assert_eq!(text(call(&channel, post("body")).await.unwrap()).await, "ok");
    }
    assert_eq!(net.dials(), 1);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].1, "GET /a?b HTTP/1.1\r\nhost: t\r\n\r\n");
    assert!(seen[1].1.starts_with("POST /pkg.Service/Method HTTP/1.1\r\n") && seen[1].1.contains("content-length: 4"));
}

#[tokio::test]
async fn requests_have_the_form_that_http1_asks_for() {
    let net = Net::default();
    let seen = serve(&net, 1, None, OK);
    let (channel, _link) = plain_channel(&net, Connections::default());
    let mut hop = get("http://other:8080");
    for (name, value) in [
        ("connection", "x-a"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("x-a", "1"),
    ] {
        hop.headers_mut().insert(name, value.parse().unwrap());
    }
    let mut by_host = get("/h");
    by_host.headers_mut().insert("host", "named".parse().unwrap());
    let mut two = get("/v");
    *two.version_mut() = http::Version::HTTP_2;
    for request in [hop, by_host, two] {
        assert_eq!(text(call(&channel, request).await.unwrap()).await, "ok");
    }
    let heads: Vec<_> = seen.lock().unwrap().iter().map(|(_, head)| head.clone()).collect();
    assert_eq!(
        heads,
        [
            "GET / HTTP/1.1\r\nx-a: 1\r\nhost: other:8080\r\n\r\n",
            "GET /h HTTP/1.1\r\nhost: named\r\n\r\n",
            "GET /v HTTP/1.1\r\nhost: t\r\n\r\n",
        ]
    );
    let mut tunnel = get("third:443");
    *tunnel.method_mut() = Method::CONNECT;
    let error = call(&channel, tunnel).await.unwrap_err();
    assert!(
        error.to_string().contains("CONNECT") && !error.may_have_been_processed(),
        "{error}"
    );
}

#[tokio::test]
async fn answers_of_every_shape_end_where_they_end() {
    let cases: [(&'static str, Method, &str, usize); 5] = [
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            Method::GET,
            "abc",
            1,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", Method::GET, "", 1),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Method::HEAD, "", 1),
        (
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
            Method::GET,
            "",
            1,
        ),
        // The peer says that this was the last.
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx",
            Method::GET,
            "x",
            3,
        ),
    ];
    for (answer, method, body, dials) in cases {
        let net = Net::default();
        serve(&net, 1, None, answer);
        let (channel, _link) = plain_channel(&net, Connections::default());
        for _ in 0..3 {
            let mut request = get("/");
            *request.method_mut() = method.clone();
            assert_eq!(text(call(&channel, request).await.unwrap()).await, body, "{answer}");
        }
        assert_eq!(net.dials(), dials, "{answer}");
    }
    // Trailers come through.
    let net = Net::default();
    serve(
        &net,
        1,
        None,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n1\r\na\r\n0\r\nx-t: end\r\n\r\n",
    );
    let (channel, _link) = plain_channel(&net, Connections::default());
    let collected = call(&channel, get("/"))
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(collected.trailers().unwrap()["x-t"], "end");
}

/// A body that breaks off is an error, never an end.
#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
    ] {
        let net = Net::default();
        net.serve_raw(1, None, move |mut io| async move {
            read_request(&mut io, &mut Vec::new()).await;
            io.write_all(answer.as_bytes()).await.unwrap();
        });
        let (channel, _link) = plain_channel(&net, Connections::default());
        let response = call(&channel, get("/")).await.unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert!(
            error.may_have_been_processed() && error.response_flag() == "UC",
            "{error}"
        );
    }
}

/// As many connections as calls at once, and no more than were needed at once are ever made.
#[tokio::test(start_paused = true)]
async fn calls_side_by_side_each_have_a_connection() {
    let net = Net::default();
    let (release, released) = watch::channel(false);
    net.serve_raw(1, None, move |mut io| {
        let mut released = released.clone();
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut io, &mut buffer).await.is_some() {
                released.wait_for(|go| *go).await.unwrap();
                io.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    });
    let (channel, _link) = plain_channel(&net, Connections::default());
    for round in 0..3 {
        release.send(false).unwrap();
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let channel = channel.clone();
                tokio::spawn(async move { text(call(&channel, get("/")).await.unwrap()).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((net.dials(), net.open(1)), (100, 100), "round {round}");
        release.send(true).unwrap();
        for call in calls {
            assert_eq!(call.await.unwrap(), "ok");
        }
    }
    // A quiet minute, and they are gone.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(net.open(1), 0);
}

/// More calls than dials may run at once, and dials that take their time: nobody is forgotten.
#[tokio::test(start_paused = true)]
async fn a_burst_is_dialled_in_turns_and_all_of_it_is_served() {
    let net = Net::default();
    let (release, released) = watch::channel(false);
    net.serve_raw(1, None, move |mut io| {
        let mut released = released.clone();
        async move {
            read_request(&mut io, &mut Vec::new()).await;
            released.wait_for(|go| *go).await.unwrap();
            io.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let (source, link) = mesh_core::Link::new(mesh_core::link::Parts::default());
    let at_once = Arc::new(AtomicUsize::new(0));
    let (servers, most) = (net.clone(), Arc::new(AtomicUsize::new(0)));
    let peak = Arc::clone(&most);
    crate::use_connector(&link, move |to: std::net::SocketAddr| -> crate::connect::Connecting {
        let (servers, at_once, most) = (servers.clone(), Arc::clone(&at_once), Arc::clone(&most));
        Box::pin(async move {
            most.fetch_max(at_once.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            at_once.fetch_sub(1, Ordering::Relaxed);
            servers.connect(to)
        })
    })
    .unwrap();
    source
        .snapshots
        .publish(one_cluster(&[1], http1(Connections::default())));
    let channel = channel(&link);
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { text(call(&channel, get("/")).await.unwrap()).await })
        })
        .collect();
    // 200 dials of 100 ms, 32 at once.
    tokio::time::sleep(Duration::from_millis(750)).await;
    assert_eq!((net.open(1), peak.load(Ordering::Relaxed)), (200, 32));
    release.send(true).unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap(), "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_after_its_requests_and_with_its_endpoint() {
    let net = Net::default();
    serve(&net, 1, None, OK);
    let (source, link) = net.link();
    let settings = Connections {
        max_requests: std::num::NonZeroU32::new(5),
        ..Connections::default()
    };
    source.snapshots.publish(one_cluster(&[1], http1(settings)));
    let channel = channel(&link);
    for _ in 0..20 {
        assert_eq!(text(call(&channel, get("/")).await.unwrap()).await, "ok");
    }
    assert_eq!(net.dials(), 4);
    assert_eq!(text(call(&channel, get("/")).await.unwrap()).await, "ok");
    assert_eq!(net.open(1), 1);
    source
        .snapshots
        .publish(one_cluster(&[], http1(Connections::default())));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(net.open(1), 0);
}

/// A caller who gives up closes the connection: its answer would otherwise be taken for another's.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_takes_its_connection_along() {
    let net = Net::default();
    net.serve_raw(1, None, |mut io| async move {
        let mut buffer = Vec::new();
        while let Some((head, _)) = read_request(&mut io, &mut buffer).await {
            if head.starts_with("GET /slow") {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            let answer = if head.starts_with("GET /slow") {
                OK.replace("ok", "no")
            } else {
                OK.to_owned()
            };
            if io.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let (channel, _link) = plain_channel(&net, Connections::default());
    for _ in 0..5 {
        let slow = tokio::time::timeout(Duration::from_secs(1), call(&channel, get("/slow"))).await;
        assert!(slow.is_err());
        assert_eq!(text(call(&channel, get("/")).await.unwrap()).await, "ok");
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(net.open(1), 1);
}

#[tokio::test]
async fn a_streaming_request_goes_in_chunks_and_a_failed_one_is_not_taken_for_whole() {
    let net = Net::default();
    let (tell, mut told) = mpsc::unbounded_channel();
    net.serve_raw(1, None, move |mut io| {
        let tell = tell.clone();
        async move {
            let (mut all, mut chunk) = (Vec::new(), [0; 1024]);
            let whole = loop {
                match io.read(&mut chunk).await {
                    Ok(0) | Err(_) => break false,
                    Ok(n) => all.extend_from_slice(&chunk[..n]),
                }
                if all.ends_with(b"0\r\n\r\n") {
                    break true;
                }
            };
            let _ = io.write_all(OK.as_bytes()).await;
            tell.send((whole, String::from_utf8(all).unwrap())).unwrap();
        }
    });
    let (source, link) = net.link();
    source
        .snapshots
        .publish(one_cluster(&[1], http1(Connections::default())));
    for fails in [false, true] {
        let (frames, mut receiver) = mpsc::unbounded_channel::<Result<Frame<Bytes>, &'static str>>();
        let body = StreamBody::new(Receiving(std::future::poll_fn(move |cx| receiver.poll_recv(cx))));
        let channel = Channel::builder(&link, "t").dangerous().plaintext().build();
        let request = Request::post("/up").body(body).unwrap();
        let answer = tokio::spawn(async move { Channel::call(&mut channel.clone(), request).await });
        frames.send(Ok(Frame::data(Bytes::from_static(b"one")))).unwrap();
        tokio::task::yield_now().await;
        frames.send(Ok(Frame::data(Bytes::from_static(b"two")))).unwrap();
        if fails {
            frames.send(Err("gone")).unwrap();
        }
        drop(frames);
        let answer = answer.await.unwrap();
        let (whole, sent) = told.recv().await.unwrap();
        assert_eq!((whole, answer.is_ok()), (!fails, !fails));
        // One that fails may do so before its head has left.
        assert!(fails || sent.contains("transfer-encoding: chunked\r\n"), "{sent}");
    }
}

/// A stream from a function that polls.
struct Receiving<F>(std::future::PollFn<F>);

impl<F, T> futures_core::Stream for Receiving<F>
where
    F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
{
    type Item = T;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<T>> {
        Future::poll(std::pin::Pin::new(&mut self.0), cx)
    }
}

/// Closes each connection after `served` answers: before it reads what comes next, or after.
fn closing(net: &Net, served: usize, reads_first: bool) -> Arc<AtomicUsize> {
    let processed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&processed);
    net.serve_raw(1, None, move |mut io| {
        let counter = Arc::clone(&counter);
        async move {
            let mut buffer = Vec::new();
            for _ in 0..served {
                if read_request(&mut io, &mut buffer).await.is_none() {
                    return;
                }
                counter.fetch_add(1, Ordering::Relaxed);
                io.write_all(OK.as_bytes()).await.unwrap();
            }
            if reads_first {
                read_request(&mut io, &mut buffer).await;
            }
        }
    });
    processed
}

#[tokio::test]
async fn ep_10_a_connection_that_the_peer_closed_is_not_used_again() {
    let net = Net::default();
    let processed = closing(&net, 1, false);
    let (channel, _link) = plain_channel(&net, Connections::default());
    for n in 0..50 {
        // A POST as well: nothing was sent on the closed one.
        let request = if n % 2 == 0 { get("/") } else { post("x") };
        assert_eq!(text(call(&channel, request).await.unwrap()).await, "ok", "call {n}");
        // The end arrives.
        tokio::task::yield_now().await;
    }
    assert_eq!((processed.load(Ordering::Relaxed), net.dials()), (50, 50));
}

#[tokio::test(start_paused = true)]
async fn ep_10_a_request_that_meets_the_end_is_repeated_if_it_may_be_and_told_apart_if_not() {
    let net = Net::default();
    let processed = closing(&net, 1, true);
    let (source, link) = net.link();
    // Nobody wrote a policy.
    source
        .snapshots
        .publish(one_cluster(&[1], http1(Connections::default())));
    let channel = channel(&link);
    let mut told = 0;
    for n in 0..20 {
        assert_eq!(text(call(&channel, get("/")).await.unwrap()).await, "ok", "call {n}");
        // On a connection whose peer reads it and goes.
        match call(&channel, post("x")).await {
            Ok(response) => assert_eq!(text(response).await, "ok"),
            Err(error) => {
                assert!(
                    error.may_have_been_processed() && error.response_flag() == "UC",
                    "{error}"
                );
                told += 1;
            }
        }
    }
    assert!(told > 0 && processed.load(Ordering::Relaxed) + told == 40, "{told}");
}

fn meshed(
    ca: &TestCa,
    protocol: Protocol,
    alpn: &[&[u8]],
) -> (Net, Arc<rustls::ServerConfig>, mesh_core::Link, impl Sized + use<>) {
    const PAYMENT: &str = "spiffe://cluster.local/ns/default/sa/payment";
    let net = Net::default();
    let clock = Arc::new(DefaultTimeProvider);
    let tls = server_config(&ca.identity(PAYMENT), ClientAuth::Required, clock, alpn).unwrap();
    let mode = TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::exactly([PAYMENT]),
        sni: None,
        ..MutualTls::default()
    });
    let cluster = Cluster {
        connections: Arc::new(Connections {
            protocol,
            ..Connections::default()
        }),
        ..Cluster::new("c", mode, vec![Endpoint::new(address(1))])
    };
    let snapshot = Snapshot::builder()
        .route("t", Route::to(Split::all_to("c")))
        .cluster(cluster);
    let (source, link) = net.link();
    source
        .identity
        .publish(Ok(ca.identity("spiffe://cluster.local/ns/default/sa/checkout")));
    source.snapshots.publish(snapshot.build().unwrap());
    (net, tls, link, source)
}

#[tokio::test]
async fn alpn_decides_where_the_cluster_leaves_it_open() {
    let ca = TestCa::new("cluster.local");
    for alpn in [&[&b"http/1.1"[..]], &[&b"istio-http/1.1"[..]]] {
        let (net, tls, link, _source) = meshed(&ca, Protocol::Negotiated, alpn);
        serve(&net, 1, Some(tls), OK);
        let channel = Channel::<Full<Bytes>>::new(&link, "t");
        for _ in 0..5 {
            assert_eq!(text(call(&channel, get("/")).await.unwrap()).await, "ok");
        }
        assert_eq!(net.dials(), 1);
        // gRPC asks for HTTP/2, which this server does not speak.
        let (code, message) = grpc_status(call(&channel, grpc()).await.unwrap()).await;
        assert_eq!(code, "14", "{message}");
    }
    let (net, tls, link, _source) = meshed(&ca, Protocol::Negotiated, &[b"h2", b"http/1.1"]);
    net.serve_with(
        1,
        h2::server::Builder::new(),
        Some(tls),
        |request, respond| async move {
            assert_eq!(request.version(), http::Version::HTTP_2);
            say_grpc(respond, "0");
        },
    );
    let channel = Channel::<Full<Bytes>>::new(&link, "t");
    for request in [get("/"), grpc(), get("/")] {
        assert!(call(&channel, request).await.unwrap().status().is_success());
    }
    assert_eq!(net.dials(), 1, "both kinds of call share what was agreed");
}

#[tokio::test]
async fn grpc_goes_over_http2_whatever_the_cluster_says() {
    let net = Net::default();
    net.serve(1, |_, respond| async { say_grpc(respond, "0") });
    let (channel, _link) = plain_channel(&net, Connections::default());
    assert_eq!(grpc_status(call(&channel, grpc()).await.unwrap()).await.0, "0");
    let response: Result<_, Error> = call(&channel, grpc()).await;
    assert!(response.is_ok());
}
