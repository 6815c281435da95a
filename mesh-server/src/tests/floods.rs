//! FL-1 to FL-6, RES-4, RES-6: peers that send what no client sends, in amounts that no client sends, over real sockets.
//!
//! What holds against them is mostly h2's and hyper's; these tests notice a release of theirs that lost it. Each flood is bounded
//! in frames and in time, and beside each a good client is served. The oracle is the handler: how often it ran, and that nothing of
//! it is left. Long, since each flood is told whole: what is sent, in which amount, and what must be left of it.

#![allow(clippy::print_stdout, reason = "the figures of a flood are shown with `--nocapture`")]

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, REFUSED_STREAM, RST_STREAM, Raw,
    SETTINGS, WINDOW_UPDATE, frame, get_head,
};
use super::*;
use crate::{MAX_STREAMS, Serving};

/// HTTP/2's ENHANCE_YOUR_CALM.
const CALM: u32 = 11;

/// Pairs that are sent at once.
const BURST: usize = 100;

/// A path of HPACK's static table.
const NEVER: &str = "/index.html";

/// The longest a flood may take to send or to be ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a write may be stuck before the flood counts as held up: the server reads no more from it.
const STUCK: Duration = Duration::from_millis(500);

/// A server in plaintext whose handler takes a moment, or never ends where it is asked for [`NEVER`]; with what it counts.
struct Target {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Target {
    async fn new() -> Self {
        let (_, link) = Link::new(Parts::default());
        let (calls, running) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, gauge) = (Arc::clone(&calls), Arc::clone(&running));
        let answer = move |request: Request<RequestBody>| {
            counted.fetch_add(1, Ordering::Relaxed);
            gauge.fetch_add(1, Ordering::Relaxed);
            let running = Running(Arc::clone(&gauge));
            async move {
                if request.uri().path() == NEVER {
                    std::future::pending::<()>().await;
                }
                tokio::task::yield_now().await;
                drop(running);
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
        tokio::spawn(serve(listener, &link, app).dangerous().plaintext().into_future());
        Self {
            address,
            calls,
            running,
        }
    }

    /// One on tonic's own loop, of a control plane that lets everybody in.
    async fn tonic() -> Self {
        let mesh = Mesh::governed();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        mesh.rules(address, authorize::open(mesh_core::config::Authorization::default()));
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let answer = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::ready("done")
        };
        let routes = tonic::service::Routes::from(axum::Router::new().fallback(axum::routing::any(answer)));
        let incoming = crate::tonic::incoming(listener, &mesh.link);
        let server = crate::tonic::server().add_routes(routes).serve_with_incoming(incoming);
        tokio::spawn(async move {
            // The mesh goes with its server.
            let _mesh = mesh;
            server.await
        });
        Self {
            address,
            calls,
            running: Arc::default(),
        }
    }

    /// Whoever behaves is served.
    async fn serves_others(&self) {
        let served = async {
            let (mut good, _connection) = h2(TcpStream::connect(self.address).await.unwrap()).await.unwrap();
            for _ in 0..10 {
                assert_eq!(get(&mut good).await.unwrap(), (200, "done".into()));
            }
        };
        timeout(PATIENCE, served).await.expect("a good client is served");
    }

