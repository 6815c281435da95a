//! Authorizers outside of the process: what they change, and what becomes of requests when they are slow, down, failing or mad.

use std::future::{pending, ready};
use std::sync::Mutex;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use mesh_core::config::{
    AskedAbout, Authorization, CheckReplaced, CheckService, CheckSettings, Domain, ExtAuthz, GrpcCheck, HostRules,
    HttpCheck, OnFailure, RbacAction, Rule, SentHeaders, StringMatch,
};
use mesh_core::ext_authz::MAX_ANSWER_BYTES;

use super::authorize::{one_rule, open};
use super::*;
use crate::authorize::CheckBody;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Answering = Response<UnsyncBoxBody<Bytes, Infallible>>;

const TARGET: &str = "authz.shop:9000";

/// One that is asked about everything, as Istio would have it.
fn asks(service: CheckService) -> ExtAuthz {
    ExtAuthz {
        name: "ext_authz".into(),
        after: 0,
        disabled: false,
        about: AskedAbout::Everything,
        cluster: "outbound|9000||authz.shop".into(),
        service,
        timeout: Duration::from_millis(50),
        on_failure: OnFailure::default(),
        body: None,
        headers: SentHeaders::default(),
        server_name: false,
        claims: false,
        max_denied_body: ExtAuthz::MAX_DENIED_BODY_BYTES,
    }
}

pub(super) fn by_http() -> ExtAuthz {
    asks(CheckService::Http(Box::default()))
}

fn by_grpc() -> ExtAuthz {
    asks(CheckService::Grpc(GrpcCheck::default()))
}

/// A server of the mesh whose handler tells what it saw, and what its authorizer was asked.
struct Server {
    mesh: Mesh,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(Uri, HeaderMap)>>>,
}

impl Server {
    /// One whose authorizer is `authorizer`.
    async fn new<F, A>(authorizer: F) -> Self
    where
        F: Fn(Request<CheckBody>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<Answering, Failure>> + Send + 'static,
    {
        Self::with(|layer| layer.ext_authz(TARGET, service_fn(authorizer))).await
    }

    async fn with(make: impl FnOnce(MeshLayer) -> MeshLayer) -> Self {
        let (mesh, seen) = (Mesh::governed(), Arc::<Mutex<Vec<_>>>::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let note = Arc::clone(&seen);
        let app = make(MeshLayer::new(&mesh.link)).layer(service_fn(move |request: Request<RequestBody>| {
            note.lock()
                .unwrap()
                .push((request.uri().clone(), request.headers().clone()));
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("handled"))))
        }));
        tokio::spawn(serve(listener, &mesh.link, app).into_future());
        Self { mesh, address, seen }
    }

    fn rules(&self, authorization: Authorization, check: ExtAuthz) {
        let authorization = authorization.with_checks(vec![check]).unwrap();
        self.mesh.rules(self.address, open(authorization));
    }

    async fn ask(&self, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
        tokens::ask(self.address, "/pay?x=1", headers).await.into_text()
    }

    /// Another caller, by its address: whoever shows no identity is known by that.
    async fn ask_from(&self, source: &str, headers: &[(&str, &str)]) -> u16 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        let io = socket.connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get("/pay?x=1").header("host", "payment.shop");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    }

    fn handled(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn counted(&self, event: &'static str, reason: &'static str) -> u64 {
        self.mesh.link.tally().get(event, reason)
    }
}

trait IntoText {
    fn into_text(self) -> (u16, HeaderMap, String);
}

impl IntoText for Response<Bytes> {
    fn into_text(self) -> (u16, HeaderMap, String) {
        let (parts, body) = self.into_parts();
        (
            parts.status.as_u16(),
            parts.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> Answering {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response
            .headers_mut()
            .append(*name, HeaderValue::from_str(value).unwrap());
    }
    response
}

/// A `CheckResponse` as bytes: tag and length by hand, so that nothing of what reads it writes it.
fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2, u8::try_from(value.len()).unwrap()];
    out.extend_from_slice(value);
    out
}

fn grpc(message: &[u8]) -> Answering {
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    framed.extend_from_slice(message);
    answer(
        200,
        &[("content-type", "application/grpc"), ("grpc-status", "0")],
        framed,
    )
}

