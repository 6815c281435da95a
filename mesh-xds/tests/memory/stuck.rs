//! CP-13: for a client that stops reading nobody else waits, and its control plane holds no memory. Real clients, the real service,
//! pipes in memory, virtual time.
//!
//! Time stands still while anybody has something to do, so whoever has a publish at the instant of its making waited for no timer and
//! for no reader; had the control plane waited for the stuck one, however briefly, the clock would have moved. A noisy machine is not
//! in that figure. Nor is work: what the processor does for the stuck one before it comes to the others moves no clock, and is not
//! measured here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_core::config::{Cluster, Endpoint, Route, Split, TlsMode};
use mesh_core::link::Guard;
use mesh_core::{Entropy, Snapshot};
use mesh_xds::bootstrap::Protocol;
use mesh_xds::client::Report;
use mesh_xds::server::{Caller, DiscoveryServices, Io, Peer, SnapshotCache};
use mesh_xds::{Bootstrap, Connector, Node, XdsClient};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::{ALONE, held};

const OTHERS: usize = 20;
const PUBLISHES: u16 = 40;
/// So many that a publish is more than an HTTP/2 window, and many times what is allowed to be held.
const ENDPOINTS: u16 = 2_500;
const PIPE_BYTES: usize = 64 * 1024;
/// How long a response may wait to be taken, and a little more.
const PATIENCE: Duration = Duration::from_millis(30_001);
const SOON: Duration = Duration::from_secs(60);
/// What a stuck client may cost: what its window and its pipe hold, one response that waits behind them and one in the queue.
const MOST_HELD: usize = 4 << 20;

/// A client's end of a pipe that can be left unread.
struct Gate {
    pipe: DuplexStream,
    is_shut: Arc<AtomicBool>,
}

impl AsyncRead for Gate {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_shut.load(Ordering::Acquire) {
            // For ever: nobody opens it again.
            return Poll::Pending;
        }
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

fn snapshot(port: u16) -> Snapshot {
    let endpoints = (0..ENDPOINTS).map(|n| Endpoint::new(([127, 0, (n >> 8) as u8, n as u8], port).into()));
    Snapshot::builder()
        .route("t", Route::to(Split::all_to("c")))
        .cluster(Cluster::new("c", TlsMode::Plaintext, endpoints.collect()))
        .build()
        .unwrap()
}

fn port_of(snapshot: &Snapshot) -> Option<u16> {
    let cluster = snapshot.cluster(&"c".into())?.as_ref().ok()?;
    Some(cluster.endpoints.first()?.address.port())
}

/// A client whose connection is left unread once the gate is shut; it connects once.
fn client(
    protocol: Protocol,
    id: &str,
    open: &mpsc::Sender<io::Result<Io<DuplexStream>>>,
    is_shut: &Arc<AtomicBool>,
) -> (XdsClient, Guard) {
    let (open, is_shut) = (open.clone(), Arc::clone(is_shut));
    let connector = Connector::new(move |_| {
        let (open, is_shut) = (open.clone(), Arc::clone(&is_shut));
        async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            if is_shut.load(Ordering::Acquire) {
                return Err(refused());
            }
            let (pipe, far) = duplex(PIPE_BYTES);
            open.send(Ok(Io::new(far, Peer::default())))
                .await
                .map_err(|_| refused())?;
            Ok(Gate { pipe, is_shut })
        }
    });
    let node = Node {
        id: id.into(),
        ..Node::default()
    };
    let bootstrap = Bootstrap::builder(node).protocol(protocol).insecure("127.0.0.1:1");
    let parts = mesh_core::link::Parts {
        entropy: Entropy::seeded(7),
        ..Default::default()
    };
    let builder = XdsClient::builder(bootstrap.build().unwrap()).parts(parts);
    let client = builder.connector(connector).start().unwrap();
    let watch = client.link().interest().watch("t");
    (client, watch)
}

async fn has(client: &XdsClient, port: u16) {
    let link = client.link();
    let is_it = |_: &Report| port_of(&link.snapshots().load()) == Some(port);
    client.status().until(SOON, is_it).await.unwrap();
}

