//! CP-13: one client stops reading. Real sockets; the time that is waited for is virtual.

#![allow(clippy::print_stdout, reason = "the figure is the result")]

use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::report::Tally;
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint as Address, Server};

use super::*;
use crate::credentials::{CallTokens, Credentialed};
use crate::server::stream::PATIENCE;
use crate::wire::{Incoming, Sotw};

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const OTHERS: usize = 20;
const PUBLISHES: u16 = 10;
/// What HTTP/2 begins with: the smallest window that no peer has to ask for.
const WINDOW: u32 = 65_535;
/// So many that one response is more than a window.
const ENDPOINTS: u16 = 2_500;

/// A channel without call credentials.
fn bare(channel: tonic::transport::Channel) -> Credentialed {
    let none = CallTokens::new(&[], Arc::new(DefaultTimeProvider), &Entropy::seeded(1));
    Credentialed::new(channel, Arc::new(none))
}

/// A client at the level of messages.
struct Reader {
    requests: mpsc::Sender<Request>,
    responses: Incoming<Sotw>,
}

impl Reader {
    async fn connect(address: &str, id: &str) -> Self {
        let address = Address::from_shared(address.to_owned()).unwrap();
        let channel = address.initial_stream_window_size(WINDOW).connect().await.unwrap();
        let (requests, outgoing) = mpsc::channel(1);
        let node = Node {
            id: id.into(),
            ..Node::default()
        };
        let first = Request {
            node: Some(Arc::new(node)),
            ..request(EDS, "", &["c"])
        };
        requests.send(first).await.unwrap();
        Self {
            requests,
            responses: Incoming::open(bare(channel), outgoing),
        }
    }

    /// Takes the next response and acknowledges it.
    async fn takes(&mut self) -> Response {
        let response = timeout(SOON, self.responses.next()).await.unwrap().unwrap();
        let answer = Request {
            version: response.version.clone(),
            ..request(EDS, &response.nonce, &["c"])
        };
        self.requests.send(answer).await.unwrap();
        response
    }
}

fn many(first_port: u16) -> Snapshot {
    let endpoints = (0..ENDPOINTS).map(|n| Endpoint::new(([127, 0, (n >> 8) as u8, n as u8], first_port).into()));
    Snapshot::builder()
        .cluster(Cluster::new("c", TlsMode::Plaintext, endpoints.collect()))
        .build()
        .unwrap()
}

/// How long after a publish each client had taken it.
async fn published(cache: &SnapshotCache, clients: &mut [Reader], port: u16) -> Vec<Duration> {
    let began = std::time::Instant::now();
    let versions = cache.publish("g", &many(port)).unwrap();
    let mut took = Vec::new();
    for client in clients {
        assert_eq!(client.takes().await.version, versions.of(EDS));
        took.push(began.elapsed());
    }
    took
}

/// The median and the 99th of a hundred.
fn spread(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1_000.0;
    format!("{:.1} ms (p99 {:.1} ms)", at(50), at(99))
}

#[tokio::test]
async fn cp_13_a_client_that_stops_reading_costs_the_others_nothing_and_is_cut_off() {
    let tally = Tally::default();
    let cache = SnapshotCache::counting(tally.clone());
    let services = DiscoveryServices::new(cache.clone(), |_: &Caller| Ok("g".into()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let incoming = TcpListenerStream::new(listener).map(|tcp| tcp.map(|tcp| Io::new(tcp, Peer::default())));
    let router = Server::builder().add_routes(services.into_routes());
    tokio::spawn(router.serve_with_incoming(incoming));

    cache.publish("g", &many(1)).unwrap();
    let mut others = Vec::new();
    for n in 0..OTHERS {
        let mut other = Reader::connect(&address, &n.to_string()).await;
        other.takes().await;
        others.push(other);
    }
    let mut alone = Vec::new();
    for port in 2..=PUBLISHES {
        alone.extend(published(&cache, &mut others, port).await);
    }
    let mut stuck = Reader::connect(&address, "stuck").await;
    stuck.takes().await;
    // It reads no more. Everybody else gets each publish.
    let sent_to_stuck = || {
        let reports = cache.clients();
        let report = reports.iter().find(|client| client.node.id == "stuck").unwrap();
        report.subscriptions[0].sent.clone().unwrap()
    };
    let (mut sent, mut beside) = (Vec::new(), Vec::new());
    for port in 2..=PUBLISHES {
        beside.extend(published(&cache, &mut others, PUBLISHES + port).await);
        sent.push(sent_to_stuck());
    }
    // Told and not judged: what else the machine does is in it.
    println!(
        "CP-13: a publish was with the others in {} beside the stuck one, and in {} without it",
        spread(beside),
        spread(alone)
    );
    // What fits its window, one that waits for it, and one in the queue; after that nothing was made for it, however much
    // there was to say.
    let last = sent.last().unwrap();
    let unchanged = sent.iter().filter(|version| *version == last).count();
    println!("CP-13: {OTHERS} others took {PUBLISHES} of {PUBLISHES} publishes; the stuck one was made {sent:?}");
    assert!(unchanged >= usize::from(PUBLISHES) / 2, "{sent:?}");

    let mut changes = cache.client_changes();
    tokio::time::pause();
    tokio::time::advance(PATIENCE + Duration::from_millis(1)).await;
    let gone = changes.wait_for(|_| cache.clients().len() == OTHERS);
    timeout(SOON, gone).await.unwrap().unwrap();
    tokio::time::resume();
    assert!(cache.clients().iter().all(|client| client.node.id != "stuck"));
    assert_eq!(tally.get("xds_stream_dropped", "slow_reader"), 1);
    assert_eq!(tally.total("xds_stream_dropped"), 1);
    // What was on its way may still come; then the connection has ended.
    let mut taken = 0;
    while timeout(SOON, stuck.responses.next()).await.unwrap().is_ok() {
        taken += 1;
    }
    assert!(taken <= 2, "{taken}");

    let versions = cache.publish("g", &many(1)).unwrap();
    for other in &mut others {
        assert_eq!(other.takes().await.version, versions.of(EDS));
    }
    assert_eq!(tally.total("xds_stream_dropped"), 1);
}
