//! CP-11: a control plane restarts under a thousand clients. Real clients, the real service, pipes in memory, virtual time.
//!
//! Memory is what the allocator has handed out and not got back: the control plane's and its clients' together, since they
//! share a process here. What a herd costs either is in it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_core::config::{Cluster, Endpoint, Route, Split, TlsMode};
use mesh_core::link::{Guard, Parts};
use mesh_core::{Entropy, Snapshot};
use mesh_xds::client::Report;
use mesh_xds::server::{Caller, DiscoveryServices, Io, Peer, SnapshotCache};
use mesh_xds::{Bootstrap, Connector, Node, XdsClient};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::{ALONE, Peak, held};

const CLIENTS: usize = 1_000;
/// Of them, in any second but the first.
const MOST: usize = CLIENTS / 10;
const CONVERGED: Duration = Duration::from_secs(60);
/// What a pipe holds.
const PIPE_BYTES: usize = 64 * 1024;

/// Of what is held when nothing happens.
const MOST_MEMORY: usize = 2;
/// How often memory is looked at, besides at every dial and every stream that begins.
const LOOK: Duration = Duration::from_millis(50);
/// Longer than anything goes on after everybody has converged.
const QUIET: Duration = Duration::from_secs(60);

type Accepted = io::Result<Io<DuplexStream>>;

/// What the control plane's address leads to, and when it was dialled.
#[derive(Clone, Default)]
struct Port {
    open: Arc<Mutex<Option<mpsc::Sender<Accepted>>>>,
    dialled: Arc<Mutex<Vec<Instant>>>,
    begun: Arc<Mutex<Vec<Instant>>>,
    peak: Peak,
}

impl Port {
    fn connector(&self) -> Connector {
        let port = self.clone();
        Connector::new(move |_| {
            let port = port.clone();
            async move {
                port.dialled.lock().unwrap().push(Instant::now());
                port.peak.look();
                let open = port.open.lock().unwrap().clone();
                let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
                let open = open.ok_or_else(refused)?;
                let (near, far) = duplex(PIPE_BYTES);
                let accepted = Ok(Io::new(far, Peer::default()));
                open.send(accepted).await.map_err(|_| refused())?;
                Ok(near)
            }
        })
    }
}

/// A running control plane.
struct Plane {
    cache: SnapshotCache,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Plane {
    fn start(port: &Port, endpoint: u16) -> Self {
        let cache = SnapshotCache::new();
        cache.publish("g", &snapshot(endpoint)).unwrap();
        let (begun, peak) = (Arc::clone(&port.begun), port.peak.clone());
        let services = DiscoveryServices::new(cache.clone(), move |_: &Caller| {
            begun.lock().unwrap().push(Instant::now());
            peak.look();
            Ok("g".into())
        });
        let (open, accepted) = mpsc::channel(CLIENTS);
        *port.open.lock().unwrap() = Some(open);
        let (stop, stopped) = oneshot::channel::<()>();
        let router = tonic::transport::Server::builder().add_routes(services.into_routes());
        let server = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            let serving = router.serve_with_incoming_shutdown(ReceiverStream::new(accepted), stopped);
            serving.await.unwrap();
        });
        Self { cache, stop, server }
    }

    async fn stop(self, port: &Port) {
        *port.open.lock().unwrap() = None;
        self.cache.close();
        self.stop.send(()).unwrap();
        self.server.await.unwrap();
    }
}

fn snapshot(port: u16) -> Snapshot {
    let endpoint = Endpoint::new(([127, 0, 0, 1], port).into());
    Snapshot::builder()
        .route("t", Route::to(Split::all_to("c")))
        .cluster(Cluster::new("c", TlsMode::Plaintext, vec![endpoint]))
        .build()
        .unwrap()
}

fn port_of(snapshot: &Snapshot) -> Option<u16> {
    let cluster = snapshot.cluster(&"c".into())?.as_ref().ok()?;
    Some(cluster.endpoints.first()?.address.port())
}

fn client(port: &Port, seed: u64) -> (XdsClient, Guard) {
    let node = Node {
        id: seed.to_string(),
        ..Node::default()
    };
    let bootstrap = Bootstrap::builder(node).insecure("127.0.0.1:1").build().unwrap();
    let parts = Parts {
        entropy: Entropy::seeded(seed),
        ..Parts::default()
    };
    let builder = XdsClient::builder(bootstrap).parts(parts).connector(port.connector());
    let client = builder.start().unwrap();
    let watch = client.link().interest().watch("t");
    (client, watch)
}

/// When every client uses that endpoint.
async fn converged(clients: &[(XdsClient, Guard)], endpoint: u16) -> Instant {
    for (client, _) in clients {
        let link = client.link();
        let has = |_: &Report| port_of(&link.snapshots().load()) == Some(endpoint);
        client.status().until(CONVERGED, has).await.unwrap();
    }
    Instant::now()
}

