//! Both ends of ADS over loopback, in both variants: one stream for many targets, updates, refusals, restarts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Snapshot;
use mesh_core::config::{Cluster, Endpoint, ReasonKind, Route, Split, TlsMode, Version};
use mesh_xds::bootstrap::Protocol;
use mesh_xds::client::Report;
use mesh_xds::server::{Acknowledged, AdsService, Caller, Refusal, SnapshotCache};
use mesh_xds::{Bootstrap, Node, ResourceKind, XdsClient};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

struct Plane {
    cache: SnapshotCache,
    address: SocketAddr,
    protocol: Protocol,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Plane {
    async fn start(listener: TcpListener, protocol: Protocol) -> Self {
        let cache = SnapshotCache::new();
        let address = listener.local_addr().unwrap();
        let grouping = |caller: &Caller| match caller.node.metadata_text("NAMESPACE") {
            Some(namespace) => Ok(Arc::from(namespace)),
            None => Err(Refusal::new("no namespace")),
        };
        let service = AdsService::new(cache.clone(), grouping);
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let router = tonic::transport::Server::builder().add_service(service);
            let stopped = async { drop(stopped.await) };
            router.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        Self {
            cache,
            address,
            protocol,
            stop,
            server,
        }
    }

    /// Ends every stream and closes the port.
    async fn stop(self) -> SocketAddr {
        self.cache.close();
        self.stop.send(()).unwrap();
        tokio::time::timeout(SOON, self.server).await.unwrap().unwrap();
        self.address
    }

    async fn new(protocol: Protocol) -> Self {
        Self::start(TcpListener::bind("127.0.0.1:0").await.unwrap(), protocol).await
    }

    /// Of a client that says its namespace under this key.
    fn bootstrap(&self, key: &str) -> Bootstrap {
        let node = Node {
            id: "test".into(),
            metadata: [(key.into(), "shop".into())].into(),
            ..Node::default()
        };
        let builder = Bootstrap::builder(node).insecure(&self.address.to_string());
        builder.protocol(self.protocol).build().unwrap()
    }

