//! CP-13: one client stops reading. Real sockets; the time that is waited for is virtual. That the others are not a moment later for
//! it, and what it holds in memory, is in `tests/memory/stuck.rs`, to the byte and the instant.

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
use crate::wire::{Delta, DeltaRequest, DeltaResponse, Incoming, Sotw, Variant};

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const OTHERS: usize = 20;
const PUBLISHES: u16 = 20;
/// What HTTP/2 begins with: the smallest window that no peer has to ask for.
const WINDOW: u32 = 65_535;
/// So many that one response is more than a window.
const ENDPOINTS: u16 = 2_500;

/// A channel without call credentials.
fn bare(channel: tonic::transport::Channel) -> Credentialed {
    let none = CallTokens::new(&[], Arc::new(DefaultTimeProvider), &Entropy::seeded(1));
    Credentialed::new(channel, Arc::new(none))
}

/// What a client of each variant says, at the level of messages.
trait Says: Variant {
    fn first(node: Arc<Node>) -> Self::Request;
    fn answer(response: &Self::Response) -> Self::Request;
    fn version(response: &Self::Response) -> &str;
}

impl Says for Sotw {
    fn first(node: Arc<Node>) -> Request {
        Request {
            node: Some(node),
            ..request(EDS, "", &["c"])
        }
    }

    fn answer(response: &Response) -> Request {
        Request {
            version: response.version.clone(),
            ..request(EDS, &response.nonce, &["c"])
        }
    }

    fn version(response: &Response) -> &str {
        &response.version
    }
}

impl Says for Delta {
    fn first(node: Arc<Node>) -> DeltaRequest {
        DeltaRequest {
            type_url: EDS.type_url().into(),
            subscribe: vec!["c".into()],
            node: Some(node),
            ..DeltaRequest::default()
        }
    }

    fn answer(response: &DeltaResponse) -> DeltaRequest {
        DeltaRequest {
            type_url: EDS.type_url().into(),
            nonce: response.nonce.clone(),
            ..DeltaRequest::default()
        }
    }

    fn version(response: &DeltaResponse) -> &str {
        &response.version
    }
}

/// A client that reads when it is asked to.
struct Reader<V: Says> {
    requests: mpsc::Sender<V::Request>,
    responses: Incoming<V>,
}

impl<V: Says> Reader<V> {
    async fn connect(address: &str, id: &str) -> Self {
        let address = Address::from_shared(address.to_owned()).unwrap();
        let channel = address.initial_stream_window_size(WINDOW).connect().await.unwrap();
        let (requests, outgoing) = mpsc::channel(1);
        let node = Node {
            id: id.into(),
            ..Node::default()
        };
        requests.send(V::first(Arc::new(node))).await.unwrap();
        Self {
            requests,
            responses: Incoming::open(bare(channel), outgoing),
        }
    }

    /// Takes the next response and acknowledges it.
    async fn takes(&mut self) -> V::Response {
        let response = timeout(SOON, self.responses.next()).await.unwrap().unwrap();
        self.requests.send(V::answer(&response)).await.unwrap();
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

#[tokio::test]
async fn cp_13_sotw_a_client_that_stops_reading_costs_the_others_nothing_and_is_cut_off() {
    a_client_that_stops_reading_costs_the_others_nothing_and_is_cut_off::<Sotw>().await;
}

#[tokio::test]
async fn cp_13_delta_a_client_that_stops_reading_costs_the_others_nothing_and_is_cut_off() {
    a_client_that_stops_reading_costs_the_others_nothing_and_is_cut_off::<Delta>().await;
}

/// A control plane, and clients of it that read.
struct Plane<V: Says> {
    cache: SnapshotCache,
    tally: Tally,
    address: String,
    clients: Vec<Reader<V>>,
}

impl<V: Says> Plane<V> {
    async fn start() -> Self {
        let tally = Tally::default();
        let cache = SnapshotCache::counting(tally.clone());
        let services = DiscoveryServices::new(cache.clone(), |_: &Caller| Ok("g".into()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let incoming = TcpListenerStream::new(listener).map(|tcp| tcp.map(|tcp| Io::new(tcp, Peer::default())));
        let router = Server::builder().add_routes(services.into_routes());
        tokio::spawn(router.serve_with_incoming(incoming));
        cache.publish("g", &many(1)).unwrap();
        let mut clients = Vec::new();
        for n in 0..OTHERS {
            let mut client = Reader::connect(&address, &n.to_string()).await;
            client.takes().await;
            clients.push(client);
        }
        Self {
            cache,
            tally,
            address,
            clients,
        }
    }

    /// Each client takes what is published.
    async fn publish(&mut self, port: u16) {
        let versions = self.cache.publish("g", &many(port)).unwrap();
        for client in &mut self.clients {
            assert_eq!(V::version(&client.takes().await), versions.of(EDS));
        }
    }
}

async fn a_client_that_stops_reading_costs_the_others_nothing_and_is_cut_off<V: Says>() {
    let mut beside = Plane::<V>::start().await;
    let (cache, tally) = (beside.cache.clone(), beside.tally.clone());
    let mut stuck = Reader::<V>::connect(&beside.address, "stuck").await;
    stuck.takes().await;
    // It reads no more. Everybody else gets each publish.
    let sent_to_stuck = || {
        let reports = cache.clients();
        let report = reports.iter().find(|client| client.node.id == "stuck").unwrap();
        report.subscriptions[0].sent.clone().unwrap()
    };
    let mut sent = Vec::new();
    for publish in 0..PUBLISHES {
        beside.publish(2 + publish).await;
        sent.push(sent_to_stuck());
    }
    // What fits its window, one that waits for it, and one in the queue; after that nothing was made for it, however much
    // there was to say.
    let last = sent.last().unwrap();
    let unchanged = sent.iter().filter(|version| *version == last).count();
    println!("CP-13: {OTHERS} others took all publishes; the stuck one was made {sent:?}");
    assert!(unchanged >= sent.len() / 2, "{sent:?}");

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

    beside.publish(1).await;
    assert_eq!(tally.total("xds_stream_dropped"), 1);
}
