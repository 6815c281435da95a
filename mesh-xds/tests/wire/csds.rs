//! Client status over loopback, asked of both ends: what a client holds and refuses, and what its control plane knows of that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::Snapshot;
use mesh_core::config::SnapshotBuilder;
use mesh_core::config::{Cluster, Endpoint, ExpectedPeers, MutualTls, Route, Split, TlsMode};
use mesh_xds::bootstrap::Protocol;
use mesh_xds::client::{CacheState, Report};
use mesh_xds::csds::{ClientView, Reader, ResourceView, Sync, fetch};
use mesh_xds::server::{Acknowledged, AdsService, Caller, Io, Peer, Refusal, SnapshotCache};
use mesh_xds::{Bootstrap, ClientStatusService, Node, ResourceKind, XdsClient};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

async fn listen(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        let stream = stream?;
        let address = stream.peer_addr()?;
        let peer = Peer {
            address: Some(address),
            ..Peer::default()
        };
        std::io::Result::Ok(Io::new(stream, peer))
    });
    tokio::spawn(router.serve_with_incoming(incoming));
    address
}

/// A control plane that tells of its clients on the port on which it serves them.
async fn plane(cache: &SnapshotCache) -> SocketAddr {
    let ads = AdsService::new(cache.clone(), |_: &Caller| Ok(Arc::from("shop")));
    let status = ClientStatusService::of_clients(cache.clone(), |_: &Reader| Ok(()));
    listen(Server::builder().add_service(ads).add_service(status)).await
}

fn client(plane: SocketAddr, protocol: Protocol) -> XdsClient {
    let node = Node {
        id: "test".into(),
        ..Node::default()
    };
    let bootstrap = Bootstrap::builder(node).insecure(&plane.to_string()).protocol(protocol);
    XdsClient::start(bootstrap.build().unwrap()).unwrap()
}

/// A target `good`, and a target `bad` whose TLS the client cannot do: its bootstrap has no certificate provider.
fn snapshot() -> Snapshot {
    let mutual = TlsMode::Mutual(MutualTls {
        expected: ExpectedPeers::default(),
        sni: None,
        ..MutualTls::default()
    });
    good()
        .route("bad", Route::to(Split::all_to("bad-cluster")))
        .cluster(Cluster::new("bad-cluster", mutual, endpoint()))
        .build()
        .unwrap()
}

/// The target `good` alone.
fn good() -> SnapshotBuilder {
    Snapshot::builder()
        .route("good", Route::to(Split::all_to("good-cluster")))
        .cluster(Cluster::new("good-cluster", TlsMode::Plaintext, endpoint()))
}

fn endpoint() -> Vec<Endpoint> {
    vec![Endpoint::new(([127, 0, 0, 1], 1).into())]
}

fn find<'a>(view: &'a ClientView, kind: ResourceKind, name: &str) -> &'a ResourceView {
    let found = view
        .resources
        .iter()
        .find(|one| one.type_url == kind.type_url() && one.name == name);
    found.unwrap_or_else(|| panic!("{kind} {name:?} in {view:#?}"))
}

