//! The sink for load reports, from the client's side of the wire.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::identity::SpiffeId;
use mesh_core::report::{ClusterLoad, Counts, LocalityLoad, Tally};
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Endpoint;

use crate::credentials::{CallTokens, Credentialed};
use crate::node::Node;
use crate::server::{Caller, Io, LoadBoard, LoadService, Peer, Refusal};
use crate::wire::load::{Ended, IncomingLoad, LoadRequest};

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A sink whose callers are all whom a certificate names `billing`, and may claim to be nobody else.
async fn sink(board: &LoadBoard) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = Peer {
        identity: Some(SpiffeId::parse("spiffe://d/ns/shop/sa/billing").unwrap()),
        ..Peer::default()
    };
    let incoming = TcpListenerStream::new(listener).map(move |io| io.map(|io| Io::new(io, peer.clone())));
    let service = LoadService::new(board.clone(), |caller: &Caller| {
        let account = caller
            .peer
            .identity
            .as_ref()
            .and_then(|id| id.path().rsplit('/').next());
        match account == caller.node.metadata_text("SERVICE_ACCOUNT") {
            true => Ok(Arc::from("shop")),
            false => Err(Refusal::new("the node claims to be somebody else")),
        }
    });
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    address
}

async fn connect(address: SocketAddr) -> Credentialed {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let no_tokens = CallTokens::new(&[], Arc::new(DefaultTimeProvider), &Entropy::seeded(1));
    Credentialed::new(endpoint.connect().await.unwrap(), Arc::new(no_tokens))
}

fn hello(account: &str) -> LoadRequest {
    let node = Node {
        metadata: [("SERVICE_ACCOUNT".into(), account.into())].into(),
        ..Node::default()
    };
    LoadRequest {
        node: Some(Arc::new(node)),
        ..LoadRequest::default()
    }
}

fn open(channel: Credentialed) -> (mpsc::Sender<LoadRequest>, IncomingLoad) {
    let (requests, outgoing) = mpsc::channel(1);
    (requests, IncomingLoad::open(channel, outgoing))
}

#[tokio::test]
async fn who_claims_to_be_somebody_else_is_refused_and_leaves_no_trace() {
    let tally = Tally::default();
    let board = LoadBoard::counting(LoadBoard::DEFAULT_INTERVAL, tally.clone());
    let channel = connect(sink(&board).await).await;
    let (requests, mut incoming) = open(channel);
    requests.send(hello("payment")).await.unwrap();
    let ended = tokio::time::timeout(SOON, incoming.next()).await.unwrap().unwrap_err();
    let Ended::Because(why) = ended else {
        panic!("{ended:?}")
    };
    assert!(
        why.contains("PermissionDenied") && why.contains("somebody else"),
        "{why}"
    );
    assert!(board.snapshot().is_empty());
    assert_eq!(tally.all(), [("lrs_stream_refused", "refused", 1)]);
}

#[tokio::test]
async fn a_client_is_asked_for_everything_told_how_often_and_believed() {
    let tally = Tally::default();
    let board = LoadBoard::counting(Duration::from_millis(1_500), tally.clone());
    let channel = connect(sink(&board).await).await;
    let (requests, mut incoming) = open(channel);
    requests.send(hello("billing")).await.unwrap();
    let response = tokio::time::timeout(SOON, incoming.next()).await.unwrap().unwrap();
    assert_eq!(
        (response.all, response.interval),
        (true, Some(Duration::from_millis(1_500)))
    );
    let counts = Counts {
        issued: 3,
        succeeded: 2,
        errored: 1,
        in_progress: 0,
    };
    let load = LocalityLoad {
        locality: Arc::default(),
        counts,
        figures: [].into(),
    };
    let report = LoadRequest {
        span: Duration::from_secs(2),
        clusters: vec![ClusterLoad {
            localities: vec![load],
            ..ClusterLoad::new("c".into(), "c".into())
        }],
        ..LoadRequest::default()
    };
    let mut changes = board.changes();
    requests.send(report).await.unwrap();
    let reported = changes.wait_for(|_| board.snapshot().iter().any(|client| client.reports == 1));
    tokio::time::timeout(SOON, reported).await.unwrap().unwrap();
    let clients = board.snapshot();
    let seen = &clients[0];
    assert_eq!(seen.peer.as_ref().unwrap().path(), "/ns/shop/sa/billing");
    assert_eq!(
        (seen.clusters[0].window.counts(), seen.clusters[0].span),
        (counts, Duration::from_secs(2))
    );

    // A board that is closed ends its streams, and those that come after.
    board.close();
    let ended = tokio::time::timeout(SOON, incoming.next()).await.unwrap().unwrap_err();
    assert!(matches!(ended, Ended::Because(why) if why.contains("shutting down")));
    let gone = changes.wait_for(|_| board.snapshot().is_empty());
    tokio::time::timeout(SOON, gone).await.unwrap().unwrap();
    assert_eq!(tally.all(), [("lrs_stream_dropped", "closed", 1)]);
}