    /// Nothing of a flood is left.
    async fn is_idle(&self) {
        let idle = async {
            while self.running.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, idle).await.expect("no handler is left running");
    }
}

/// How a flood ended.
#[derive(Debug)]
struct Outcome {
    /// How many of its pieces were sent.
    sent: usize,
    /// The error of the server's GOAWAY, if it said one.
    goaway: Option<u32>,
    /// Whether the server ended the connection, or read no more from it.
    stopped: bool,
}

/// Sends up to `most` pieces while somebody reads what comes back.
async fn flood(address: SocketAddr, opening: &[u8], most: usize, piece: impl Fn(usize) -> Vec<u8>) -> Outcome {
    let io = TcpStream::connect(address).await.unwrap();
    io.set_nodelay(true).unwrap();
    let Raw { io } = Raw::begin(io).await.unwrap();
    let (reads, mut writes): (ReadHalf<TcpStream>, WriteHalf<TcpStream>) = tokio::io::split(io);
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    let reader = tokio::spawn(async move {
        let mut reads = Raw {
            io: tokio::io::join(reads, tokio::io::sink()),
        };
        let mut goaway = None;
        while let Some(frame) = reads.next().await {
            if frame.kind == GOAWAY {
                goaway = Some(frame.error());
                break;
            }
        }
        told.store(true, Ordering::Relaxed);
        goaway
    });
    let mut outcome = Outcome {
        sent: 0,
        goaway: None,
        stopped: false,
    };
    let mut stopped = writes.write_all(opening).await.is_err();
    while outcome.sent < most && !stopped && !ended.load(Ordering::Relaxed) {
        stopped = !matches!(timeout(STUCK, writes.write_all(&piece(outcome.sent))).await, Ok(Ok(())));
        outcome.sent += 1;
        // The server and the reader have the same thread.
        tokio::task::yield_now().await;
    }
    outcome.stopped = stopped || ended.load(Ordering::Relaxed);
    drop(writes.shutdown().await);
    outcome.goaway = timeout(PATIENCE, reader).await.expect("the server ends it").unwrap();
    outcome
}

fn stream(number: usize) -> u32 {
    u32::try_from(2 * number + 1).unwrap()
}

fn open(number: usize, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream(number), &get_head())
}

/// CVE-2023-44487: requests that are taken back at once.
#[tokio::test]
async fn fl_1_rapid_reset_is_ended_and_leaves_nothing_running() {
    let target = Target::new().await;
    let mut head = get_head();
    // The static table's `/index.html` in the place of `/`.
    head[1] = 0x85;
    let reset = |number| {
        [
            frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &head),
            frame(RST_STREAM, 0, stream(number), &8u32.to_be_bytes()),
        ]
        .concat()
    };
    // Faster than they are accepted: the connection is ended.
    let burst = |number| (0..BURST).flat_map(|next| reset(number * BURST + next)).collect();
    let outcome = flood(target.address, &[], 200, burst).await;
    let calls = target.calls.load(Ordering::Relaxed);
    println!(
        "fl_1: ended after {} bursts of {BURST} pairs, {calls} handlers ran",
        outcome.sent
    );
    assert_eq!((outcome.goaway, outcome.stopped), (Some(CALM), true), "{outcome:?}");
    assert!(outcome.sent * BURST <= 2_000 && calls <= 2_000, "{outcome:?}, {calls}");
    target.is_idle().await;
    // One after the other, as by a client that changes its mind: whatever becomes of it, each handler ends with its request.
    let outcome = flood(target.address, &[], 5_000, reset).await;
    println!("fl_1: {outcome:?} one by one");
    target.is_idle().await;
    target.serves_others().await;
}

/// CVE-2025-8671: frames that make the server reset what it has begun.
#[tokio::test]
async fn fl_2_resets_that_the_server_is_made_to_send_are_ended() {
    let target = Target::new().await;
    provoked(&target, "serve").await;
}

/// The same on tonic's own loop, whose builder leaves those limits out.
#[tokio::test]
async fn fl_2_resets_that_tonics_loop_is_made_to_send_are_ended() {
    let target = Target::tonic().await;
    provoked(&target, "tonic").await;
    let mut peer = Raw::begin(TcpStream::connect(target.address).await.unwrap())
        .await
        .unwrap();
    let settings = peer.next_of(SETTINGS).await.unwrap();
    let mut settings = settings.payload.chunks_exact(6);
    let streams = settings.find(|setting| setting[..2] == [0, 3]).unwrap();
    assert_eq!(streams[2..], MAX_STREAMS.to_be_bytes());
}