#[tokio::test]
async fn by_http_a_yes_changes_the_request_and_a_no_is_told_in_its_own_words() {
    let asked = Arc::<Mutex<Vec<Request<()>>>>::default();
    let note = Arc::clone(&asked);
    let server = Server::new(move |request: Request<CheckBody>| {
        let may = request
            .headers()
            .get("authorization")
            .is_some_and(|value| value == "Bearer good");
        let (parts, _) = request.into_parts();
        note.lock().unwrap().push(Request::from_parts(parts, ()));
        ready(Ok(match may {
            true => answer(200, &[("x-user", "alice"), ("x-seen", "1"), ("x-other", "2")], ""),
            false => answer(
                302,
                &[("location", "https://login.test"), ("x-why", "unknown")],
                "log in",
            ),
        }))
    })
    .await;
    let check = HttpCheck {
        path_prefix: "/check".into(),
        upstream: vec![StringMatch::Exact("x-user".into())],
        client_on_allow: vec![StringMatch::Prefix("x-see".into())],
        client_on_deny: Some(Vec::new()),
        ..HttpCheck::default()
    };
    let check = ExtAuthz {
        service: CheckService::Http(Box::new(check)),
        timeout: Duration::from_secs(10),
        ..by_http()
    };
    server.rules(Authorization::default(), check);
    let (status, headers, body) = server
        .ask(&[
            ("authorization", "Bearer good"),
            ("x-user", "forged"),
            ("x-secret", "s"),
        ])
        .await;
    assert_eq!((status, &*body), (200, "handled"));
    assert!(headers["x-seen"] == "1" && !headers.contains_key("x-other"));
    let (uri, handled) = server.seen.lock().unwrap().pop().unwrap();
    assert_eq!(
        (uri.path(), &handled["x-user"]),
        ("/pay", &HeaderValue::from_static("alice"))
    );
    let question = asked.lock().unwrap().pop().unwrap();
    assert_eq!(question.uri(), "http://authz.shop:9000/check/pay?x=1");
    assert_eq!(question.headers()["x-forwarded-host"], "payment.shop");
    assert!(!question.headers().contains_key("x-secret") && !question.headers().contains_key("x-user"));

    let (status, headers, body) = server.ask(&[]).await;
    assert_eq!((status, &*body, server.handled()), (302, "log in", 0));
    assert_eq!(headers["location"], "https://login.test");
    assert!(!headers.contains_key("x-why"));
    // A caller that speaks gRPC is told by status.
    let (status, headers, body) = server.ask(&[("content-type", "application/grpc")]).await;
    assert_eq!((status, &*body), (200, ""));
    assert_eq!(
        (&headers["grpc-status"], &headers["grpc-message"]),
        (&HeaderValue::from_static("2"), &HeaderValue::from_static("log in"))
    );
    assert_eq!(server.counted("ext_authz_allowed", "http"), 1);
    assert_eq!(
        (
            server.counted("ext_authz_denied", "http"),
            server.counted("authorization_denied", "ext_authz")
        ),
        (2, 2)
    );
}

#[tokio::test]
async fn custom_is_asked_before_what_denies_and_what_allows() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let server = Server::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        ready(Ok(answer(200, &[], "")))
    })
    .await;
    // It says yes, and the policies behind it still no.
    server.rules(one_rule(RbacAction::Deny, Rule::Always, Rule::Always), by_http());
    assert_eq!(server.ask(&[]).await.0, 403);
    assert_eq!((calls.load(Ordering::Relaxed), server.handled()), (1, 0));
    // Only about what its own rules match.
    let rules = one_rule(RbacAction::Deny, Rule::never(), Rule::Always);
    let never = AskedAbout::Matched(rules.request()[0].rules.enforced.clone().unwrap().policies);
    let check = ExtAuthz {
        about: never,
        ..by_http()
    };
    server.rules(Authorization::default(), check);
    assert_eq!((server.ask(&[]).await.0, calls.load(Ordering::Relaxed)), (200, 1));
    // A route that does not have it asked.
    let quiet = HostRules {
        domains: vec![Domain::Any],
        replaced: Vec::new(),
        checks: vec![CheckReplaced {
            filter: "ext_authz".into(),
            with: CheckSettings {
                disabled: true,
                ..CheckSettings::default()
            },
        }],
        routes: Vec::new(),
    };
    server.rules(
        Authorization::new(Vec::new(), Vec::new(), vec![quiet]).unwrap(),
        by_http(),
    );
    assert_eq!((server.ask(&[]).await.0, calls.load(Ordering::Relaxed)), (200, 1));
}

