//! Both ends of ADS over loopback: one stream for many targets, updates, refusals, restarts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Snapshot;
use mesh_core::config::{Cluster, Endpoint, Reason, ReasonKind, Route, Split, TlsMode};
use mesh_xds::server::{AdsService, Caller, Refusal, SnapshotCache};
use mesh_xds::{Bootstrap, Node, ResourceKind, XdsClient};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

struct Plane {
    cache: SnapshotCache,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Plane {
    async fn start(listener: TcpListener) -> Self {
        let cache = SnapshotCache::new();
        let address = listener.local_addr().unwrap();
        let grouping = |caller: &Caller| match caller.node.metadata_text("NAMESPACE") {
            Some(namespace) => Ok(Arc::from(namespace)),
            None => Err(Refusal::new("no namespace")),
        };
        let service = AdsService::new(cache.clone(), grouping);
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let router = tonic::transport::Server::builder().add_service(service);
            router.serve_with_incoming(incoming).await.unwrap();
        });
        Self { cache, address, server }
    }

    async fn new() -> Self {
        Self::start(TcpListener::bind("127.0.0.1:0").await.unwrap()).await
    }

    fn client(&self) -> XdsClient {
        XdsClient::start(bootstrap(self.address)).unwrap()
    }
}

fn bootstrap(address: SocketAddr) -> Bootstrap {
    let node = Node {
        id: "test".into(),
        metadata: [("NAMESPACE".into(), "shop".into())].into(),
        ..Node::default()
    };
    Bootstrap::builder(node).insecure(&address.to_string()).build().unwrap()
}

/// Each target routes to a cluster of its own name and port.
fn snapshot(targets: &[(&str, u16)]) -> Snapshot {
    let mut builder = Snapshot::builder();
    for (target, port) in targets {
        let endpoint = Endpoint::new(([127, 0, 0, 1], *port).into());
        let cluster = format!("{target}-cluster");
        builder = builder
            .route(target, Route::to(Split::all_to(cluster.as_str())))
            .cluster(Cluster::new(cluster.as_str(), TlsMode::Plaintext, vec![endpoint]));
    }
    builder.build().unwrap()
}

fn port_of(snapshot: &Snapshot, target: &str) -> Option<u16> {
    let tree = snapshot.target(target)?.as_ref().ok()?;
    let cluster = snapshot.cluster(tree.clusters().next()?)?.as_ref().ok()?;
    Some(cluster.endpoints.first()?.address.port())
}

#[tokio::test]
async fn many_targets_share_one_stream_and_updates_arrive() {
    let plane = Plane::new().await;
    plane
        .cache
        .publish("shop", &snapshot(&[("a", 1), ("b", 2), ("c", 3)]))
        .unwrap();
    let client = plane.client();
    let link = client.link();
    let _guards = ["a", "b", "c"].map(|target| link.interest().watch(target));
    let status = client.status();
    status
        .until(SOON, |report| report.waiting.is_empty() && report.published.0 > 0)
        .await
        .unwrap();
    let first = link.snapshots().load_full();
    assert_eq!(["a", "b", "c"].map(|t| port_of(&first, t)), [Some(1), Some(2), Some(3)]);

    let versions = plane
        .cache
        .publish("shop", &snapshot(&[("a", 1), ("b", 20), ("c", 3)]))
        .unwrap();
    let changed = |report: &mesh_xds::client::Report| {
        let endpoints = report.resource(ResourceKind::Endpoints, "b-cluster").unwrap();
        endpoints.accepted.as_deref() == Some(versions.of(ResourceKind::Endpoints))
    };
    let report = status.until(SOON, changed).await.unwrap();
    let second = link.snapshots().load_full();
    assert_eq!(port_of(&second, "b"), Some(20));
    assert!(second.version() > first.version());
    // What did not change is the same value, not an equal one.
    let arc = |snapshot: &Snapshot, name: &str| Arc::clone(snapshot.cluster(&name.into()).unwrap().as_ref().unwrap());
    assert!(Arc::ptr_eq(&arc(&first, "a-cluster"), &arc(&second, "a-cluster")));
    assert_eq!(report.connection.streams, 1);
    assert_eq!(plane.cache.clients().len(), 1);
}
