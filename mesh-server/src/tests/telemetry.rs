//! What the room counts, over real connections: who called, how it ended, and how much there was of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::HeaderMap;
use http_body::{Body, Frame};
use mesh_core::config::{LocalRateLimit, PermissionTest, RbacAction, Rule, StringMatch, TokenBucket};
use mesh_core::report::Exposition;
use mesh_core::report::standard::{PEER_METADATA, PEER_METADATA_ID, PeerMetadata, Workload};
use mesh_core::testing::TestIssuer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::unbounded_channel;

use super::authorize::{one_rule, open};
use super::*;
use crate::authorize::CheckBody;

/// A sample: its labels, and its value.
type Sample = (BTreeMap<String, String>, f64);

/// The samples of a name, in order.
fn samples(link: &Link, name: &str) -> Vec<Sample> {
    let mut out = Exposition::default();
    link.scrape(Instant::now(), &mut out);
    let of_name = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let labels = series.strip_prefix(name)?.strip_prefix('{')?.strip_suffix('}')?;
        let pairs = labels.split("\",").map(|pair| pair.split_once("=\"").unwrap());
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned()));
        Some((pairs.collect(), value.parse().unwrap()))
    };
    out.text().lines().filter_map(of_name).collect()
}

/// How calls ended, and how many.
fn ends(link: &Link) -> Vec<(String, u64)> {
    let end = |(labels, count): Sample| {
        let of = |name: &str| labels[name].clone();
        let end = [
            of("request_protocol"),
            of("response_code"),
            of("grpc_response_status"),
            of("response_flags"),
        ];
        (end.join(" "), count as u64)
    };
    samples(link, "istio_requests_total").into_iter().map(end).collect()
}

/// Waits until so many calls have ended.
async fn ended(link: &Link, calls: u64) -> Vec<(String, u64)> {
    loop {
        let ends = ends(link);
        if ends.iter().map(|(_, count)| count).sum::<u64>() >= calls {
            return ends;
        }
        tokio::task::yield_now().await;
    }
}

async fn asks(sender: &mut Sender, path: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::get(format!("http://payment.shop.svc.cluster.local:8080{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    let code = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    code
}

#[tokio::test]
async fn who_calls_is_told_by_its_certificate_and_by_its_first_request() {
    let mesh = Mesh::new();
    let label = |key: &str| (key == "version").then_some("v1");
    mesh.link.describe(Workload::labelled("payment-v1", "shop", label));
    let (heard, mut hears) = unbounded_channel();
    let answer = move |request: Request<RequestBody>| {
        heard.send(request.headers().clone()).unwrap();
        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("paid")))) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&mesh.link).layer(service_fn(answer));
    tokio::spawn(serve(listener, &mesh.link, app).into_future());

    // Its namespace is the certificate's to tell, whatever it says of itself.
    let told = PeerMetadata::encode(&Workload::named("checkout-v3", "elsewhere"), None).unwrap();
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    asks(
        &mut sender,
        "/",
        &[(PEER_METADATA, &told), (PEER_METADATA_ID, "sidecar~x")],
    )
    .await;
    asks(&mut sender, "/", &[]).await;
    let late = PeerMetadata::encode(&Workload::named("somebody", "else"), None).unwrap();
    asks(&mut sender, "/", &[(PEER_METADATA, &late)]).await;
    for _ in 0..3 {
        let headers: HeaderMap = hears.recv().await.unwrap();
        assert!(!headers.contains_key(PEER_METADATA) && !headers.contains_key(PEER_METADATA_ID));
    }
    let [(labels, count)] = &samples(&mesh.link, "istio_requests_total")[..] else {
        panic!("one pair and one end");
    };
    assert_eq!(*count, 3.0);
    for (name, value) in [
        ("reporter", "destination"),
        ("source_workload", "checkout-v3"),
        ("source_canonical_service", "checkout-v3"),
        ("source_workload_namespace", "shop"),
        ("source_principal", CLIENT),
        ("source_cluster", "Kubernetes"),
        ("destination_workload", "payment-v1"),
        ("destination_canonical_revision", "v1"),
        ("destination_principal", SERVER),
        ("destination_service", "payment.shop.svc.cluster.local"),
        ("destination_service_name", "payment"),
        ("destination_service_namespace", "shop"),
        ("connection_security_policy", "mutual_tls"),
    ] {
        assert_eq!(labels[name], value, "{name}");
    }
    let [(_, bytes)] = samples(&mesh.link, "istio_response_bytes_sum")[..] else {
        panic!("one pair and one end");
    };
    assert_eq!(bytes, 12.0);
}