async fn provoked(target: &Target, what: &str) {
    // More than any window may be: an error of the stream, which the server resets. An increment of none would be one of the connection.
    let too_much = 0x7fff_ffff_u32.to_be_bytes();
    let provoke = |number| [open(number, 0), frame(WINDOW_UPDATE, 0, stream(number), &too_much)].concat();
    let outcome = flood(target.address, &[], 10_000, provoke).await;
    let calls = target.calls.load(Ordering::Relaxed);
    println!(
        "fl_2 {what}: ended after {} provocations with {:?}, {calls} handlers ran",
        outcome.sent, outcome.goaway
    );
    // On `serve` such requests count as taken back, and so many of those are not waited for.
    let by = match what {
        "serve" => None,
        _ => Some(CALM),
    };
    assert_eq!((outcome.goaway, outcome.stopped), (by, true), "{outcome:?}");
    assert!(outcome.sent <= 2_000 && calls <= 2_000, "{outcome:?}, {calls}");
    target.is_idle().await;
    target.serves_others().await;
}

/// RUSTSEC-2024-0332: a header block that never ends.
#[tokio::test]
async fn fl_3_endless_continuations_are_ended() {
    let target = Target::new().await;
    let begin = frame(HEADERS, END_STREAM, 1, &get_head());
    // A literal header that is not indexed, with a name of one byte and a value of a thousand.
    let mut literal = vec![0x00, 1, b'x', 0x7f, 0xe9, 0x06];
    literal.extend([b'v'; 1000]);
    let more = |_| frame(CONTINUATION, 0, 1, &literal);
    let outcome = flood(target.address, &begin, 10_000, more).await;
    println!("fl_3: ended after {} frames with {:?}", outcome.sent, outcome.goaway);
    assert!(outcome.stopped && outcome.sent <= 200, "{outcome:?}");
    assert_eq!(outcome.goaway, Some(CALM));
    let empty = |_| frame(CONTINUATION, 0, 1, &[]);
    let outcome = flood(target.address, &begin, 10_000, empty).await;
    println!(
        "fl_3: ended after {} empty frames with {:?}",
        outcome.sent, outcome.goaway
    );
    assert!(outcome.stopped && outcome.sent <= 200, "{outcome:?}");
    assert_eq!(target.calls.load(Ordering::Relaxed), 0);
    target.serves_others().await;
}

/// CVE-2019-9512 and its kin, RUSTSEC-2026-0258: frames that cost their sender nothing. None runs a handler, keeps memory, or
/// keeps others from being served.
#[test]
fn fl_4_frames_for_nothing_are_ended_or_kept_nowhere() {
    const ALONE: &str = "FL_4_ALONE";
    // Memory is a process's, and the other tests of this one need some, too.
    if std::env::var_os(ALONE).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let alone = std::process::Command::new(this)
            .args(["--exact", &name, "--nocapture"])
            .env(ALONE, "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&alone.stdout);
        println!("{said}");
        assert!(
            alone.status.success() && said.contains("bytes more are resident"),
            "{alone:?}"
        );
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(frames_for_nothing());
}

async fn frames_for_nothing() {
    const FRAMES: usize = 20_000;
    const MOST_KEPT: u64 = 16 * 1024 * 1024;
    let target = Target::new().await;
    let before = resident();
    type Piece<'a> = &'a dyn Fn(usize) -> Vec<u8>;
    let floods: [(&str, Vec<u8>, Piece<'_>); 5] = [
        ("SETTINGS", vec![], &|_| frame(SETTINGS, 0, 0, &[])),
        ("PING", vec![], &|_| frame(PING, 0, 0, &[0; 8])),
        ("PRIORITY", vec![], &|number| {
            frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 1])
        }),
        ("empty DATA", open(0, 0), &|_| frame(DATA, 0, 1, &[])),
        ("empty header", open(0, END_STREAM), &|number| {
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                stream(number + 1),
                &[get_head(), vec![0x00, 0, 0]].concat(),
            )
        }),
    ];
    for (what, opening, piece) in floods {
        let outcome = flood(target.address, &opening, FRAMES, piece).await;
        println!("fl_4 {what}: {outcome:?}");
        // What could be kept of each is ended; of the others nothing is (RUSTSEC-2026-0258 is a queue of empty DATA).
        match what {
            "empty DATA" => assert_eq!(
                (outcome.goaway, outcome.sent < 1_000),
                (Some(CALM), true),
                "{outcome:?}"
            ),
            "empty header" => assert!(outcome.stopped && outcome.sent < 1_000, "{outcome:?}"),
            _ => {}
        }
        target.is_idle().await;
        target.serves_others().await;
    }
    let kept = resident().saturating_sub(before);
    println!("fl_4: {kept} bytes more are resident");
    assert!(kept < MOST_KEPT, "{kept}");
}