/// What was seen of one control plane.
struct Seen {
    /// How much virtual time passed until each of the others had each publish.
    took: Vec<Duration>,
    /// After which publishes a response was made for the one that is stuck.
    made: Vec<u16>,
    /// Bytes more than before the first of the publishes.
    grown: usize,
}

async fn publishes(protocol: Protocol, gets_stuck: bool) -> Seen {
    let cache = SnapshotCache::new();
    cache.publish("g", &snapshot(1)).unwrap();
    let services = DiscoveryServices::new(cache.clone(), |_: &Caller| Ok("g".into()));
    let (open, accepted) = mpsc::channel(OTHERS + 1);
    let router = tonic::transport::Server::builder().add_routes(services.into_routes());
    let server = tokio::spawn(router.serve_with_incoming(ReceiverStream::new(accepted)));
    let (never, is_shut) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let others: Vec<_> = (0..OTHERS)
        .map(|n| client(protocol, &n.to_string(), &open, &never))
        .collect();
    let stuck = client(protocol, "stuck", &open, &is_shut);
    for (client, _) in others.iter().chain([&stuck]) {
        has(client, 1).await;
    }
    tokio::time::sleep(SOON).await;
    is_shut.store(gets_stuck, Ordering::Release);
    let sent = || {
        let clients = cache.clients();
        let report = clients.into_iter().find(|client| client.node.id == "stuck").unwrap();
        let endpoints = report.subscriptions.into_iter();
        let mut endpoints = endpoints.filter(|one| one.kind == mesh_xds::ResourceKind::Endpoints);
        endpoints.next().and_then(|one| one.sent)
    };
    let (before, mut last, mut made, mut took) = (held(), sent(), Vec::new(), Vec::new());
    for port in 2..2 + PUBLISHES {
        let began = Instant::now();
        cache.publish("g", &snapshot(port)).unwrap();
        for (client, _) in &others {
            has(client, port).await;
            took.push(began.elapsed());
        }
        let now = sent();
        made.extend((now != last).then_some(port));
        last = now;
    }
    let grown = held().saturating_sub(before);
    if gets_stuck {
        assert_eq!(cache.clients().len(), OTHERS + 1);
        tokio::time::sleep(PATIENCE).await;
        let left = cache.clients();
        assert!(left.len() == OTHERS && left.iter().all(|client| client.node.id != "stuck"));
        for (client, _) in &others {
            assert!(client.status().report().is_connected(), "it costs nobody else a stream");
        }
    }
    server.abort();
    Seen { took, made, grown }
}

async fn a_client_that_stops_reading_costs_nothing(protocol: Protocol) {
    let _alone = ALONE.lock().await;
    let alone = publishes(protocol, false).await;
    let beside = publishes(protocol, true).await;
    let most = |seen: &Seen| seen.took.iter().max().copied().unwrap();
    println!(
        "CP-13 {protocol:?}: {OTHERS} others have each of {PUBLISHES} publishes after at most {:?} without and {:?} beside a client that \
         does not read; {} responses were made for it, {} where it reads; {} KiB more are held, {} KiB where it reads",
        most(&alone),
        most(&beside),
        beside.made.len(),
        alone.made.len(),
        beside.grown / 1024,
        alone.grown / 1024
    );
    assert_eq!(alone.took, beside.took);
    assert_eq!(most(&beside), Duration::ZERO, "nobody waited for anything");
    assert_eq!(alone.made.len(), usize::from(PUBLISHES));
    // What its window takes, what is in the pipe, and one that waits; then nothing more is made, however much there is to say.
    let last = beside.made.last().copied().unwrap_or_default();
    assert!(last < PUBLISHES / 2, "{:?}", beside.made);
    assert!(
        beside.grown <= alone.grown + MOST_HELD,
        "{} and {}",
        beside.grown,
        alone.grown
    );
}

#[tokio::test(start_paused = true)]
async fn cp_13_sotw_a_client_that_stops_reading_costs_nobody_a_moment_and_no_memory() {
    a_client_that_stops_reading_costs_nothing(Protocol::Sotw).await;
}

#[tokio::test(start_paused = true)]
async fn cp_13_delta_a_client_that_stops_reading_costs_nobody_a_moment_and_no_memory() {
    a_client_that_stops_reading_costs_nothing(Protocol::Delta).await;
}