async fn a_refused_resource_is_seen_with_its_reason_at_both_ends(protocol: Protocol) {
    let cache = SnapshotCache::new();
    let before = cache.publish("shop", &good().build().unwrap()).unwrap();
    let plane = plane(&cache).await;
    let begun = SystemTime::now() - Duration::from_secs(1);
    let client = client(plane, protocol);
    let link = client.link();
    let _wanted = ["good", "bad", "missing"].map(|target| link.interest().watch(target));
    // The first version is accepted, and of the next one cluster is refused.
    let mut changes = cache.client_changes();
    let accepted = || {
        let clients = cache.clients();
        let mut subscriptions = clients.iter().flat_map(|client| &client.subscriptions);
        let of_clusters = subscriptions.find(|one| one.kind == ResourceKind::Cluster);
        of_clusters.is_some_and(|one| one.accepted.as_deref() == Some(before.of(ResourceKind::Cluster)))
    };
    let wait = changes.wait_for(|_| accepted());
    tokio::time::timeout(SOON, wait).await.unwrap().unwrap();
    let versions = cache.publish("shop", &snapshot()).unwrap();
    let whole = |report: &Report| report.waiting.is_empty() && report.rejections > 0;
    client.status().until(SOON, whole).await.unwrap();

    let own = listen(Server::builder().add_service(ClientStatusService::new(&client))).await;
    let clients = fetch(&own.to_string()).await.unwrap();
    let [view] = &clients[..] else { panic!("{clients:#?}") };
    assert_eq!(
        (view.node.id.as_str(), view.node.user_agent.as_str()),
        ("test", "mesh-xds")
    );
    assert_eq!((view.scope.as_str(), view.seen()), ("#mesh", None));
    assert!(view.refuses());
    let good = find(view, ResourceKind::Cluster, "good-cluster");
    assert_eq!((good.state, &good.failure), (Some(CacheState::Acked), &None));
    assert_eq!(good.sync, Sync::Unknown, "a client does not say");
    assert!(!good.version.is_empty() && good.contents.is_some());
    assert!(
        good.updated
            .is_some_and(|updated| begun <= updated && updated <= SystemTime::now())
    );
    let bad = find(view, ResourceKind::Cluster, "bad-cluster");
    assert_eq!((bad.state, bad.version.as_str()), (Some(CacheState::Nacked), ""));
    let failure = bad.failure.as_ref().unwrap();
    assert!(failure.details.contains("instance_name"), "{failure:?}");
    // An incremental stream has a version for each resource.
    let is_whole = failure.version == versions.of(ResourceKind::Cluster);
    assert!(is_whole || protocol == Protocol::Delta, "{failure:?}");
    assert!(!failure.version.is_empty());
    let in_time = |at: Option<SystemTime>| at.is_some_and(|at| begun <= at && at <= SystemTime::now());
    assert!(in_time(failure.at), "{failure:?}");
    // The refused resource itself, as it was sent.
    let refused = failure.configuration.as_ref().unwrap().as_ref();
    for part in ["bad-cluster", "instance_name"] {
        let has = |part: &str| refused.windows(part.len()).any(|window| window == part.as_bytes());
        assert_eq!(has(part), part == "bad-cluster", "{part}");
    }
    let missing = find(view, ResourceKind::Listener, "missing");
    assert!(missing.state.is_some_and(CacheState::is_trouble), "{missing:?}");
    assert!(missing.contents.is_none() && missing.failure.is_some());

    let settled = || {
        let clients = cache.clients();
        let subscriptions = clients.iter().flat_map(|client| &client.subscriptions);
        subscriptions
            .filter(|one| one.acknowledged != Acknowledged::Waiting)
            .count()
            == 4
    };
    let wait = changes.wait_for(|_| settled());
    tokio::time::timeout(SOON, wait).await.unwrap().unwrap();
    let clients = fetch(&plane.to_string()).await.unwrap();
    let [view] = &clients[..] else { panic!("{clients:#?}") };
    let seen = view.seen().unwrap();
    assert_eq!(
        (view.node.id.as_str(), seen.group.as_str(), seen.identity),
        ("test", "shop", None)
    );
    assert!(seen.address.unwrap().starts_with("127.0.0.1:"));
    assert_eq!(view.resources.len(), 4, "what it does not ask for is not told of");
    for kind in ResourceKind::ALL
        .into_iter()
        .filter(|kind| *kind != ResourceKind::ExtensionConfig)
    {
        let one = find(view, kind, "");
        let is_bad = kind == ResourceKind::Cluster;
        let expected = match (kind, protocol) {
            _ if is_bad => (Sync::Error, before.of(kind)),
            // Of the endpoints that it asks for none changed, so nothing was sent; an incremental stream is as far all the same.
            (ResourceKind::Endpoints, Protocol::Sotw) => (Sync::Synced, before.of(kind)),
            _ => (Sync::Synced, versions.of(kind)),
        };
        assert_eq!((one.sync, one.version.as_str()), expected, "{one:?}");
        let refused = one.failure.as_ref().map(|failure| failure.version.as_str());
        assert_eq!(refused, is_bad.then(|| versions.of(kind)), "{one:?}");
        assert_eq!(one.is_refused(), is_bad);
        let told = one.failure.as_ref().is_some_and(|failure| {
            failure.details.contains("bad-cluster") && failure.details.contains("instance_name")
        });
        assert_eq!(told, is_bad, "{one:?}");
        assert_eq!(
            one.failure.as_ref().is_some_and(|failure| in_time(failure.at)),
            is_bad,
            "{one:?}"
        );
    }

    // Neither the service nor what it has told keeps a client alive.
    drop((client, link, _wanted));
    let wait = changes.wait_for(|_| cache.clients().is_empty());
    tokio::time::timeout(SOON, wait).await.unwrap().unwrap();
    assert_eq!(fetch(&plane.to_string()).await.unwrap(), []);
    assert_eq!(fetch(&own.to_string()).await.unwrap(), []);
}

#[tokio::test]
async fn sotw_a_refused_resource_is_seen_with_its_reason_at_both_ends() {
    a_refused_resource_is_seen_with_its_reason_at_both_ends(Protocol::Sotw).await;
}

#[tokio::test]
async fn delta_a_refused_resource_is_seen_with_its_reason_at_both_ends() {
    a_refused_resource_is_seen_with_its_reason_at_both_ends(Protocol::Delta).await;
}

#[tokio::test]
async fn whoever_may_not_read_is_refused_and_whoever_is_not_there_is_unreachable() {
    let status = ClientStatusService::of_clients(SnapshotCache::new(), |_: &Reader| Err(Refusal::new("not you")));
    let address = listen(Server::builder().add_service(status)).await;
    let refused = fetch(&address.to_string()).await.unwrap_err();
    assert!(refused.is_refused() && !refused.is_unreachable());
    let text = refused.to_string();
    assert!(text.contains("PermissionDenied") && text.contains("not you"), "{text}");

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let unreachable = fetch(&nobody.to_string()).await.unwrap_err();
    assert!(unreachable.is_unreachable(), "{unreachable}");
}
