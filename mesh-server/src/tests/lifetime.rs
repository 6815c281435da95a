//! Connections that end although nobody wants them to, and those that must wait.

use std::time::Duration;

use mesh_core::config::{Authorization, Clients, FilterChain, InboundSecurity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;

/// Finding: TLS authenticates once, so a connection would outlive the certificate that opened it.
#[tokio::test(start_paused = true)]
async fn id_10_a_connection_ends_with_the_first_certificate() {
    let mesh = Mesh::new();
    let (dial, listener) = pipes();
    let _server = tokio::spawn(serve(listener, &mesh.link, axum::Router::<()>::new()).into_future());
    let svid = mesh.ca.leaf(CLIENT).valid(1, NOW_SECONDS + 90).svid();
    let short = mesh.client_as(&Identity::new(svid, mesh.ca.bundle()));
    let (mut sender, connection) = h2(shake_hands(dial.connect(), short).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut sender).await.unwrap().0, 404);
    let begin = Instant::now();
    connection.await.unwrap().unwrap();
    // With the end of its last second.
    assert_eq!(begin.elapsed().as_secs(), 91);
    get(&mut sender).await.unwrap_err();
}

/// A machine that slept: wall time has gone on, and the time of timers has not. Neither the next request is served, nor does a connection
/// stay that only answers.
#[tokio::test(start_paused = true)]
async fn id_11_a_connection_does_not_outlive_its_certificate_in_sleep() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (dial, listener) = pipes();
    tokio::spawn(serve(listener, &mesh.link, handler.app(&mesh.link)).into_future());
    let connect = async || {
        let svid = mesh.ca.leaf(CLIENT).valid(1, NOW_SECONDS + 3600).svid();
        let client = mesh.client_as(&Identity::new(svid, mesh.ca.bundle()));
        h2(shake_hands(dial.connect(), client).await.unwrap()).await.unwrap()
    };
    let ((mut asking, _asking), (mut silent, gone)) = (connect().await, connect().await);
    for sender in [&mut asking, &mut silent] {
        assert_eq!(get(sender).await.unwrap().0, 200);
    }
    mesh.clock.set(NOW_SECONDS + 3600);
    assert_eq!(get(&mut asking).await.unwrap().0, 200, "its last second is not over");
    mesh.clock.set(NOW_SECONDS + 3601);
    // No time has passed for a timer, and the request is not served all the same.
    get(&mut asking).await.unwrap_err();
    assert_eq!(handler.calls(), 3);
    assert_eq!(mesh.link.tally().get("request_refused", "connection_revoked"), 1);
    let begin = Instant::now();
    gone.await.unwrap().unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(mesh.link.tally().get("connection_revoked", "certificate_expired"), 2);
}

/// A clock that is set back gives an open connection no more time.
#[tokio::test(start_paused = true)]
async fn id_11_a_clock_that_is_set_back_keeps_no_connection() {
    let mesh = Mesh::new();
    let (dial, listener) = pipes();
    tokio::spawn(serve(listener, &mesh.link, axum::Router::<()>::new()).into_future());
    let svid = mesh.ca.leaf(CLIENT).valid(1, NOW_SECONDS + 90).svid();
    let short = mesh.client_as(&Identity::new(svid, mesh.ca.bundle()));
    let (mut sender, connection) = h2(shake_hands(dial.connect(), short).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut sender).await.unwrap().0, 404);
    let begin = Instant::now();
    mesh.clock.set(NOW_SECONDS - 86_400);
    connection.await.unwrap().unwrap();
    assert_eq!(begin.elapsed().as_secs(), 91);
}

#[tokio::test(start_paused = true)]
async fn connections_over_the_limit_wait_for_a_place() {
    let mesh = Mesh::new();
    let (dial, listener) = pipes();
    let serving = serve(listener, &mesh.link, axum::Router::<()>::new()).max_connections(1);
    let _server = tokio::spawn(serving.into_future());
    let first = shake_hands(dial.connect(), mesh.client()).await.unwrap();
    let second = shake_hands(dial.connect(), mesh.client());
    let mut second = std::pin::pin!(second);
    // Under a paused clock this passes only when nothing else can happen.
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut second).await;
    assert!(waited.is_err());
    drop(first);
    second.await.unwrap();
}