/// What this process has in memory, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Peers that ask for much and take nothing: a body is asked for no more than there is room for.
#[tokio::test]
async fn fl_5_slow_readers_are_buffered_for_no_more_than_their_window() {
    const PIECE: usize = 16 * 1024;
    let (_, link) = Link::new(Parts::default());
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    let answer = move |_: Request<RequestBody>| {
        let body = Pieces {
            left: 64,
            asked: Arc::clone(&counted),
        };
        async move { Ok::<_, Infallible>(Response::new(body)) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
    tokio::spawn(serve(listener, &link, app).dangerous().plaintext().into_future());
    let mut peer = Raw::begin(TcpStream::connect(address).await.unwrap()).await.unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE of 0.
    peer.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    let streams = usize::try_from(MAX_STREAMS).unwrap();
    for number in 0..streams {
        peer.send(&open(number, END_STREAM)).await.unwrap();
    }
    for _ in 0..streams {
        peer.next_of(HEADERS).await.unwrap();
    }
    let buffered = asked.load(Ordering::Relaxed) * PIECE;
    println!("fl_5: {streams} streams without a window had {buffered} bytes made for them");
    assert!(buffered <= streams * 64 * 1024, "{buffered}");
    // One more than is allowed is refused, and costs nothing else.
    peer.send(&open(streams, END_STREAM)).await.unwrap();
    let refused = peer.next_of(RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.error()), (stream(streams), REFUSED_STREAM));
    drop(peer);
    let (mut good, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut good).await.unwrap().1.len(), 64 * PIECE);
}

/// A body in pieces, which counts how many were asked of it.
struct Pieces {
    left: usize,
    asked: Arc<AtomicUsize>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return std::task::Poll::Ready(None);
        }
        self.left -= 1;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let piece = Bytes::from_static(&[0; 16 * 1024]);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
    }
}

/// Connections that begin and do not go on: in TLS, before the first byte, in a request's head.
#[tokio::test(start_paused = true)]
async fn fl_6_who_does_not_go_on_gives_the_place_back() {
    let mesh = Mesh::new();
    let (plain, listener) = pipes();
    let app = Handler::default().app(&mesh.link);
    tokio::spawn(
        serve(listener, &mesh.link, app.clone())
            .dangerous()
            .plaintext()
            .into_future(),
    );
    let (secured, listener) = pipes();
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    for begun in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: ",
    ] {
        let begin = Instant::now();
        let mut io = plain.connect();
        io.write_all(begun).await.unwrap();
        drop(io.read_to_end(&mut Vec::new()).await);
        assert_eq!(begin.elapsed(), crate::HEAD_TIMEOUT, "{begun:?}");
    }
    // Who is verified and then says nothing.
    let mut io = shake_hands(secured.connect(), mesh.client()).await.unwrap();
    let begin = Instant::now();
    drop(io.read_to_end(&mut Vec::new()).await);
    assert_eq!(begin.elapsed(), crate::HEAD_TIMEOUT);
}

