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

/// The order of a drain: first the word that no new stream is taken soon (2^31-1), so that what is on its way is served; then the last
/// stream that was.
#[tokio::test(start_paused = true)]
async fn res_6_a_drain_says_goaway_twice() {
    let (_, link) = Link::new(Parts::default());
    let (dial, listener) = pipes();
    let (stop, stopped) = oneshot::channel::<()>();
    let app = MeshLayer::new(&link)
        .dangerous()
        .plaintext()
        .layer(axum::Router::<()>::new());
    let serving = serve(listener, &link, app).with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(serving.dangerous().plaintext().into_future());
    let mut peer = raw::Raw::begin(dial.connect()).await.unwrap();
    peer.get(1).await.unwrap();
    peer.next_of(raw::HEADERS).await.unwrap();
    stop.send(()).unwrap();
    let last = |frame: &raw::Frame| u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
    let first = peer.next_of(raw::GOAWAY).await.unwrap();
    assert_eq!((last(&first), first.error()), (0x7fff_ffff, 0));
    // It waits for the answer to a ping: whatever was sent before that is served.
    peer.get(3).await.unwrap();
    let ping = peer.next_of(raw::PING).await.unwrap();
    peer.send(&raw::frame(raw::PING, 1, 0, &ping.payload)).await.unwrap();
    let (mut answered, mut second) = (false, None);
    while let Some(frame) = peer.next().await {
        match frame.kind {
            raw::HEADERS => answered |= frame.stream == 3,
            raw::GOAWAY => second = Some(frame),
            _ => {}
        }
    }
    assert_eq!((answered, second.map(|frame| last(&frame))), (true, Some(3)));
    assert_eq!(server.await.unwrap().cut(), 0);
}

/// Many peers are told one after the other.
#[tokio::test(start_paused = true)]
async fn res_6_peers_are_not_told_to_go_all_at_once() {
    const PEERS: usize = 400;
    let (_, link) = Link::new(Parts::default());
    let (dial, listener) = pipes();
    let (stop, stopped) = oneshot::channel::<()>();
    let app = MeshLayer::new(&link)
        .dangerous()
        .plaintext()
        .layer(axum::Router::<()>::new());
    let serving = serve(listener, &link, app).with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(serving.dangerous().plaintext().into_future());
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let (mut sender, connection) = h2(dial.connect()).await.unwrap();
        assert_eq!(get(&mut sender).await.unwrap().0, 404);
        peers.push((sender, connection));
    }
    let begin = Instant::now();
    stop.send(()).unwrap();
    let mut told = tokio::task::JoinSet::new();
    for (sender, connection) in peers {
        told.spawn(async move {
            let _sender = sender;
            connection.await.unwrap().unwrap();
            begin.elapsed().as_millis()
        });
    }
    let told: Vec<u128> = told.join_all().await;
    // A millisecond for each, so that half of the span has half of them, give or take 50 (five standard deviations).
    let early = told.iter().filter(|millis| **millis < PEERS as u128 / 2).count();
    assert!((150..=250).contains(&early), "{early}");
    assert!(told.iter().all(|millis| *millis <= PEERS as u128 + 1), "{told:?}");
    assert_eq!(server.await.unwrap().cut(), 0);
}

/// A second signal waits for nothing, and what it cut is counted.
#[tokio::test(start_paused = true)]
async fn res_6_a_second_signal_cuts_at_once() {
    let mesh = Mesh::new();
    let (begun, forever) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (began, held) = (Arc::clone(&begun), Arc::clone(&forever));
    let answer = move |_: Request<RequestBody>| {
        let (began, held) = (Arc::clone(&began), Arc::clone(&held));
        async move {
            began.notify_one();
            held.notified().await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    };
    let (dial, listener) = pipes();
    let (first, stopped) = oneshot::channel::<()>();
    let (second, cut) = oneshot::channel::<()>();
    let serving = serve(
        listener,
        &mesh.link,
        MeshLayer::new(&mesh.link).layer(service_fn(answer)),
    )
    .with_graceful_shutdown(async { drop(stopped.await) })
    .with_immediate_shutdown(async { drop(cut.await) });
    let server = tokio::spawn(serving.into_future());
    let (mut sender, _connection) = h2(shake_hands(dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    let in_flight = tokio::spawn(async move { get(&mut sender).await });
    begun.notified().await;
    first.send(()).unwrap();
    // The listener is gone: it drains.
    dial.0.closed().await;
    let begin = Instant::now();
    second.send(()).unwrap();
    assert_eq!((server.await.unwrap().cut(), begin.elapsed()), (1, Duration::ZERO));
    in_flight.await.unwrap().unwrap_err();
}

/// No connection is older than its server allows, ten percent less or more, and a call that is in flight then ends in peace.
#[tokio::test(start_paused = true)]
async fn a_connection_ends_at_its_age() {
    const AGE: Duration = Duration::from_secs(1_000);
    let (_, link) = Link::new(Parts::default());
    let (dial, listener) = pipes();
    let app = MeshLayer::new(&link)
        .dangerous()
        .plaintext()
        .layer(axum::Router::<()>::new());
    let serving = serve(listener, &link, app).max_connection_age(AGE);
    tokio::spawn(serving.dangerous().plaintext().into_future());
    let mut ages = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let io = dial.connect();
        ages.spawn(async move {
            let begin = Instant::now();
            let (mut sender, connection) = h2(io).await.unwrap();
            assert_eq!(get(&mut sender).await.unwrap().0, 404);
            connection.await.unwrap().unwrap();
            begin.elapsed().as_secs()
        });
    }
    let mut ages: Vec<u64> = ages.join_all().await;
    ages.sort_unstable();
    assert!(
        (900..=920).contains(&ages[0]) && (1_080..=1_100).contains(&ages[49]),
        "{ages:?}"
    );
    assert_eq!(link.tally().get("connection_ended", "max_age"), 50);
}