/// Who says nothing after the handshake is no less bound by what changes meanwhile: neither rules nor a certificate's end are missed.
#[tokio::test(start_paused = true)]
async fn hs_7_a_silent_connection_hears_of_a_change() {
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (dial, listener) = pipes();
    let address = PIPES.parse().unwrap();
    mesh.rules(address, authorize::open(Authorization::default()));
    tokio::spawn(serve(listener, &mesh.link, handler.app(&mesh.link)).into_future());
    let mut silent: Vec<DuplexStream> = (0..20).map(|_| dial.connect()).collect();
    // One that is served tells that the server has taken them all.
    let (mut open, _connection) = h2(dial.connect()).await.unwrap();
    assert_eq!(get(&mut open).await.unwrap().0, 200);
    let strict = FilterChain {
        security: InboundSecurity::Mutual(Clients::Trusted),
        ..authorize::open(Authorization::default())
    };
    mesh.rules(address, strict);
    for io in &mut silent {
        drop(io.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await);
        let mut answer = Vec::new();
        drop(io.read_to_end(&mut answer).await);
        assert_eq!(answer, b"");
    }
    assert_eq!(handler.calls(), 1);
}

/// The time of a certificate runs from the handshake, and not from the first byte.
#[tokio::test(start_paused = true)]
async fn id_10_a_silent_connection_ends_with_its_certificate() {
    let mesh = Mesh::new();
    let (dial, listener) = pipes();
    let _server = tokio::spawn(serve(listener, &mesh.link, axum::Router::<()>::new()).into_future());
    let svid = mesh.ca.leaf(CLIENT).valid(1, NOW_SECONDS + 5).svid();
    let short = mesh.client_as(&Identity::new(svid, mesh.ca.bundle()));
    let mut io = shake_hands(dial.connect(), short).await.unwrap();
    let begin = Instant::now();
    drop(io.read_to_end(&mut Vec::new()).await);
    assert_eq!(begin.elapsed().as_secs(), 6);
}

/// Code that asks for both gets the stricter.
#[tokio::test]
async fn a_floor_wins_over_plaintext() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = serve(listener, &mesh.link, handler.app(&mesh.link));
    tokio::spawn(serving.dangerous().plaintext().require_mutual_tls().into_future());
    let (mut plain, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    get(&mut plain).await.unwrap_err();
    assert_eq!(call(address, mesh.client()).await.unwrap(), (200, CLIENT.into()));
}