/// What comes when every place is taken is refused as not processed, and a place that is free again is given again.
#[tokio::test]
async fn ov_1_what_there_is_no_place_for_is_refused_as_not_processed() {
    let (_, link) = Link::new(Parts::default());
    let (begun, go_on) = (
        Arc::new(tokio::sync::Semaphore::new(0)),
        Arc::new(tokio::sync::Semaphore::new(0)),
    );
    let (began, released) = (Arc::clone(&begun), Arc::clone(&go_on));
    let answer = move |_: Request<RequestBody>| {
        let (began, released) = (Arc::clone(&began), Arc::clone(&released));
        async move {
            began.add_permits(1);
            released.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&link).dangerous().plaintext().layer(service_fn(answer));
    let serving = serve(listener, &link, app).max_requests(2);
    tokio::spawn(serving.dangerous().plaintext().into_future());
    let mut peer = Raw::begin(TcpStream::connect(address).await.unwrap()).await.unwrap();
    peer.get(1).await.unwrap();
    peer.get(3).await.unwrap();
    begun.acquire_many(2).await.unwrap().forget();
    peer.get(5).await.unwrap();
    let refused = peer.next_of(RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.error()), (5, REFUSED_STREAM));
    let mut old = TcpStream::connect(address).await.unwrap();
    old.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("x-envoy-overloaded: true"),
        "{answer}"
    );
    assert_eq!(link.tally().get("request_refused", "overloaded"), 2);
    go_on.add_permits(3);
    for _ in 0..2 {
        peer.next_of(DATA).await.unwrap();
    }
    let (mut good, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut good).await.unwrap(), (200, "done".into()));
}

/// A handler that panics fails its own request, whenever it does, and gives back what it held.
#[tokio::test]
async fn res_4_a_panic_fails_one_request() {
    let mesh = Mesh::new();
    let answer = |request: Request<RequestBody>| {
        let path = request.uri().path().to_owned();
        assert!(path != "/now", "asked to");
        async move {
            tokio::task::yield_now().await;
            assert!(path != "/later", "asked to");
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&mesh.link).layer(service_fn(answer));
    let serving: Serving<_, _> = serve(listener, &mesh.link, app).max_requests(1);
    tokio::spawn(serving.into_future());
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    for path in ["now", "later", "now", "later"] {
        let request = Request::get(format!("http://payment.shop/{path}"));
        let http = request.body(Empty::new()).unwrap();
        assert_eq!(sender.send_request(http).await.unwrap().status(), 500, "{path}");
        let request = Request::post(format!("http://payment.shop/{path}")).header("content-type", "application/grpc");
        let grpc = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(
            (grpc.status().as_u16(), &grpc.headers()["grpc-status"]),
            (200, &http::HeaderValue::from_static("13"))
        );
        // The one place is free, and the connection the same.
        assert_eq!(get(&mut sender).await.unwrap(), (200, "done".into()));
    }
    assert_eq!(mesh.link.tally().get("request_failed", "panic"), 8);
    let http1 = |path: &str| format!("GET /{path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let mut config = (*mesh.client()).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut io = connect(address, Arc::new(config)).await.unwrap();
    io.write_all(http1("later").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    drop(io.read_to_end(&mut answer).await);
    assert!(answer.starts_with(b"HTTP/1.1 500"), "{answer:?}");
}

/// Probes see that a server leaves before its callers do, which gives routers the time to send nobody any more.
#[tokio::test(start_paused = true)]
async fn res_6_readiness_goes_first_and_what_comes_meanwhile_is_served() {
    const NOTICE: Duration = Duration::from_secs(5);
    let mesh = Mesh::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (dial, listener) = pipes();
    let serving = serve(listener, &mesh.link, Handler::default().app(&mesh.link))
        .unready_before_drain(NOTICE)
        .with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(serving.into_future());
    let inbound = crate::telemetry::Inbound::of(&mesh.link);
    let (mut sender, connection) = h2(shake_hands(dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(get(&mut sender).await.unwrap().0, 200);
    assert!(inbound.is_serving());
    let begin = Instant::now();
    stop.send(()).unwrap();
    while inbound.is_serving() {
        tokio::task::yield_now().await;
    }
    // Old connections and new ones are served on.
    assert_eq!(get(&mut sender).await.unwrap().0, 200);
    let (mut late, _late) = h2(shake_hands(dial.connect(), mesh.client()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(get(&mut late).await.unwrap().0, 200);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    connection.await.unwrap().unwrap();
    // Peers are told one after the other, a millisecond for each.
    assert_eq!(
        (server.await.unwrap().cut(), begin.elapsed().as_secs()),
        (0, NOTICE.as_secs())
    );
}