/// Who shows no certificate is believed nothing.
#[tokio::test]
async fn a_peer_in_plaintext_is_nobody() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&mesh.link).dangerous().plaintext();
    let app = app.layer(service_fn(|_: Request<RequestBody>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let serving = serve(listener, &mesh.link, app).dangerous().plaintext();
    tokio::spawn(serving.into_future());
    let (mut sender, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let told = PeerMetadata::encode(&Workload::named("admin", "kube-system"), None).unwrap();
    assert_eq!(asks(&mut sender, "/", &[(PEER_METADATA, &told)]).await, 200);
    let [(labels, _)] = &samples(&mesh.link, "istio_requests_total")[..] else {
        panic!("one pair and one end");
    };
    for name in [
        "source_workload",
        "source_workload_namespace",
        "source_principal",
        "destination_principal",
    ] {
        assert_eq!(labels[name], "unknown", "{name}");
    }
    assert_eq!(
        (
            &*labels["connection_security_policy"],
            &*labels["source_canonical_revision"]
        ),
        ("none", "latest")
    );
}

/// What a server is called is a label when a request that says so was served. Who may do nothing makes no series of its own.
#[tokio::test]
async fn fl_what_a_refused_request_calls_the_server_is_no_label() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let secret = Rule::Is(PermissionTest::Path(StringMatch::Exact("/secret".into())));
    let rules = one_rule(RbacAction::Deny, secret, Rule::Always);
    mesh.rules(address, open(rules));
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(address).await.unwrap()))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut ask = async |host: String, path: &str| {
        let request = Request::get(path).header("host", host);
        let response = sender
            .send_request(request.body(Empty::<Bytes>::new()).unwrap())
            .await
            .unwrap();
        let code = response.status().as_u16();
        drop(response.into_body().collect().await.unwrap());
        code
    };
    for number in 0..100 {
        assert_eq!(ask(format!("made-up-{number}.example"), "/secret").await, 403);
    }
    assert_eq!(ask("payment.shop".into(), "/").await, 200);
    // Known by then, and so not by what was made up.
    assert_eq!(ask("payment.shop".into(), "/secret").await, 403);
    let mut services: Vec<_> = samples(&mesh.link, "istio_requests_total")
        .into_iter()
        .map(|(labels, _)| labels["destination_service"].clone())
        .collect();
    services.sort();
    services.dedup();
    assert_eq!(services, ["payment.shop", "unknown"]);
}

#[tokio::test]
async fn what_is_refused_counts_as_its_sender_was_told() {
    let mesh = Mesh::new();
    let bucket = TokenBucket::new(2, 1, std::time::Duration::from_secs(3600)).unwrap();
    let layer = MeshLayer::new(&mesh.link)
        .local_rate_limit("test", LocalRateLimit::new(bucket))
        .unwrap();
    let answer = |request: Request<RequestBody>| async move {
        assert_ne!(request.uri().path(), "/panic", "as it was asked to");
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("paid"))))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, &mesh.link, layer.layer(service_fn(answer))).into_future());
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    assert_eq!(asks(&mut sender, "/panic", &[]).await, 500);
    assert_eq!(asks(&mut sender, "/%00", &[]).await, 400);
    assert_eq!(asks(&mut sender, "/", &[]).await, 200);
    assert_eq!(asks(&mut sender, "/", &[]).await, 429);
    assert_eq!(
        asks(&mut sender, "/", &[("content-type", "application/grpc")]).await,
        200
    );
    let counted = ended(&mesh.link, 5).await;
    let expected = [
        ("http 200  -", 1),
        ("http 400  -", 1),
        ("http 429  RL", 1),
        ("http 500  -", 1),
        ("grpc 200 14 RL", 1),
    ];
    assert_eq!(counted, expected.map(|(end, count)| (end.to_owned(), count)));
}