    fn client(&self) -> XdsClient {
        XdsClient::start(self.bootstrap("NAMESPACE")).unwrap()
    }
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

async fn many_targets_share_one_stream_and_updates_arrive(protocol: Protocol) {
    let plane = Plane::new(protocol).await;
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

    plane
        .cache
        .publish("shop", &snapshot(&[("a", 1), ("b", 20), ("c", 3)]))
        .unwrap();
    let changed = |_: &Report| port_of(&link.snapshots().load(), "b") == Some(20);
    let report = status.until(SOON, changed).await.unwrap();
    let second = link.snapshots().load_full();
    assert!(second.version() > first.version());
    // What did not change is the same value, not an equal one.
    let arc = |snapshot: &Snapshot, name: &str| Arc::clone(snapshot.cluster(&name.into()).unwrap().as_ref().unwrap());
    assert!(Arc::ptr_eq(&arc(&first, "a-cluster"), &arc(&second, "a-cluster")));
    assert_eq!(report.connection.streams, 1);
    assert_eq!(plane.cache.clients().len(), 1);
}

async fn cp_9_a_control_plane_that_restarts_is_found_again_and_nothing_is_lost_meanwhile(protocol: Protocol) {
    let plane = Plane::new(protocol).await;
    plane.cache.publish("shop", &snapshot(&[("a", 1)])).unwrap();
    let client = plane.client();
    let (link, status) = (client.link(), client.status());
    let _guard = link.interest().watch("a");
    status
        .until(SOON, |report| report.published == Version(1))
        .await
        .unwrap();
    let before = link.snapshots().load_full();

    let address = plane.stop().await;
    status.until(SOON, |report| !report.is_connected()).await.unwrap();
    assert!(Arc::ptr_eq(&before, &link.snapshots().load_full()));
    assert!(link.waiting_reason().is_some());

    // It comes back empty first; the absence of everything must not be taken for its deletion.
    let plane = Plane::start(TcpListener::bind(address).await.unwrap(), protocol).await;
    status.until(SOON, |report| report.is_connected()).await.unwrap();
    plane.cache.publish("shop", &snapshot(&[("a", 2)])).unwrap();
    status
        .until(SOON, |report| report.published == Version(2))
        .await
        .unwrap();
    assert_eq!(port_of(&link.snapshots().load(), "a"), Some(2));
    assert_eq!(status.report().connection.streams, 2);
}

async fn a_target_that_the_control_plane_does_not_have_fails_at_once_and_heals(protocol: Protocol) {
    let plane = Plane::new(protocol).await;
    plane.cache.publish("shop", &snapshot(&[("a", 1)])).unwrap();
    let client = plane.client();
    let link = client.link();
    let _guard = link.interest().watch("b");
    let gone = |report: &Report| report.published == Version(1);
    client.status().until(SOON, gone).await.unwrap();
    let snapshot_then = link.snapshots().load_full();
    let reason = snapshot_then.target("b").unwrap().as_ref().unwrap_err();
    assert_eq!(reason.kind(), ReasonKind::NoListener);
    plane.cache.publish("shop", &snapshot(&[("a", 1), ("b", 2)])).unwrap();
    let healed = |report: &Report| report.published == Version(2) && report.waiting.is_empty();
    client.status().until(SOON, healed).await.unwrap();
    assert_eq!(port_of(&link.snapshots().load(), "b"), Some(2));
}

async fn cp_8_a_target_that_is_taken_away_goes_on_serving(protocol: Protocol) {
    let plane = Plane::new(protocol).await;
    plane.cache.publish("shop", &snapshot(&[("a", 1), ("b", 2)])).unwrap();
    let client = plane.client();
    let (link, status) = (client.link(), client.status());
    let _guards = ["a", "b"].map(|target| link.interest().watch(target));
    status
        .until(SOON, |report| report.waiting.is_empty() && report.published.0 > 0)
        .await
        .unwrap();
    plane.cache.publish("shop", &snapshot(&[("a", 1)])).unwrap();
    let noticed = |report: &Report| report.resource(ResourceKind::Listener, "b").unwrap().absent.is_some();
    status.until(SOON, noticed).await.unwrap();
    assert_eq!(port_of(&link.snapshots().load(), "b"), Some(2));
}

async fn a_refused_client_is_told_why(protocol: Protocol) {
    let plane = Plane::new(protocol).await;
    let client = XdsClient::start(plane.bootstrap("OTHER")).unwrap();
    let link = client.link();
    let _guard = link.interest().watch("a");
    let refused = |report: &Report| report.connection.last_error.is_some();
    let report = client.status().until(SOON, refused).await.unwrap();
    let error = report.connection.last_error.as_ref().unwrap();
    assert!(
        error.contains("PermissionDenied") && error.contains("no namespace"),
        "{error}"
    );
    // It is not a reason that a call may carry to its caller as a status (gRFC A54): it is a wait.
    assert_eq!(link.waiting_reason().unwrap().kind(), ReasonKind::Waiting);
}

async fn the_control_plane_knows_who_uses_what(protocol: Protocol) {
    let plane = Plane::new(protocol).await;
    let versions = plane.cache.publish("shop", &snapshot(&[("a", 1)])).unwrap();
    let client = plane.client();
    let link = client.link();
    let _guard = link.interest().watch("a");
    let mut changes = plane.cache.client_changes();
    let settled = || {
        let clients = plane.cache.clients();
        let [client] = &clients[..] else { return false };
        client.subscriptions.len() == 4
            && client.subscriptions.iter().all(|one| {
                one.acknowledged == Acknowledged::Accepted && one.sent.as_deref() == Some(versions.of(one.kind))
            })
    };
    let wait = changes.wait_for(|_| settled());
    tokio::time::timeout(SOON, wait).await.unwrap().unwrap();
    let clients = plane.cache.clients();
    assert_eq!((clients[0].node.id.as_str(), &*clients[0].group), ("test", "shop"));
    drop((client, link));
    let wait = changes.wait_for(|_| plane.cache.clients().is_empty());
    tokio::time::timeout(SOON, wait).await.unwrap().unwrap();
}

async fn a_hundred_publishes_end_with_the_last(protocol: Protocol) {
    let plane = Plane::new(protocol).await;
    plane.cache.publish("shop", &snapshot(&[("a", 1)])).unwrap();
    let client = plane.client();
    let link = client.link();
    let _guard = link.interest().watch("a");
    client
        .status()
        .until(SOON, |report| report.published.0 > 0)
        .await
        .unwrap();
    for port in 1..=100 {
        plane.cache.publish("shop", &snapshot(&[("a", port)])).unwrap();
    }
    let accepted = |_: &Report| port_of(&link.snapshots().load(), "a") == Some(100);
    let report = client.status().until(SOON, accepted).await.unwrap();
    assert!(
        report.connection.responses < 50,
        "publishes are coalesced: {}",
        report.connection.responses
    );
}

/// Runs each test in both variants of the protocol.
macro_rules! in_both_variants {
    ($($name:ident),* $(,)?) => {
        mod sotw {
            $(#[tokio::test] async fn $name() { super::$name(super::Protocol::Sotw).await })*
        }
        mod delta {
            $(#[tokio::test] async fn $name() { super::$name(super::Protocol::Delta).await })*
        }
    };
}

in_both_variants! {
    many_targets_share_one_stream_and_updates_arrive,
    cp_9_a_control_plane_that_restarts_is_found_again_and_nothing_is_lost_meanwhile,
    a_target_that_the_control_plane_does_not_have_fails_at_once_and_heals,
    cp_8_a_target_that_is_taken_away_goes_on_serving,
    a_refused_client_is_told_why,
    the_control_plane_knows_who_uses_what,
    a_hundred_publishes_end_with_the_last,
}

#[tokio::test]
async fn after_a_restart_only_what_changed_meanwhile_crosses_the_wire() {
    let protocol = Protocol::Delta;
    let plane = Plane::new(protocol).await;
    plane.cache.publish("shop", &snapshot(&[("a", 1), ("b", 2)])).unwrap();
    let client = plane.client();
    let (link, status) = (client.link(), client.status());
    let _guards = ["a", "b"].map(|target| link.interest().watch(target));
    let whole = |report: &Report| report.waiting.is_empty() && report.published.0 > 0;
    let before = status.until(SOON, whole).await.unwrap().connection.responses;

    let address = plane.stop().await;
    status.until(SOON, |report| !report.is_connected()).await.unwrap();
    // Another process, which numbers its versions from one again.
    let plane = Plane::start(TcpListener::bind(address).await.unwrap(), protocol).await;
    plane.cache.publish("shop", &snapshot(&[("a", 1), ("b", 20)])).unwrap();
    let changed = |_: &Report| port_of(&link.snapshots().load(), "b") == Some(20);
    let report = status.until(SOON, changed).await.unwrap();
    assert_eq!(
        report.connection.responses,
        before + 1,
        "the endpoints of b, and nothing else"
    );
    let mut changes = plane.cache.client_changes();
    let current = || {
        let clients = plane.cache.clients();
        let subscriptions = clients.iter().flat_map(|client| &client.subscriptions);
        subscriptions
            .filter(|one| one.acknowledged == Acknowledged::Accepted)
            .count()
            == 4
    };
    let wait = changes.wait_for(|_| current());
    tokio::time::timeout(SOON, wait).await.unwrap().unwrap();
    assert_eq!(status.report().connection.responses, before + 1);
}
