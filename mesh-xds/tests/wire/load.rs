//! Load reports over loopback: what a process counts arrives at its control plane, from the first call to the last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use mesh_core::config::{Cluster, LoadReporting, Locality, ReportedMetric, Route, Snapshot, Split, TlsMode};
use mesh_core::link::Guard;
use mesh_core::report::{Counted, Counts, Drops, Figure, Load};
use mesh_xds::bootstrap::{AuthorityEntry, ServerEntry};
use mesh_xds::server::{AdsService, Caller, ClientLoad, LoadBoard, LoadService, Refusal, SnapshotCache};
use mesh_xds::{Bootstrap, Node, XdsClient};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// The shortest that clients keep to.
const INTERVAL: Duration = Duration::from_millis(100);

struct Plane {
    cache: SnapshotCache,
    board: Option<LoadBoard>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

fn grouping(caller: &Caller) -> Result<Arc<str>, Refusal> {
    match caller.node.id.as_str() {
        "test" => Ok("shop".into()),
        other => Err(Refusal::new(format!("not {other}"))),
    }
}

impl Plane {
    /// With a sink for load reports, or without.
    async fn start(listener: TcpListener, board: Option<LoadBoard>) -> Self {
        let cache = SnapshotCache::new();
        let address = listener.local_addr().unwrap();
        let ads = AdsService::new(cache.clone(), grouping);
        let loads = board.clone().map(|board| LoadService::new(board, grouping));
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let router = tonic::transport::Server::builder().add_service(ads);
            let router = router.add_optional_service(loads);
            let stopped = async { drop(stopped.await) };
            router.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        let cluster = Cluster::new("c", TlsMode::Plaintext, Vec::new());
        let builder = Snapshot::builder().route("t", Route::to(Split::all_to("c")));
        cache
            .publish("shop", &builder.cluster(cluster).build().unwrap())
            .unwrap();
        Self {
            cache,
            board,
            address,
            stop,
            server,
        }
    }

    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start(listener, Some(LoadBoard::new(INTERVAL))).await
    }

    /// Ends every stream and closes the port.
    async fn stop(self) -> SocketAddr {
        self.cache.close();
        self.board.inspect(LoadBoard::close);
        self.stop.send(()).unwrap();
        tokio::time::timeout(SOON, self.server).await.unwrap().unwrap();
        self.address
    }

    /// A client that wants something, so that it has a stream.
    fn client(&self, id: &str) -> (XdsClient, Guard) {
        let node = Node {
            id: id.into(),
            ..Node::default()
        };
        let bootstrap = Bootstrap::builder(node).insecure(&self.address.to_string());
        let client = XdsClient::start(bootstrap.build().unwrap()).unwrap();
        let guard = client.link().interest().watch("t");
        (client, guard)
    }

    /// Waits until what is on the board is as it should be.
    async fn until(&self, mut is_so: impl FnMut(&[ClientLoad]) -> bool) -> Vec<ClientLoad> {
        let board = self.board.as_ref().unwrap();
        let mut changes = board.changes();
        let wait = changes.wait_for(|_| is_so(&board.snapshot()));
        let waited = tokio::time::timeout(SOON, wait).await.map(drop);
        assert!(waited.is_ok(), "{:#?}", board.snapshot());
        board.snapshot()
    }
}

/// What a data plane does with its link.
fn counting(client: &XdsClient) -> (Arc<Load>, Arc<Drops>) {
    let reporting = LoadReporting {
        metrics: Arc::new([ReportedMetric::AllNamed]),
        ..LoadReporting::of("eds")
    };
    let locality = Arc::new(Locality {
        zone: "z".into(),
        ..Locality::default()
    });
    let link = client.link();
    let load = link.loads().load(&"c".into(), &reporting, &locality);
    (load, link.loads().drops(&"c".into(), &reporting))
}

fn call(load: &Arc<Load>, status: u8) {
    let mut call = Counted::begin(Arc::clone(load), true);
    let metrics = "TEXT named_metrics.q=2".parse().unwrap();
    let headers = HeaderMap::from_iter([("endpoint-load-metrics".parse().unwrap(), metrics)]);
    call.saw_headers(StatusCode::OK, Some(status), &headers);
}

/// The totals of the only cluster of the only client.
fn total(clients: &[ClientLoad]) -> Option<Counts> {
    let [client] = clients else { return None };
    Some(client.clusters.first()?.total.counts())
}

fn counts(issued: u64, succeeded: u64, errored: u64, in_progress: u64) -> Counts {
    Counts {
        issued,
        succeeded,
        errored,
        in_progress,
    }
}

#[tokio::test]
async fn what_is_counted_arrives_and_goes_with_its_client() {
    let plane = Plane::new().await;
    let (client, guard) = plane.client("test");
    let (load, drops) = counting(&client);
    let open = Counted::begin(Arc::clone(&load), true);
    for status in [0, 0, 0, 14] {
        call(&load, status);
    }
    drops.count("lb");
    drops.count_uncategorised();
    let clients = plane.until(|clients| total(clients) == Some(counts(5, 3, 1, 1))).await;
    let seen = &clients[0];
    assert_eq!(
        (seen.node.id.as_str(), &*seen.group, seen.peer.is_none()),
        ("test", "shop", true)
    );
    let features = &seen.node.features;
    assert!(
        features
            .iter()
            .any(|feature| feature == "envoy.lrs.supports_send_all_clusters")
    );
    let cluster = &seen.clusters[0].total;
    assert_eq!((cluster.cluster.as_str(), &*cluster.service), ("c", "eds"));
    assert_eq!(&*cluster.localities[0].locality.zone, "z");
    let figure = Figure { calls: 4, sum: 8.0 };
    assert_eq!(
        cluster.localities[0].figures,
        [("named_metrics.q".into(), figure)].into()
    );
    assert_eq!(
        (cluster.drops.clone(), cluster.uncategorised_drops),
        ([("lb".into(), 1)].into(), 1)
    );

    // A window tells of itself only; what is in progress goes on until it ends.
    call(&load, 0);
    drop(open);
    let ended = |clients: &[ClientLoad]| total(clients) == Some(counts(6, 4, 2, 0));
    let clients = plane.until(ended).await;
    assert!(
        clients[0].clusters[0].span >= INTERVAL,
        "{:?}",
        clients[0].clusters[0].span
    );
    let quiet = |clients: &[ClientLoad]| ended(clients) && clients[0].clusters[0].window.is_quiet();
    plane.until(quiet).await;

    drop((guard, load, drops, client));
    plane.until(<[ClientLoad]>::is_empty).await;
    plane.stop().await;
}