/// A floor on tonic's own loop.
#[tokio::test]
async fn tonics_loop_has_a_floor_too() {
    let mesh = Mesh::governed();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    mesh.rules(address, authorize::open(Authorization::default()));
    let acceptor = crate::Acceptor::listening_on(&mesh.link, address).require_mutual_tls();
    let routes = tonic::service::Routes::from(axum::Router::new());
    let incoming = crate::tonic::incoming_by(listener, &mesh.link, acceptor);
    tokio::spawn(crate::tonic::server().add_routes(routes).serve_with_incoming(incoming));
    let (mut plain, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    get(&mut plain).await.unwrap_err();
    assert_eq!(call(address, mesh.client()).await.unwrap().0, 404);
}

/// A body that comes as it is fed.
struct Fed(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let fed = self.0.poll_recv(cx);
        fed.map(|bytes| bytes.map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

/// What tonic's own loop has no bounds for and `incoming` has: who says nothing after the handshake is ended, and so is who asks for nothing
/// for an hour; an answer that goes on keeps its connection, however long it is silent.
#[tokio::test(start_paused = true)]
async fn fl_6_tonics_loop_ends_silent_and_idle_connections() {
    let mesh = Mesh::new();
    let (dial, listener) = pipes();
    let connect = async || shake_hands(dial.connect(), mesh.client()).await.unwrap();
    let answer = |request: Request<axum::body::Body>| async move {
        let body = match request.uri().path() {
            "/held" => axum::body::Body::new(request.into_body()),
            _ => axum::body::Body::empty(),
        };
        Ok::<_, Infallible>(Response::new(body))
    };
    let routes = tonic::service::Routes::from(axum::Router::new().fallback_service(service_fn(answer)));
    let server = crate::tonic::server()
        .layer(MeshLayer::new(&mesh.link))
        .add_routes(routes)
        .serve_with_incoming(crate::tonic::incoming(listener, &mesh.link));
    tokio::spawn(server);
    let ended = |why: &'static str| mesh.link.tally().get("connection_ended", why);

    let mut silent = connect().await;
    let begin = Instant::now();
    // It says what it speaks, and hears nothing.
    drop(silent.read_to_end(&mut Vec::new()).await);
    assert_eq!(begin.elapsed().as_secs(), crate::HEAD_TIMEOUT.as_secs());
    assert_eq!(ended("silent"), 1);

    // One that was never asked anything, one that was, and one whose answer has begun.
    let (_unused, never) = h2(connect().await).await.unwrap();
    let (mut used, once) = h2(connect().await).await.unwrap();
    assert_eq!(get(&mut used).await.unwrap().0, 200);
    let io = TokioIo::new(connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let held = tokio::spawn(connection);
    let (feed, body) = mpsc::unbounded_channel();
    let request = Request::post("http://payment.shop/held").body(Fed(body)).unwrap();
    let mut answer = sender.send_request(request).await.unwrap().into_body();
    let begin = Instant::now();
    for gone in [never, once] {
        drop(gone.await.unwrap());
        let took = begin.elapsed();
        assert!(
            took >= crate::IDLE_TIMEOUT - Duration::from_secs(1)
                && took <= crate::IDLE_TIMEOUT + Duration::from_secs(1),
            "{took:?}"
        );
    }
    assert_eq!(ended("idle"), 2);
    tokio::time::sleep(3 * crate::IDLE_TIMEOUT).await;
    feed.send(Bytes::from_static(b"late")).unwrap();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "late");
    drop((feed, answer, sender));
    assert_eq!(ended("idle"), 2);
    drop(held.await.unwrap());
}

/// Connections that ask for nothing make room for one that does, those first that never asked; one with a request in flight stays.
#[tokio::test(start_paused = true)]
async fn fl_6_connections_without_a_request_make_room() {
    let (_, link) = Link::new(Parts::default());
    let (dial, listener) = pipes();
    let held = Arc::new(tokio::sync::Notify::new());
    let holds = Arc::clone(&held);
    let answer = move |request: Request<RequestBody>| {
        let holds = Arc::clone(&holds);
        async move {
            if request.uri().path() == "/held" {
                holds.notified().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    };
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
    let serving = serve(listener, &link, app).max_connections(4);
    tokio::spawn(serving.dangerous().plaintext().into_future());
    // One that works, one that has worked, one that only says what it speaks, one that says nothing.
    let (mut busy, _busy) = h2(dial.connect()).await.unwrap();
    let request = Request::get("http://payment.shop/held").body(Empty::new()).unwrap();
    let in_flight = tokio::spawn(async move { busy.send_request(request).await.unwrap().status() });
    let (mut used, _used) = h2(dial.connect()).await.unwrap();
    assert_eq!(get(&mut used).await.unwrap().0, 200);
    let mut preface = raw::Raw::begin(dial.connect()).await.unwrap();
    let _silent = dial.connect();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (begin, mut kept) = (Instant::now(), Vec::new());
    for _ in 0..3 {
        let (mut sender, connection) = h2(dial.connect()).await.unwrap();
        assert_eq!(get(&mut sender).await.unwrap(), (200, "done".into()));
        kept.push((sender, connection));
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(22), "{:?}", begin.elapsed());
    assert!(preface.next_of(raw::GOAWAY).await.is_some());
    assert_eq!(link.tally().get("connection_ended", "crowded_out"), 3);
    held.notify_one();
    assert_eq!(in_flight.await.unwrap(), 200);
}