/// What a policy, a token or an authorizer keeps out is told with Istio's code and Envoy's flag, over HTTP and over gRPC.
#[tokio::test]
async fn who_may_not_is_counted_by_code_and_flag() {
    let (mesh, issuer) = (Mesh::governed(), TestIssuer::new("k1"));
    let authorizer = |request: Request<CheckBody>| async move {
        let status = match request.uri().path() {
            "/denied" => 403,
            "/failing" => return Err("gone".into()),
            _ => 200,
        };
        let answer = Response::builder().status(status).body(Full::<Bytes>::default());
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer.unwrap())
    };
    let layer = MeshLayer::new(&mesh.link).ext_authz("authz.shop:9000", service_fn(authorizer));
    let answer = |_: Request<RequestBody>| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("paid"))) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, &mesh.link, layer.layer(service_fn(answer))).into_future());
    let path = |path: &str| Rule::Is(PermissionTest::Path(StringMatch::Exact(path.into())));
    let denied = one_rule(RbacAction::Deny, path("/policy"), Rule::Always);
    let asked = denied.with_checks(vec![ext_authz::by_http()]).unwrap();
    mesh.rules(address, open(tokens::believes(asked, tokens::provider(&issuer))));

    let (mut sender, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let grpc = [("content-type", "application/grpc")];
    let bad = [("authorization", "Bearer x.y.z")];
    for (path, headers, told) in [
        ("/", &[][..], 200),
        ("/", &bad, 401),
        ("/policy", &[], 403),
        ("/denied", &[], 403),
        ("/failing", &[], 403),
        ("/", &[grpc[0], bad[0]], 200),
        ("/policy", &grpc, 200),
        ("/denied", &grpc, 200),
    ] {
        assert_eq!(asks(&mut sender, path, headers).await, told, "{path}");
    }
    let mut counted = ended(&mesh.link, 8).await;
    counted.sort();
    let expected = [
        ("grpc 200 16 -", 1),
        ("grpc 200 7 -", 1),
        ("grpc 200 7 UAEX", 1),
        ("http 200  -", 1),
        ("http 401  -", 1),
        ("http 403  -", 1),
        ("http 403  UAEX", 2),
    ];
    assert_eq!(counted, expected.map(|(end, count)| (end.to_owned(), count)));
}

/// How many requests were refused at the connection, by reason, where any were.
fn early(link: &Link) -> Vec<(String, u64)> {
    let all = samples(link, "mesh_requests_refused_total").into_iter();
    let reasons = all.map(|(labels, count)| (labels["reason"].clone(), count as u64));
    reasons.filter(|(_, count)| *count > 0).collect()
}