#[tokio::test]
async fn nobody_reports_who_has_nothing_to_report_on() {
    let plane = Plane::new().await;
    let (client, _guard) = plane.client("test");
    let published = |report: &mesh_xds::client::Report| report.published.0 > 0;
    client.status().until(SOON, published).await.unwrap();
    // Another client that has comes on the board; this one, which was first, does not.
    let (other, _other_guard) = plane.client("test");
    let (load, _drops) = counting(&other);
    call(&load, 0);
    let clients = plane.until(|clients| total(clients) == Some(counts(1, 1, 0, 0))).await;
    assert_eq!(clients.len(), 1);
    // It ends its stream when nothing is counted any more, and stays connected.
    drop((load, _drops));
    plane.until(<[ClientLoad]>::is_empty).await;
    assert!(other.status().report().is_connected());
    // And has another when something is.
    let (load, _drops) = counting(&other);
    call(&load, 0);
    plane.until(|clients| total(clients) == Some(counts(1, 1, 0, 0))).await;
}

#[tokio::test]
async fn what_is_counted_while_the_control_plane_is_away_is_told_when_it_is_back() {
    let plane = Plane::new().await;
    let (client, _guard) = plane.client("test");
    let (load, _drops) = counting(&client);
    call(&load, 0);
    plane.until(|clients| total(clients) == Some(counts(1, 1, 0, 0))).await;
    let address = plane.stop().await;
    let status = client.status();
    status.until(SOON, |report| !report.is_connected()).await.unwrap();
    for _ in 0..7 {
        call(&load, 0);
    }
    let listener = TcpListener::bind(address).await.unwrap();
    let plane = Plane::start(listener, Some(LoadBoard::new(INTERVAL))).await;
    plane.until(|clients| total(clients) == Some(counts(7, 7, 0, 0))).await;
}

#[tokio::test]
async fn a_control_plane_that_takes_no_reports_serves_configuration_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plane = Plane::start(listener, None).await;
    let (client, _guard) = plane.client("test");
    let (load, _drops) = counting(&client);
    call(&load, 0);
    let published = |report: &mesh_xds::client::Report| report.published.0 > 0;
    let report = client.status().until(SOON, published).await.unwrap();
    assert_eq!(report.connection.streams, 1);
    let cluster = Cluster::new("c2", TlsMode::Plaintext, Vec::new());
    let builder = Snapshot::builder().route("t", Route::to(Split::all_to("c2")));
    plane
        .cache
        .publish("shop", &builder.cluster(cluster).build().unwrap())
        .unwrap();
    let again = |report: &mesh_xds::client::Report| report.published.0 > 1;
    let report = client.status().until(SOON, again).await.unwrap();
    assert_eq!((report.connection.streams, report.is_connected()), (1, true));
}

/// Of two control planes, each of which says that its clusters are to be reported on, each is told every count of its own
/// clusters and none of the other's (gRFC A47: `lrs_server` is whom the cluster came from).
#[tokio::test]
async fn each_of_two_control_planes_is_told_all_that_is_its_own() {
    let (home, away) = (Plane::new().await, Plane::new().await);
    let node = Node {
        id: "test".into(),
        ..Node::default()
    };
    let authority = AuthorityEntry::default().server(ServerEntry::insecure(&away.address.to_string()));
    let bootstrap = Bootstrap::builder(node).insecure(&home.address.to_string());
    let bootstrap = bootstrap.authority("a.example", authority).build().unwrap();
    let client = XdsClient::start(bootstrap).unwrap();
    let link = client.link();
    let _guards = ["t", "xds://a.example/t"].map(|target| link.interest().watch(target));
    let theirs = "xdstp://a.example/envoy.config.cluster.v3.Cluster/c";
    let locality = Arc::new(Locality::default());
    let load = |cluster: &str| link.loads().load(&cluster.into(), &LoadReporting::of("eds"), &locality);
    let (at_home, away_from_home) = (load("c"), load(theirs));
    for round in 1..=3 {
        (0..5).for_each(|_| call(&at_home, 0));
        (0..3).for_each(|_| call(&away_from_home, 14));
        let seen = home
            .until(|clients| total(clients) == Some(counts(5 * round, 5 * round, 0, 0)))
            .await;
        assert_eq!(seen[0].clusters.len(), 1);
        assert_eq!(seen[0].clusters[0].total.cluster.as_str(), "c");
        let seen = away
            .until(|clients| total(clients) == Some(counts(3 * round, 0, 3 * round, 0)))
            .await;
        assert_eq!(seen[0].clusters.len(), 1);
        assert_eq!(seen[0].clusters[0].total.cluster.as_str(), theirs);
    }
}
