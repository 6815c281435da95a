//! What calls come to is reported to the control plane whose cluster they went to: of two, each is told exactly what was called
//! and dropped of its own, over real streams, and nothing of the other's (gRFCs A27, A32, A47).

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use examples::service::Payments;
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::{Cluster, DropOverload, Endpoint, LoadReporting, RetryPolicy, Route, Snapshot, Split, TlsMode};
use mesh_core::report::Counts;
use mesh_server::MeshLayer;
use mesh_xds::bootstrap::{AuthorityEntry, ServerEntry};
use mesh_xds::server::{AdsService, Caller, LoadBoard, LoadService, ReportedLoad, SnapshotCache};
use mesh_xds::{Bootstrap, Node, XdsClient};
use tests::{listener, soon};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tower::Layer as _;

type Client = PaymentClient<Channel<tonic::body::Body>>;

/// How often the control planes want to be told: the shortest that clients keep to.
const INTERVAL: Duration = Duration::from_millis(100);
/// The most calls that go by before a change is in effect.
const MAX_BEFORE: u64 = 10_000;

/// A control plane of one target and one cluster, and the service behind it.
struct Plane {
    target: &'static str,
    cluster: &'static str,
    cache: SnapshotCache,
    board: LoadBoard,
    address: SocketAddr,
    backend: SocketAddr,
    payments: Payments,
}

impl Plane {
    async fn start(target: &'static str, cluster: &'static str) -> Self {
        let (socket, backend) = listener().await;
        let link = Link::fixed(Snapshot::empty(), None);
        let payments = Payments::new("v1", Duration::ZERO);
        let app = MeshLayer::new(&link).dangerous().plaintext();
        let app = app.layer(payments.clone().into_service());
        tokio::spawn(
            mesh_server::serve(socket, &link, app)
                .dangerous()
                .plaintext()
                .into_future(),
        );
        let (socket, address) = listener().await;
        let (cache, board) = (SnapshotCache::new(), LoadBoard::new(INTERVAL));
        let everybody = |_: &Caller| Ok("all".into());
        let router = tonic::transport::Server::builder()
            .add_service(AdsService::new(cache.clone(), everybody))
            .add_service(LoadService::new(board.clone(), everybody));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(socket)));
        let plane = Self {
            target,
            cluster,
            cache,
            board,
            address,
            backend,
            payments,
        };
        plane.publish(|_| ());
        plane
    }

    fn publish(&self, change: impl FnOnce(&mut Cluster)) {
        let mut cluster = Cluster::new(self.cluster, TlsMode::Plaintext, vec![Endpoint::new(self.backend)]);
        cluster.load_reporting = Some(LoadReporting::of(self.cluster));
        change(&mut cluster);
        let route = Route {
            retry: RetryPolicy::never(),
            ..Route::to(Split::all_to(self.cluster))
        };
        let snapshot = Snapshot::builder().route(self.target, route).cluster(cluster);
        self.cache.publish("all", &snapshot.build().unwrap()).unwrap();
    }

    /// Waits until it was told exactly this, and of nothing else.
    async fn is_told(&self, called: &Called) {
        let mut changes = self.board.changes();
        let is_so = || {
            let clients = self.board.snapshot();
            match &clients[..] {
                [client] => matches!(&client.clusters[..], [only] if *called == Called::of(only)),
                _ => false,
            }
        };
        let told = changes.wait_for(|_| is_so());
        let waited = tokio::time::timeout(tests::PATIENCE, told).await.map(drop);
        assert!(waited.is_ok(), "{called:?} is not {:#?}", self.board.snapshot());
        let clients = self.board.snapshot();
        assert_eq!(clients[0].clusters[0].total.cluster.as_str(), self.cluster);
    }
}

/// What came of the calls to one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Called {
    succeeded: u64,
    errored: u64,
    /// Of the category "lb".
    dropped: u64,
    /// For a limit of the cluster.
    refused: u64,
}

