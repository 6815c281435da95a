//! What reaches a handler over real connections, of requests that could be read in two ways. The oracle is the handler.

use std::sync::Mutex;

use super::odd::{Answer, Http2, http1};
use super::*;

/// What a handler saw: path and authority, and whether a header came that nobody may say.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// A plaintext server whose handler says what it saw.
async fn server() -> (SocketAddr, Link, Seen) {
    let (_, link) = Link::new(Parts::default());
    let seen = Seen::default();
    let told = Arc::clone(&seen);
    let answer = move |request: Request<RequestBody>| {
        assert!(
            !request.headers().keys().any(mesh_core::canonical::is_spoofable),
            "{request:?}"
        );
        let authority = mesh_core::canonical::authority(request.uri(), request.headers());
        if request.method() != "OPTIONS" {
            told.lock()
                .unwrap()
                .push((request.uri().path().to_owned(), authority.to_owned()));
        }
        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"seen")))) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
    tokio::spawn(serve(listener, &link, app).dangerous().plaintext().into_future());
    (address, link, seen)
}

/// Bytes, the status they are answered with, whether the connection closes, and what the handler sees.
type Case = (&'static str, u16, bool, &'static [(&'static str, &'static str)]);

/// The fields of a request over HTTP/2.
type Fields = &'static [(&'static [u8], &'static [u8])];

/// Written by hand, answered so, and seen so by the handler.
async fn check(cases: &[Case]) {
    let (address, _link, seen) = server().await;
    for (bytes, status, closed, expected) in cases {
        let io = TcpStream::connect(address).await.unwrap();
        let answer = http1(io, bytes.as_bytes()).await;
        let (status, closed) = (*status, *closed);
        let seen: Vec<_> = seen.lock().unwrap().drain(..).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(path, host)| (path.to_string(), host.to_string()))
            .collect();
        assert_eq!((answer, seen), (Answer { status, closed }, expected), "{bytes:?}");
    }
}

#[tokio::test]
async fn az_1_a_handler_sees_the_canonical_request_or_none() {
    check(&[
        (
            "GET /a//../%61dmin/?x HTTP/1.1\r\nhost: A.test.\r\n\r\n",
            200,
            false,
            &[("/a/admin/", "a.test")],
        ),
        (
            "GET /%2e%2e%2fadmin HTTP/1.1\r\nhost: a.test\r\n\r\n",
            200,
            false,
            &[("/admin", "a.test")],
        ),
        (
            "GET http://A.test/x\\y HTTP/1.1\r\nhost: a.test\r\nx-forwarded-for: 1.1.1.1\r\nx-mesh-peer: me\r\n\r\n",
            200,
            false,
            &[("/x/y", "a.test")],
        ),
        ("GET /a%00b HTTP/1.1\r\nhost: a.test\r\n\r\n", 400, true, &[]),
        ("GET /..;/admin HTTP/1.1\r\nhost: a.test\r\n\r\n", 400, true, &[]),
        ("get / HTTP/1.1\r\nhost: a.test\r\n\r\n", 400, true, &[]),
        ("GET admin HTTP/1.1\r\nhost: a.test\r\n\r\n", 400, true, &[]),
        ("CONNECT a.test:80 HTTP/1.1\r\nhost: a.test:80\r\n\r\n", 400, true, &[]),
    ])
    .await;
}