/// Whatever an authorizer does but answer: nothing passes, by the status that is configured, and it is counted by what happened.
#[tokio::test]
async fn az_11_an_authorizer_that_is_slow_down_failing_or_mad_denies() {
    type Mad = fn() -> std::pin::Pin<Box<dyn Future<Output = Result<Answering, Failure>> + Send>>;
    let http: [(&'static str, Mad); 5] = [
        ("timed_out", || Box::pin(pending())),
        ("unreachable", || Box::pin(ready(Err("connection refused".into())))),
        ("failed", || Box::pin(ready(Ok(answer(500, &[], ""))))),
        ("malformed", || {
            Box::pin(ready(Ok(answer(200, &[], vec![b'x'; MAX_ANSWER_BYTES + 1]))))
        }),
        ("malformed", || {
            let many = [("x-a", "x"); mesh_core::ext_authz::MAX_ANSWER_HEADERS + 1];
            Box::pin(ready(Ok(answer(200, &many, ""))))
        }),
    ];
    let grpc_ones: [(&'static str, Mad); 9] = [
        ("timed_out", || Box::pin(pending())),
        ("failed", || Box::pin(ready(Ok(answer(503, &[], ""))))),
        ("failed", || {
            Box::pin(ready(Ok(answer(200, &[("grpc-status", "14")], ""))))
        }),
        // No status at all, nothing said, half a message, two, no protobuf, and a yes with the edits of a no.
        ("malformed", || {
            Box::pin(ready(Ok(answer(200, &[], &b"\0\0\0\0\x02\x0a\0"[..]))))
        }),
        ("malformed", || Box::pin(ready(Ok(grpc(b""))))),
        ("malformed", || {
            Box::pin(ready(Ok(answer(
                200,
                &[("grpc-status", "0")],
                &b"\0\0\0\0\x09\x0a"[..],
            ))))
        }),
        ("malformed", || {
            Box::pin(ready(Ok(answer(
                200,
                &[("grpc-status", "0")],
                &b"\0\0\0\0\0\0\0\0\0\0"[..],
            ))))
        }),
        ("malformed", || Box::pin(ready(Ok(grpc(b"\xff\xff\xff"))))),
        ("malformed", || {
            Box::pin(ready(Ok(grpc(&[field(1, b""), field(2, b"")].concat()))))
        }),
    ];
    let cases = http
        .map(|case| (by_http(), case))
        .into_iter()
        .chain(grpc_ones.map(|case| (by_grpc(), case)));
    for (check, (reason, mad)) in cases {
        let server = Server::new(move |_| mad()).await;
        server.rules(Authorization::default(), check.clone());
        let (status, _, body) = server.ask(&[]).await;
        assert_eq!((status, &*body, server.handled()), (403, "", 0), "{reason}");
        assert_eq!(server.counted("ext_authz_failed", reason), 1, "{reason}");
        assert_eq!(
            server.counted("authorization_denied", "ext_authz_failed"),
            1,
            "{reason}"
        );
        // By the status that is configured; and where the configuration says so, it passes and is counted as that.
        let mut check = check;
        check.on_failure.status = StatusCode::SERVICE_UNAVAILABLE;
        server.rules(Authorization::default(), check.clone());
        assert_eq!(server.ask(&[]).await.0, 503, "{reason}");
        check.on_failure.allow = true;
        check.on_failure.tell = true;
        server.rules(Authorization::default(), check);
        assert_eq!(server.ask(&[]).await.0, 200, "{reason}");
        assert_eq!(server.counted("ext_authz_failed_open", reason), 1, "{reason}");
        let (_, headers) = server.seen.lock().unwrap().pop().unwrap();
        assert_eq!(headers["x-envoy-auth-failure-mode-allowed"], "true");
    }
}

#[tokio::test]
async fn az_11_nobody_to_ask_denies_also_where_failures_pass() {
    let server = Server::with(|layer| layer).await;
    let mut check = by_http();
    check.on_failure.allow = true;
    server.rules(Authorization::default(), check.clone());
    assert_eq!((server.ask(&[]).await.0, server.handled()), (403, 0));
    assert_eq!(server.counted("ext_authz_failed", "no_authorizer"), 1);
    // Nor does a body that nothing has read.
    let server = Server::new(|_| ready(Ok(answer(200, &[], "")))).await;
    check.body = Some(mesh_core::config::CheckBody {
        max_bytes: 8,
        allow_partial: true,
        as_bytes: false,
    });
    server.rules(Authorization::default(), check);
    assert_eq!((server.ask(&[]).await.0, server.handled()), (403, 0));
    assert_eq!(server.counted("ext_authz_failed", "body_not_read"), 1);
}

#[tokio::test]
async fn az_11_an_authorizer_that_fails_again_and_again_is_not_asked_for_a_while() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let server = Server::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        ready(Err::<Answering, Failure>("gone".into()))
    })
    .await;
    server.rules(Authorization::default(), by_http());
    for _ in 0..4 {
        assert_eq!(server.ask(&[]).await.0, 403);
    }
    // Another caller meets the same.
    assert_eq!(server.ask_from("127.0.0.2", &[]).await, 403);
    assert_eq!(
        (
            calls.load(Ordering::Relaxed),
            server.counted("ext_authz_failed", "unreachable")
        ),
        (5, 5)
    );
    assert_eq!(server.ask(&[]).await.0, 403);
    let open = server.counted("ext_authz_failed", "circuit_open");
    // A new configuration does not forget it.
    server.rules(
        Authorization::default(),
        ExtAuthz {
            disabled: false,
            timeout: Duration::from_secs(1),
            ..by_http()
        },
    );
    assert_eq!(server.ask(&[]).await.0, 403);
    assert!(open + server.counted("ext_authz_failed", "circuit_open") >= 1);
    assert_eq!(server.handled(), 0);
}