impl Called {
    fn of(reported: &ReportedLoad) -> Self {
        let total = &reported.total;
        let counts = total.counts();
        assert!(total.drops.keys().all(|category| &**category == "lb"), "{total:?}");
        // A window may end while a call is in it.
        let whole = Counts {
            in_progress: 0,
            issued: counts.succeeded + counts.errored,
            ..counts
        };
        match counts == whole {
            true => Self {
                succeeded: counts.succeeded,
                errored: counts.errored,
                dropped: total.drops.values().sum(),
                refused: total.uncategorised_drops,
            },
            false => Self::default(),
        }
    }

    /// Calls, and counts what came of it.
    async fn call(&mut self, client: &Client) -> Result<(), Status> {
        let answer = client.clone().charge(ChargeRequest::default()).await;
        let count = match &answer {
            Ok(_) => &mut self.succeeded,
            Err(status) if status.message().contains("max_requests") => &mut self.refused,
            Err(status) if status.message().contains("(lb)") => &mut self.dropped,
            Err(_) => &mut self.errored,
        };
        *count += 1;
        answer.map(drop)
    }

    /// Calls until a change is seen, and so often again.
    async fn until(&mut self, client: &Client, seen: impl Fn(&Self) -> u64, again: u64) {
        let before = seen(self);
        for _ in 0..MAX_BEFORE {
            let _ = self.call(client).await;
            if seen(self) > before {
                break;
            }
        }
        let first = seen(self);
        assert_eq!(first, before + 1, "{self:?}");
        for _ in 0..again {
            assert!(self.call(client).await.is_err());
        }
        assert_eq!(seen(self), first + again);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_two_control_planes_is_told_what_was_called_and_dropped_of_its_own() {
    let home = Plane::start("payment", "home").await;
    let away = Plane::start(
        "xdstp://a.example/envoy.config.listener.v3.Listener/payment",
        "xdstp://a.example/envoy.config.cluster.v3.Cluster/away",
    )
    .await;
    let node = Node {
        id: "caller".into(),
        ..Node::default()
    };
    let authority = AuthorityEntry::default().server(ServerEntry::insecure(&away.address.to_string()));
    let bootstrap = Bootstrap::builder(node).insecure(&home.address.to_string());
    let xds = XdsClient::start(bootstrap.authority("a.example", authority).build().unwrap()).unwrap();
    let link = xds.link();
    let client = |target: &str| {
        let channel = Channel::builder(&link, target).dangerous().plaintext().build();
        // The name of another authority's target is none that a request could be for.
        PaymentClient::with_origin(channel, http::Uri::from_static("http://payment"))
    };
    let (at_home, elsewhere) = (client("xds:///payment"), client("xds://a.example/payment"));
    let [mut called_home, mut called_away] = [Called::default(), Called::default()];

    for _ in 0..7 {
        called_home.call(&at_home).await.unwrap();
    }
    for _ in 0..3 {
        called_away.call(&elsewhere).await.unwrap();
    }
    away.payments.fail(1.0);
    for _ in 0..2 {
        called_away.call(&elsewhere).await.unwrap_err();
    }
    assert_eq!(
        (called_home.succeeded, called_away.succeeded, called_away.errored),
        (7, 3, 2)
    );
    soon("the first reports", home.is_told(&called_home)).await;
    soon("the first reports", away.is_told(&called_away)).await;

    // Each drops in its own way: one says that all calls are to be dropped, the other lets none in.
    home.publish(|cluster| {
        cluster.drops = Arc::new([DropOverload {
            category: "lb".into(),
            per_million: DropOverload::ALL,
        }]);
    });
    away.publish(|cluster| cluster.breakers.default.max_requests = 0);
    called_home.until(&at_home, |called| called.dropped, 4).await;
    called_away.until(&elsewhere, |called| called.refused, 6).await;
    assert_eq!((called_home.dropped, called_home.refused), (5, 0));
    assert_eq!((called_away.dropped, called_away.refused), (0, 7));
    soon("the reports of drops", home.is_told(&called_home)).await;
    soon("the reports of drops", away.is_told(&called_away)).await;
}