#[tokio::test]
async fn az_8_what_could_be_two_requests_is_none_or_one() {
    check(&[
        // Which host, and where the request ends.
        ("GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n", 400, true, &[]),
        ("GET / HTTP/1.1\r\nhost: a.test\r\nhost: a.test\r\n\r\n", 400, true, &[]),
        ("GET / HTTP/1.1\r\n\r\n", 400, true, &[]),
        ("GET / HTTP/1.0\r\n\r\n", 400, true, &[]),
        ("GET http://a.test/ HTTP/1.1\r\nhost: b.test\r\n\r\n", 400, true, &[]),
        ("GET http://me@a.test/ HTTP/1.1\r\nhost: a.test\r\n\r\n", 400, true, &[]),
        ("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400, true, &[]),
        // One length, said twice (RFC 9110, 8.6).
        (
            "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
            200,
            false,
            &[("/", "a.test")],
        ),
        ("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: +1\r\n\r\na", 400, true, &[]),
        ("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1, 1\r\n\r\na", 400, true, &[]),
        ("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400, true, &[]),
        ("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, true, &[]),
        ("POST / HTTP/1.0\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, true, &[]),
        ("GET / HTTP/1.1\r\nhost: a.test\r\nx: a\r\n b\r\n\r\n", 400, true, &[]),
        ("GET / HTTP/1.1\r\nhost : a.test\r\n\r\n", 400, true, &[]),
        ("GET / HTTP/1.1\r\nhost: a.test\r\nx: a\rb\r\n\r\n", 400, true, &[]),
        // Both of length and chunks (RFC 9112, 6.3): refused, and nothing that follows is read as a request.
        (
            "POST /one HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /two HTTP/1.1\r\nhost: a.test\r\n\r\n",
            400,
            true,
            &[],
        ),
        (
            "POST /one HTTP/1.1\r\nhost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\nGET /two HTTP/1.1\r\nhost: a.test\r\n\r\n",
            400,
            true,
            &[],
        ),
        // One that was whole before it is served, and bodies that only look like it are bodies.
        (
            "POST /one HTTP/1.1\r\nhost: a.test\r\ncontent-length: 49\r\n\r\n\r\n\r\ncontent-length: 1\r\ntransfer-encoding: chunked",
            200,
            false,
            &[("/one", "a.test")],
        ),
        (
            "POST /one HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n31\r\n\r\n\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n0\r\n\r\n",
            200,
            false,
            &[("/one", "a.test")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn az_4_one_authority_over_http2() {
    let (address, link, seen) = server().await;
    let mut connection = Http2::new(TcpStream::connect(address).await.unwrap()).await;
    let cases: [(Fields, Option<&str>); 7] = [
        (&[(b":authority", b"A.test.")], Some("a.test")),
        (&[(b":authority", b"a.test"), (b"host", b"A.TEST")], Some("a.test")),
        (&[(b"host", b"A.test")], Some("a.test")),
        (&[(b":authority", b"a.test"), (b"host", b"b.test")], None),
        (&[(b":authority", b"me@a.test")], None),
        (&[(b"host", b"a.test"), (b"host", b"a.test")], None),
        (&[], None),
    ];
    for (fields, expected) in cases {
        let mut all: Vec<(&[u8], &[u8])> = vec![(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/x")];
        all.extend(fields);
        assert!(connection.request(&all).await, "{fields:?}");
        let seen: Vec<_> = seen.lock().unwrap().drain(..).map(|(_, authority)| authority).collect();
        assert_eq!(seen, expected.into_iter().collect::<Vec<_>>(), "{fields:?}");
    }
    for (reason, count) in [
        ("authority_conflict", 1),
        ("authority_userinfo", 1),
        ("host_repeated", 1),
        ("authority_missing", 1),
    ] {
        assert_eq!(link.tally().get("request_refused", reason), count, "{reason}");
    }
}

#[tokio::test]
async fn a_caller_of_grpc_is_told_in_its_own_words() {
    let (address, _link, seen) = server().await;
    let (mut sender, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let request =
        Request::post("http://payment.shop/mesh.test.Named/..;/Say").header("content-type", "application/grpc");
    let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    let said = |name: &str| response.headers()[name].to_str().unwrap();
    assert_eq!(
        (response.status().as_u16(), said("content-type"), said("grpc-status")),
        (400, "application/grpc", "13")
    );
    assert!(said("grpc-message").contains("dot segment"));
    assert!(seen.lock().unwrap().is_empty());
}