/// One caller can make an authorizer fail at its own requests. That opens nothing to anybody else, also where failures pass: who is not asked
/// about was not let pass.
#[tokio::test]
async fn az_11_one_who_makes_an_authorizer_fail_opens_no_door_to_others() {
    let server = Server::new(move |request: Request<CheckBody>| {
        let status = match request.headers().get("x-do").map(HeaderValue::as_bytes) {
            Some(b"boom") => 500,
            Some(b"gone") => return ready(Err::<Answering, Failure>("gone".into())),
            _ => 403,
        };
        ready(Ok(answer(status, &[], "")))
    })
    .await;
    let mut check = by_http();
    check.on_failure.allow = true;
    check.headers.allowed = Some(vec![StringMatch::Exact("x-do".into())]);
    server.rules(Authorization::default(), check);
    // It passes alone, as in Envoy.
    for _ in 0..20 {
        assert_eq!(server.ask(&[("x-do", "boom")]).await.0, 200);
    }
    assert_eq!(server.ask(&[]).await.0, 403, "the authorizer's own no");
    assert_eq!(server.counted("ext_authz_denied", "http"), 1);
    // Nor does one caller keep others from being asked about, however often what it sends breaks or is too slow.
    for _ in 0..20 {
        server.ask(&[("x-do", "gone")]).await;
    }
    assert_eq!(server.ask_from("127.0.0.2", &[]).await, 403);
    assert_eq!(
        server.counted("ext_authz_denied", "http"),
        2,
        "asked about, and answered"
    );
    assert_eq!(server.counted("ext_authz_failed", "circuit_open"), 0);
    // One that is not there for several is not asked for a while, and nobody passes by that.
    for _ in 0..4 {
        server.ask(&[("x-do", "gone")]).await;
    }
    server.ask_from("127.0.0.2", &[("x-do", "gone")]).await;
    let handled = server.handled();
    assert_eq!((server.ask(&[]).await.0, server.handled()), (403, handled));
    assert_eq!(server.counted("ext_authz_failed", "circuit_open"), 1);
}

