//! Rate limits on real requests: who is told what, when a token comes again, and that a push gives none.

use std::time::Duration;

use http::StatusCode;
use mesh_core::config::{
    AppendAction, Authorization, DescribeBy, Describing, DescriptorEntry, FilterChain, HeaderEdit, HeaderEdits,
    HeaderFormat, LimitFilter, LocalDescriptor, LocalRateLimit, PermissionTest, PrincipalTest, RateLimits, RbacAction,
    Rule, StringMatch, TokenBucket,
};

use tower::Service;

use super::authorize::{one_rule, open};
use super::*;

fn bucket(max: u32) -> TokenBucket {
    TokenBucket::new(max, max.max(1), Duration::from_secs(3600)).unwrap()
}

fn limited(limit: LocalRateLimit) -> FilterChain {
    FilterChain {
        limits: Arc::new(RateLimits::of(limit).unwrap()),
        ..open(Authorization::default())
    }
}

/// The status and the headers of an answer.
async fn ask(sender: &mut Sender, content_type: &str) -> (u16, http::HeaderMap) {
    let request = Request::post("http://payment.shop/pay")
        .header("content-type", content_type)
        .body(Empty::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    body.collect().await.unwrap();
    (parts.status.as_u16(), parts.headers)
}

#[tokio::test]
async fn who_comes_too_often_is_told_so_in_its_own_words() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let header = |name: &str, value: &str| {
        let value = HeaderFormat::parse(value).unwrap();
        HeaderEdit::new(name.parse().unwrap(), value, AppendAction::OverwriteIfExistsOrAdd).unwrap()
    };
    let limit = LocalRateLimit {
        quota_headers: true,
        response_headers: HeaderEdits {
            remove: Vec::new(),
            add: vec![header("x-local-rate-limit", "true")],
        },
        ..LocalRateLimit::new(bucket(2))
    };
    mesh.rules(address, limited(limit.clone()));
    let (mut sender, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let (status, headers) = ask(&mut sender, "text/plain").await;
    assert_eq!(
        (status, &headers["x-ratelimit-limit"], &headers["x-ratelimit-remaining"]),
        (200, &"2".parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(ask(&mut sender, "text/plain").await.0, 200);
    let (status, headers) = ask(&mut sender, "text/plain").await;
    assert_eq!(status, 429);
    for (name, value) in [
        ("x-envoy-ratelimited", "true"),
        ("x-local-rate-limit", "true"),
        ("x-ratelimit-remaining", "0"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    // gRPC's word, by default and where another is asked for.
    let (status, headers) = ask(&mut sender, "application/grpc").await;
    assert_eq!(
        (status, &headers["grpc-status"], &headers["grpc-message"]),
        (200, &"14".parse().unwrap(), &"local_rate_limited".parse().unwrap())
    );
    let exhausted = LocalRateLimit {
        resource_exhausted: true,
        status: StatusCode::SERVICE_UNAVAILABLE,
        ..limit
    };
    // Another configuration of the same bucket: it is as empty as it was, on connections old and new.
    mesh.rules(address, limited(exhausted));
    let (mut other, _other) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    for sender in [&mut sender, &mut other] {
        let (status, headers) = ask(sender, "application/grpc").await;
        assert_eq!((status, &headers["grpc-status"]), (200, &"8".parse().unwrap()));
        assert_eq!(ask(sender, "text/plain").await.0, 503);
    }
    assert_eq!(
        (handler.calls(), mesh.link.tally().get("rate_limited", "local")),
        (2, 6)
    );
    // Nobody is limited any more.
    mesh.rules(address, open(Authorization::default()));
    assert_eq!(ask(&mut sender, "text/plain").await.0, 200);
}

/// A limit before the guards is spent by whoever comes; one behind them by who may call.
#[tokio::test]
async fn where_a_limit_stands_says_whose_requests_it_counts() {
    for (after_guards, left) in [(false, 429), (true, 200)] {
        let (mesh, handler) = (Mesh::governed(), Handler::default());
        let (address, _server) = handler.listen(&mesh.link).await;
        let path = PermissionTest::Path(StringMatch::Exact("/pay".into()));
        let denied = one_rule(
            RbacAction::Deny,
            Rule::Is(path),
            Rule::Is(PrincipalTest::Peer(None)).negated(),
        );
        let filter = LimitFilter {
            name: "local".into(),
            limit: Some(Arc::new(LocalRateLimit::new(bucket(3)))),
            after_guards,
        };
        let chain = FilterChain {
            limits: Arc::new(RateLimits::new(vec![filter], Vec::new()).unwrap()),
            ..open(denied)
        };
        mesh.rules(address, chain);
        let (mut sender, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&mut sender, "text/plain").await.0, 403);
        }
        assert_eq!(get(&mut sender).await.unwrap().0, left, "{after_guards}");
    }
}

/// Each caller has its own bucket where a descriptor says so, and each connection where that is asked for.
#[tokio::test]
async fn callers_and_connections_may_have_buckets_of_their_own() {
    let by_tier = LocalRateLimit {
        bucket: None,
        descriptors: vec![LocalDescriptor {
            entries: vec![DescriptorEntry::new("type", "")],
            bucket: bucket(1),
            shadow: false,
        }],
        describing: vec![Describing {
            stage: 0,
            by: vec![DescribeBy::Header {
                subject: http::header::CONTENT_TYPE.into(),
                key: "type".into(),
                skip_if_absent: false,
            }],
        }],
        ..LocalRateLimit::new(bucket(1))
    };
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    mesh.rules(address, limited(by_tier));
    let (mut sender, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    for (content_type, status) in [("a/a", 200), ("a/a", 429), ("b/b", 200), ("b/b", 429), ("a/a", 429)] {
        assert_eq!(ask(&mut sender, content_type).await.0, status, "{content_type}");
    }
    let each = LocalRateLimit {
        per_connection: true,
        ..LocalRateLimit::new(bucket(1))
    };
    mesh.rules(address, limited(each));
    let (mut other, _other) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    for (sender, status) in [(&mut sender, 200), (&mut other, 200)] {
        assert_eq!(ask(sender, "a/a").await.0, status);
        assert_eq!(ask(sender, "a/a").await.0, 429);
    }
}

/// What code asks for holds where nobody configures anything, and a token comes with time.
#[tokio::test(start_paused = true)]
async fn code_limits_a_server_that_nobody_configures() {
    let (_, link) = Link::new(Parts::default());
    let (dial, listener) = pipes();
    let second = TokenBucket::new(1, 1, Duration::from_secs(1)).unwrap();
    let layer = MeshLayer::new(&link)
        .local_rate_limit("test", LocalRateLimit::new(second))
        .unwrap();
    let app = layer.dangerous().plaintext().layer(axum::Router::<()>::new());
    tokio::spawn(serve(listener, &link, app).dangerous().plaintext().into_future());
    let (mut sender, _connection) = h2(dial.connect()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(get(&mut sender).await.unwrap(), (404, Bytes::new()));
        assert_eq!(get(&mut sender).await.unwrap(), (429, "local_rate_limited".into()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A rate limit service on tonic's own loop: three requests of a caller are within its limit, and it says what is left; one who calls
/// itself `slow` has no answer.
async fn rate_limit_service() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let answer = move |request: Request<axum::body::Body>| {
        let count = Arc::clone(&count);
        async move {
            let path = request.uri().path().to_owned();
            assert_eq!(path, "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
            let question = request.into_body().collect().await.unwrap().to_bytes();
            let says = |text: &[u8]| question.windows(text.len()).any(|part| part == text);
            assert!(says(b"shop") && says(b"user"));
            if says(b"slow") {
                std::future::pending::<()>().await;
            }
            let number = count.fetch_add(1, Ordering::Relaxed);
            let (code, left) = if number < 3 { (1, 2 - number as u8) } else { (2, 0) };
            // A status with 3 per second, and a header for the answer.
            let status = [0x08, code, 0x12, 4, 0x08, 3, 0x10, 1, 0x18, left];
            let header = b"\x0a\x05x-rls\x12\x02ok";
            let mut message = vec![0x08, code, 0x12, status.len() as u8];
            message.extend(status);
            message.extend([0x1a, header.len() as u8]);
            message.extend(header);
            let mut body = vec![0, 0, 0, 0, message.len() as u8];
            body.extend(message);
            let trailers =
                http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())]);
            let body = Full::new(Bytes::from(body)).with_trailers(std::future::ready(Some(Ok(trailers))));
            Response::builder()
                .header("content-type", "application/grpc")
                .body(axum::body::Body::new(body))
                .unwrap()
        }
    };
    let routes = tonic::service::Routes::from(axum::Router::new().fallback(answer));
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_routes(routes)
            .serve_with_incoming(incoming),
    );
    (address, asked)
}

/// How a server asks: over tonic's own channel.
fn by_tonic(
    address: SocketAddr,
) -> impl Service<
    Request<crate::limit::QuestionBody>,
    Response = Response<tonic::body::Body>,
    Error = tower::BoxError,
    Future: Send,
> + Clone
+ Send
+ Sync {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let ask = move |request: Request<crate::limit::QuestionBody>| {
        let channel = channel.clone();
        async move {
            let request = request.map(tonic::body::Body::new);
            channel.oneshot(request).await.map_err(tower::BoxError::from)
        }
    };
    service_fn(ask)
}

#[tokio::test]
async fn a_rate_limit_service_is_asked_and_obeyed() {
    use mesh_core::config::{GlobalFilter, GlobalRateLimit};
    let (service, asked) = rate_limit_service().await;
    let mesh = Mesh::governed();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let layer = MeshLayer::new(&mesh.link).rate_limit_services(move |name| match name {
        "down" => by_tonic(nobody),
        _ => by_tonic(service),
    });
    tokio::spawn(serve(listener, &mesh.link, layer.layer(axum::Router::<()>::new())).into_future());
    let limit = |name: &str| GlobalRateLimit {
        describing: vec![Describing {
            stage: 0,
            by: vec![DescribeBy::Header {
                subject: http::HeaderName::from_static("user").into(),
                key: "user".into(),
                skip_if_absent: false,
            }],
        }],
        // Long enough for a busy machine, where nothing is slow on purpose.
        timeout: Duration::from_secs(20),
        quota_headers: true,
        ..GlobalRateLimit::new("shop", name)
    };
    let rules = |limit: GlobalRateLimit| {
        let filter = GlobalFilter {
            name: "global".into(),
            limit: Some(Arc::new(limit)),
            after_guards: true,
        };
        let limits = RateLimits::default().with_global(vec![filter]).unwrap();
        let chain = FilterChain {
            limits: Arc::new(limits),
            ..open(Authorization::default())
        };
        mesh.rules(address, chain);
    };
    let (sender, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let ask = |user: Option<&'static str>| {
        let mut sender = sender.clone();
        async move {
            let mut request = Request::get("http://payment.shop/");
            if let Some(user) = user {
                request = request.header("user", user);
            }
            let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
            (response.status().as_u16(), response.headers().clone())
        }
    };
    rules(limit("up"));
    for left in ["2", "1", "0"] {
        let (status, headers) = ask(Some("a")).await;
        assert_eq!(
            (status, &headers["x-rls"], &headers["x-ratelimit-remaining"]),
            (404, &"ok".parse().unwrap(), &left.parse().unwrap())
        );
    }
    let (status, headers) = ask(Some("a")).await;
    assert_eq!(
        (
            status,
            headers["x-envoy-ratelimited"].to_str().unwrap(),
            headers["x-rls"].to_str().unwrap()
        ),
        (429, "true", "ok")
    );
    // What is described by nothing is nobody's to limit.
    assert_eq!((ask(None).await.0, asked.load(Ordering::Relaxed)), (404, 4));
    // No answer in time, and nobody there: it passes, or not, as the configuration says.
    for (name, user, timeout) in [
        ("up", "slow", GlobalRateLimit::DEFAULT_TIMEOUT),
        ("down", "a", Duration::from_secs(20)),
    ] {
        for (deny_on_failure, status) in [(false, 404), (true, 500)] {
            rules(GlobalRateLimit {
                timeout,
                deny_on_failure,
                ..limit(name)
            });
            assert_eq!(ask(Some(user)).await.0, status, "{name} {deny_on_failure}");
        }
    }
    let tally = mesh.link.tally();
    assert_eq!(
        (
            tally.get("rate_limited", "global"),
            tally.get("rate_limited", "unanswered")
        ),
        (1, 4)
    );
}
