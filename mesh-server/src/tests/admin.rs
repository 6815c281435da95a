//! The admin port: in plaintext, apart from the service's.

use std::time::{Duration, Instant};

use mesh_core::config::{Reason, ReasonKind};
use mesh_core::testing::NOT_AFTER_SECONDS;
use tokio::sync::oneshot;

use super::*;
use crate::admin;

async fn admin_port(mesh: &Mesh) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin::serve(listener, &mesh.link).into_future());
    address
}

async fn page(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    page_of("localhost", address, method, path).await
}

async fn page_of(host: &str, address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let io = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", host);
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn readiness_follows_the_server_and_the_identity() {
    let mesh = Mesh::new();
    let address = admin_port(&mesh).await;
    assert_eq!(page(address, "GET", "/healthz").await, (200, "ok\n".into()));
    assert_eq!(
        page(address, "GET", "/readyz").await,
        (503, "no server accepts connections\n".into())
    );

    let (stop, stopped) = oneshot::channel::<()>();
    let (_dial, listener) = pipes();
    let serving = serve(listener, &mesh.link, axum::Router::<()>::new());
    let server = tokio::spawn(
        serving
            .with_graceful_shutdown(async { drop(stopped.await) })
            .into_future(),
    );
    while page(address, "GET", "/readyz").await.0 != 200 {
        tokio::task::yield_now().await;
    }

    mesh.clock.set(u64::MAX / 2);
    let (code, why) = page(address, "GET", "/readyz").await;
    assert_eq!(
        (code, why.as_str()),
        (503, "this workload's own certificate has expired\n")
    );
    mesh.clock.set(NOW_SECONDS);
    let waiting = Reason::new(ReasonKind::NoIdentity, "not joined yet");
    mesh.source.identity.publish(Err(waiting));
    let (code, why) = page(address, "GET", "/readyz").await;
    assert_eq!(
        (code, why.as_str()),
        (503, "this workload has no identity: not joined yet\n")
    );
    mesh.source.identity.publish(Ok(mesh.ca.identity(SERVER)));
    assert_eq!(page(address, "GET", "/readyz").await.0, 200);

    stop.send(()).unwrap();
    server.await.unwrap();
    assert_eq!(page(address, "GET", "/readyz").await.0, 503);
    assert_eq!(page(address, "GET", "/healthz").await.0, 200);
}

#[tokio::test]
async fn stats_are_the_counters_and_nothing_else_is_there() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (service, _server) = handler.listen(&mesh.link).await;
    let address = admin_port(&mesh).await;
    call(service, mesh.client()).await.unwrap();
    call(service, mesh.anonymous()).await.unwrap_err();
    let left = NOT_AFTER_SECONDS - NOW_SECONDS;
    let expected =
        format!("requests.received: 1\nhandshake_refused.no_certificate: 1\nidentity.seconds_to_expiry: {left}\n");
    assert_eq!(page(address, "GET", "/stats").await, (200, expected.clone()));
    // Of a source that hears of its configuration the page says how old that may be.
    mesh.link.set_heard(Instant::now() - Duration::from_secs(90));
    let (_, stats) = page(address, "GET", "/stats").await;
    let age = stats.strip_prefix(&*expected).unwrap();
    let age = age.strip_prefix("configuration.age_seconds: ").unwrap();
    assert!((90..180).contains(&age.trim_end().parse::<u64>().unwrap()), "{stats}");
    assert_eq!(page(address, "GET", "/").await.0, 404);
    assert_eq!(page(address, "POST", "/stats").await.0, 405);
}

/// A page in a browser of this machine, whose name was made to lead here, reads nothing.
#[tokio::test]
async fn the_port_answers_to_no_name_of_somebody_else() {
    let mesh = Mesh::new();
    let address = admin_port(&mesh).await;
    for host in ["localhost", "LOCALHOST:15020", "127.0.0.1:1", "[::1]:1", "10.0.0.1"] {
        assert_eq!(page_of(host, address, "GET", "/healthz").await.0, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example:80", "a@b", ""] {
        let (code, body) = page_of(host, address, "GET", "/stats").await;
        assert_eq!((code, body.contains("requests")), (403, false), "{host}");
    }
}

/// Whoever connects and says nothing, or has asked once and waits, keeps nobody from being answered.
#[tokio::test]
async fn fl_6_silent_connections_to_the_admin_port_give_way() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mesh = Mesh::new();
    let address = admin_port(&mesh).await;
    for asks in [false, true] {
        let mut silent = Vec::new();
        // More than there are places: each of them is accepted, since the oldest of all gives way to the newest.
        for _ in 0..2 * admin::MAX_CONNECTIONS {
            let mut io = TcpStream::connect(address).await.unwrap();
            if asks {
                io.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    .await
                    .unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\nok\n") {
                    assert_ne!(io.read_buf(&mut answer).await.unwrap(), 0);
                }
            }
            silent.push(io);
        }
        assert_eq!(page(address, "GET", "/healthz").await, (200, "ok\n".into()));
        // The first has gone, the last is still there.
        assert_eq!(silent[0].read(&mut [0]).await.unwrap_or_default(), 0);
        let last = silent.last_mut().unwrap();
        last.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        assert_ne!(last.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn what_is_mounted_answers_below_its_path_over_both_versions() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let named = |name: &'static str| {
        service_fn(move |request: Request<hyper::body::Incoming>| async move {
            let said = format!("{name} {} {}", request.method(), request.uri().path());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(said))))
        })
    };
    let admin = admin::serve(listener, &mesh.link)
        .mount("/a.Service", named("old"))
        .mount("/a.Service", named("a"))
        .mount("/a.Service/Deep", named("deep"))
        .mount("/stats", named("thief"));
    tokio::spawn(admin.into_future());
    let stats = format!(
        "requests.received: 0\nidentity.seconds_to_expiry: {}\n",
        NOT_AFTER_SECONDS - NOW_SECONDS
    );
    let table = [
        ("POST", "/a.Service/Method", 200, "a POST /a.Service/Method"),
        ("GET", "/a.Service", 200, "a GET /a.Service"),
        ("GET", "/a.Service/Deep/er", 200, "deep GET /a.Service/Deep/er"),
        (
            "GET",
            "/a.ServiceOther",
            404,
            "/healthz /readyz /stats /stats/prometheus /metrics\n",
        ),
        ("GET", "/stats", 200, &*stats),
    ];
    for (method, path, code, body) in table {
        assert_eq!(page(address, method, path).await, (code, body.to_owned()), "{path}");
    }
    let io = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    for (path, body) in [
        ("/a.Service/Method", "a POST /a.Service/Method"),
        ("/healthz", "only GET and HEAD\n"),
    ] {
        let uri = format!("http://localhost{path}");
        let request = Request::post(uri).body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer, body.as_bytes(), "{path}");
    }
}

#[tokio::test]
async fn a_process_that_only_calls_is_ready_with_its_identity() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin::serve(listener, &mesh.link).calls_only().into_future());
    assert_eq!(page(address, "GET", "/readyz").await, (200, "ready\n".into()));
}

#[tokio::test]
async fn the_admin_port_is_not_for_other_machines() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = admin::serve(listener, &mesh.link).await.unwrap_err();
    assert!(error.is_not_loopback(), "{error}");
}