#[tokio::test]
async fn by_grpc_the_question_says_who_calls_and_the_answer_is_obeyed() {
    let asked = Arc::<Mutex<Vec<(Uri, HeaderMap, Bytes)>>>::default();
    let note = Arc::clone(&asked);
    let server = Server::new(move |request: Request<CheckBody>| {
        let note = Arc::clone(&note);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            note.lock().unwrap().push((parts.uri, parts.headers, body));
            // OkHttpResponse with one header, {key: "x-user", value: "alice"}.
            let header = [field(1, b"x-user"), field(2, b"alice")].concat();
            let ok = field(2, &field(1, &header));
            Ok(grpc(&[field(1, b""), field(3, &ok)].concat()))
        }
    })
    .await;
    let metadata = vec![(http::HeaderName::from_static("x-key"), HeaderValue::from_static("k"))];
    let check = GrpcCheck {
        authority: "outbound_.9000_._.authz.shop".into(),
        metadata,
    };
    let check = ExtAuthz {
        service: CheckService::Grpc(check),
        timeout: Duration::from_secs(10),
        ..by_grpc()
    };
    server.rules(Authorization::default(), check);
    assert_eq!(server.ask(&[("x-user", "forged")]).await.0, 200);
    assert_eq!(server.seen.lock().unwrap().pop().unwrap().1["x-user"], "alice");
    let (uri, headers, body) = asked.lock().unwrap().pop().unwrap();
    assert_eq!(uri, "http://authz.shop:9000/envoy.service.auth.v3.Authorization/Check");
    assert_eq!(
        (&headers[CONTENT_TYPE], &headers["x-key"]),
        (
            &HeaderValue::from_static("application/grpc"),
            &HeaderValue::from_static("k")
        )
    );
    assert_eq!(headers["grpc-timeout"], "10000m");
    let has = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
    for text in ["GET", "/pay?x=1", "payment.shop", "HTTP/1.1", "127.0.0.1", SERVER] {
        assert!(has(text), "{text}");
    }
}

#[tokio::test]
async fn a_body_is_shown_as_far_as_it_may_be_and_reaches_the_handler_whole() {
    let asked = Arc::<Mutex<Vec<(Option<HeaderValue>, Bytes)>>>::default();
    let note = Arc::clone(&asked);
    let authorizer = service_fn(move |request: Request<CheckBody>| {
        let note = Arc::clone(&note);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            note.lock()
                .unwrap()
                .push((parts.headers.get("x-envoy-auth-partial-body").cloned(), body));
            Ok::<_, Failure>(answer(200, &[], ""))
        }
    });
    let mesh = Mesh::governed();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let layer = MeshLayer::new(&mesh.link).ext_authz(TARGET, authorizer).show_bodies();
    let app = layer.layer(service_fn(
        |request: Request<crate::show_body::ShownBody<RequestBody>>| async {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(body)))
        },
    ));
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    let send = |body: &'static str| async move {
        let io = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("/pay")
            .header("host", "a")
            .body(Full::<Bytes>::from(body))
            .unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        (parts.status.as_u16(), body.collect().await.unwrap().to_bytes())
    };
    let rules = |allow_partial| {
        let check = ExtAuthz {
            body: Some(mesh_core::config::CheckBody {
                max_bytes: 8,
                allow_partial,
                as_bytes: false,
            }),
            timeout: Duration::from_secs(10),
            ..by_http()
        };
        let authorization = Authorization::default().with_checks(vec![check]).unwrap();
        mesh.rules(address, open(authorization));
    };
    rules(true);
    for (body, shown, partial) in [
        ("", "", "false"),
        ("12345678", "12345678", "false"),
        ("123456789", "12345678", "true"),
    ] {
        assert_eq!(send(body).await, (200, Bytes::from(body)));
        let (told, seen) = asked.lock().unwrap().pop().unwrap();
        assert_eq!(
            (told.unwrap(), seen),
            (HeaderValue::from_static(partial), Bytes::from(shown))
        );
    }
    // The whole or nothing.
    rules(false);
    assert_eq!(send("12345678").await, (200, Bytes::from("12345678")));
    assert_eq!(send("123456789").await, (413, Bytes::new()));
    assert_eq!(asked.lock().unwrap().len(), 1);
}