/// What never gets as far as a room of the layer is counted all the same, each once and by its reason.
#[tokio::test(start_paused = true)]
async fn what_is_refused_at_the_connection_is_counted_by_its_reason() {
    let mesh = Mesh::new();
    let (dial, listener) = pipes();
    let stuck = |request: Request<RequestBody>| async move {
        if request.uri().path() == "/stuck" {
            std::future::pending::<()>().await;
        }
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    };
    let app = MeshLayer::new(&mesh.link)
        .dangerous()
        .plaintext()
        .layer(service_fn(stuck));
    let serving = serve(listener, &mesh.link, app).max_requests(1).max_request_body(8);
    tokio::spawn(serving.dangerous().plaintext().into_future());
    assert_eq!(
        samples(&mesh.link, "mesh_requests_refused_total").len(),
        8,
        "all are there from the beginning"
    );
    assert_eq!(early(&mesh.link), []);

    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    for (said, told, reason) in [
        ("GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 400", "malformed"),
        ("GET / HTTP/1.1\r\na b: c\r\n\r\n", "HTTP/1.1 400", "malformed"),
        (
            "POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 413",
            "body_too_large",
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 400",
            "ambiguous_length",
        ),
        (&long, "HTTP/1.1 431", "head_too_large"),
        ("GET / HTTP/1.1\r\nhalf: ", "", "head_too_slow"),
    ] {
        let before = early(&mesh.link);
        let (mut answers, mut asks) = tokio::io::split(dial.connect());
        let mut answer = Vec::new();
        // What is too long is not read to its end.
        let (_, _) = tokio::join!(asks.write_all(said.as_bytes()), async {
            let mut some = [0; 16];
            let read = answers.read(&mut some).await.unwrap_or(0);
            answer.extend_from_slice(&some[..read]);
        });
        assert!(
            answer.starts_with(told.as_bytes()),
            "{reason}: {:?}",
            String::from_utf8_lossy(&answer)
        );
        drop((answers, asks));
        let mut expected: BTreeMap<_, _> = before.into_iter().collect();
        *expected.entry(reason.to_owned()).or_default() += 1;
        let expected: Vec<_> = expected.into_iter().collect();
        while early(&mesh.link) != expected {
            assert!(
                early(&mesh.link).iter().map(|(_, count)| count).sum::<u64>()
                    <= expected.iter().map(|(_, count)| count).sum(),
                "{reason}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    let (mut sender, _connection) = h2(dial.connect()).await.unwrap();
    let mut first = Box::pin(asks(&mut sender, "/stuck", &[]));
    std::future::poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
    let (mut other, _other) = h2(dial.connect()).await.unwrap();
    while early(&mesh.link).iter().all(|(reason, _)| reason != "overloaded") {
        // Served until the first has come.
        let _ = get(&mut other).await;
        let _ = tokio::time::timeout(std::time::Duration::from_millis(1), &mut first).await;
    }
    let received = mesh.link.tally().get("request_refused", "overloaded");
    assert_eq!(received, 1);
}

/// The beginning of a body, which breaks off or goes on for ever.
struct Part {
    sent: bool,
    breaks: bool,
}

impl Body for Part {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match (std::mem::replace(&mut self.sent, true), self.breaks) {
            (false, _) => Poll::Ready(Some(Ok(Frame::data(Bytes::from("some"))))),
            (true, true) => Poll::Ready(Some(Err(io::Error::other("broken")))),
            (true, false) => Poll::Pending,
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_and_one_that_is_given_up_are_told_apart() {
    let mesh = Mesh::new();
    let answer = |request: Request<RequestBody>| async move {
        let breaks = match request.uri().path() {
            "/never" => std::future::pending().await,
            path => path == "/breaks",
        };
        Ok::<_, Infallible>(Response::new(Part { sent: false, breaks }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&mesh.link).layer(service_fn(answer));
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    let mut send = |path: &str| {
        let request = Request::get(format!("http://payment.shop{path}"))
            .body(Empty::new())
            .unwrap();
        sender.send_request(request)
    };
    // Its reset may overtake its head.
    if let Ok(response) = send("/breaks").await {
        response.into_body().collect().await.unwrap_err();
    }
    ended(&mesh.link, 1).await;
    let mut given_up = send("/stream").await.unwrap().into_body();
    given_up.frame().await.unwrap().unwrap();
    drop(given_up);
    ended(&mesh.link, 2).await;
    let mut never = Box::pin(send("/never"));
    // It was sent once the next was answered.
    std::future::poll_fn(|cx| Poll::Ready(never.as_mut().poll(cx).is_pending())).await;
    drop(send("/stream").await.unwrap());
    drop(never);
    ended(&mesh.link, 4).await;
    let late = asks(&mut sender, "/never", &[("x-envoy-expected-rq-timeout-ms", "5")]).await;
    assert_eq!(late, 504);
    let counted = ended(&mesh.link, 5).await;
    let expected = [
        ("http 0  DC", 1),
        ("http 200  UR", 1),
        ("http 200  DC", 2),
        ("http 504  UT", 1),
    ];
    let mut expected = expected.map(|(end, count)| (end.to_owned(), count)).to_vec();
    expected.sort();
    let mut counted = counted;
    counted.sort();
    assert_eq!(counted, expected);
}

/// A body of gRPC messages, cut into frames that are not theirs.
struct Messages(Vec<Bytes>);

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready((!self.0.is_empty()).then(|| Ok(Frame::data(self.0.remove(0)))))
    }
}

#[tokio::test]
async fn messages_and_bytes_are_counted_in_both_directions() {
    let mesh = Mesh::new();
    let answer = |request: Request<RequestBody>| async move {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())]);
        let received = request
            .into_body()
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes();
        let body = Full::new(received).with_trailers(std::future::ready(Some(Ok(trailers))));
        Ok::<_, io::Error>(
            Response::builder()
                .header("content-type", "application/grpc")
                .body(body)
                .unwrap(),
        )
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&mesh.link).layer(service_fn(answer));
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    let io = connect(address, mesh.client()).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    // Two messages, of three bytes and of none, in three frames.
    let frames: Vec<Bytes> = ["\0\0\0", "\0\x03ab", "c\0\0\0\0\0"].map(Bytes::from).to_vec();
    let request = Request::post("http://payment.shop/a.B/C")
        .header("content-type", "application/grpc")
        .body(Messages(frames))
        .unwrap();
    let answer = sender
        .send_request(request)
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(answer.to_bytes().len(), 13);
    assert_eq!(ended(&mesh.link, 1).await, [("grpc 200 5 -".to_owned(), 1)]);
    for (name, value) in [
        ("istio_request_bytes_sum", 13.0),
        ("istio_response_bytes_sum", 13.0),
        ("istio_request_messages_total", 2.0),
        ("istio_response_messages_total", 2.0),
    ] {
        let values: Vec<f64> = samples(&mesh.link, name).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [value], "{name}");
    }
}
