//! A server that ends: what is in flight, what comes too late, what takes too long.

use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::*;

/// A server whose handler says that it has begun and waits to be let go.
struct Slow {
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
    dial: Dial,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Drained>,
}

fn slow_server(mesh: &Mesh, drain_timeout: Duration) -> Slow {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (began, released) = (Arc::clone(&begun), Arc::clone(&go_on));
    let answer = move |_: Request<RequestBody>| {
        let (began, released) = (Arc::clone(&began), Arc::clone(&released));
        async move {
            began.notify_one();
            released.notified().await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    };
    let app = MeshLayer::new(&mesh.link).layer(service_fn(answer));
    let (stop, stopped) = oneshot::channel::<()>();
    let (dial, listener) = pipes();
    let serving = serve(listener, &mesh.link, app)
        .drain_timeout(drain_timeout)
        .with_graceful_shutdown(async { drop(stopped.await) });
    Slow {
        begun,
        go_on,
        dial,
        stop,
        server: tokio::spawn(serving.into_future()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_ends_and_nothing_is_cut() {
    let mesh = Mesh::new();
    let slow = slow_server(&mesh, Duration::from_secs(25));
    let (mut sender, connection) = h2(shake_hands(slow.dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    let in_flight = tokio::spawn(async move { get(&mut sender).await });
    slow.begun.notified().await;
    slow.stop.send(()).unwrap();
    // The listener is closed at once, long before the call ends.
    slow.dial.0.closed().await;
    assert!(!slow.server.is_finished());
    slow.go_on.notify_one();
    assert_eq!(in_flight.await.unwrap().unwrap(), (200, "done".into()));
    assert_eq!(slow.server.await.unwrap().cut(), 0);
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_is_cut_and_counted() {
    let mesh = Mesh::new();
    let slow = slow_server(&mesh, Duration::from_secs(3));
    let (mut sender, _connection) = h2(shake_hands(slow.dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    let in_flight = tokio::spawn(async move { get(&mut sender).await });
    // An idle one beside it closes in good order.
    let (_idle, idle_connection) = h2(shake_hands(slow.dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    slow.begun.notified().await;
    let begin = Instant::now();
    slow.stop.send(()).unwrap();
    assert_eq!((slow.server.await.unwrap().cut(), begin.elapsed().as_secs()), (1, 3));
    in_flight.await.unwrap().unwrap_err();
    idle_connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_in_mid_handshake_does_not_delay_the_end() {
    let mesh = Mesh::new();
    let slow = slow_server(&mesh, Duration::from_secs(25));
    let _silent = slow.dial.connect();
    let begin = Instant::now();
    slow.stop.send(()).unwrap();
    assert_eq!((slow.server.await.unwrap().cut(), begin.elapsed()), (0, Duration::ZERO));
}

/// Dropping the server is the emergency exit: nothing it started outlives it.
#[tokio::test(start_paused = true)]
async fn a_dropped_server_closes_everything() {
    let mesh = Mesh::new();
    let slow = slow_server(&mesh, Duration::from_secs(25));
    let (mut sender, _connection) = h2(shake_hands(slow.dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    let in_flight = tokio::spawn(async move { get(&mut sender).await });
    slow.begun.notified().await;
    slow.server.abort();
    in_flight.await.unwrap().unwrap_err();
}

/// On a real socket: who comes after the signal is refused by the kernel, not left in a backlog.
#[tokio::test]
async fn a_drained_port_is_closed() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::<()>::new();
    serve(listener, &mesh.link, app).with_graceful_shutdown(async {}).await;
    let error = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}