/// The most in any second that begins after the first one.
fn most(times: &Mutex<Vec<Instant>>, since: Instant) -> usize {
    let mut times = times.lock().unwrap().clone();
    times.retain(|at| *at >= since + Duration::from_secs(1));
    times.sort_unstable();
    let most = times.iter().map(|from| {
        let until = *from + Duration::from_secs(1);
        times.iter().filter(|at| (*from..until).contains(at)).count()
    });
    most.max().unwrap_or_default()
}

/// What one restart looked like. A dial to a port where nobody listens is no load to anybody and is not counted; every one that
/// reaches the control plane that is back is, and every stream that begins there.
struct Restart {
    /// All that reached it.
    dials: usize,
    /// In any second after the first.
    dialled: usize,
    begun: usize,
    took: Duration,
    steady: usize,
    peak: usize,
}

async fn restart_after(outage: Duration) -> Restart {
    let _alone = ALONE.lock().await;
    let port = Port::default();
    let plane = Plane::start(&port, 1);
    let clients: Vec<_> = (0..CLIENTS as u64).map(|seed| client(&port, seed << 32)).collect();
    converged(&clients, 1).await;
    tokio::time::sleep(QUIET).await;
    let steady = held();
    port.peak.forget();
    let peak = port.peak.clone();
    let looking = tokio::spawn(async move {
        loop {
            peak.look();
            tokio::time::sleep(LOOK).await;
        }
    });
    plane.stop(&port).await;
    tokio::time::sleep(outage).await;
    let since = Instant::now();
    let plane = Plane::start(&port, 2);
    let took = converged(&clients, 2).await - since;
    looking.abort();
    let dials = port.dialled.lock().unwrap().iter().filter(|at| **at >= since).count();
    let (dialled, begun) = (most(&port.dialled, since), most(&port.begun, since));
    let peak = port.peak.bytes();
    println!(
        "CP-11: {CLIENTS} clients, away {} s: {dials} dialled; in any second after the first at most {dialled} did and {begun} began; \
         all converged in {:.1} s; at most {} KiB held, {} KiB before",
        outage.as_secs(),
        took.as_secs_f64(),
        peak / 1024,
        steady / 1024
    );
    assert_eq!(plane.cache.clients().len(), CLIENTS);
    drop(clients);
    plane.stop(&port).await;
    Restart {
        dials,
        dialled,
        begun,
        took,
        steady,
        peak,
    }
}

/// Nobody dials twice: who is sent away keeps its connection.
#[track_caller]
fn is_spread(restart: &Restart, most_dials: usize) {
    assert_eq!(restart.dials, CLIENTS);
    assert!(restart.dialled <= most_dials, "{}", restart.dialled);
    assert!(restart.begun <= MOST, "{}", restart.begun);
    assert!(restart.took < CONVERGED, "{:?}", restart.took);
    let (peak, steady) = (restart.peak, restart.steady);
    assert!(peak <= MOST_MEMORY * steady, "{peak} bytes, {steady} before");
}

#[tokio::test(start_paused = true)]
async fn cp_11_a_thousand_clients_of_a_control_plane_that_restarts_return_spread() {
    is_spread(&restart_after(Duration::ZERO).await, MOST);
}

/// After an outage the backoff of each client says when it dials; what begins is paced, and who is sent away keeps its connection. Each
/// client's pauses are all longer by the same share, a fifth at most, so that after S seconds of pauses a thousand dial within 0.4 S
/// seconds, evenly: 30 s are the end of six pauses (1, 1.6, 2.6, 4.1, 6.6 and 10.5 s: 26 s, 95 a second) and seven (43 s, 58 a second).
#[tokio::test(start_paused = true)]
async fn cp_11_after_an_outage_no_second_sees_more_than_a_tenth_begin() {
    is_spread(&restart_after(Duration::from_secs(30)).await, MOST);
}

/// A short outage: what begins is paced as ever, and so is all that a client costs beyond its connection. Who dials is in the first
/// pauses of gRPC's backoff, 1 s and 1.6 times more each time: 5 s after the loss that is the end of three (5.2 s) or four (9.3 s), a
/// fifth more or less, so that a thousand clients come within 0.4 times that, each once: 480 and 270 a second at least, whatever is
/// drawn. A tenth a second would take ten seconds, which is a backoff that gRPC does not have.
#[tokio::test(start_paused = true)]
async fn cp_11_after_a_short_outage_no_second_sees_more_than_a_tenth_begin() {
    is_spread(&restart_after(Duration::from_secs(5)).await, CLIENTS / 2);
}
