//! A server asks our control plane what to accept connections by, over a real stream, and is told in the shape that its node
//! reads: gRPC's by the name that the bootstrap's template makes of its address, a sidecar's by the address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Snapshot;
use mesh_core::config::{
    Authorization, ChainIdentity, ChainMatch, Clients, Cluster, Domain, Endpoint, ExpectedPeers, FilterChain,
    FilterRules, Inbound, InboundSecurity, IpPrefix, Rbac, RbacAction, RbacFilter, ReasonKind, Route, Split, TlsMode,
    Traffic, Transport,
};
use mesh_xds::bootstrap::{Profile, Protocol};
use mesh_xds::client::Report;
use mesh_xds::server::{AdsService, Caller, SnapshotCache};
use mesh_xds::{Bootstrap, Node, ResourceKind, XdsClient};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const TEMPLATE: &str = "server/%s";

async fn start() -> (SnapshotCache, SocketAddr) {
    let cache = SnapshotCache::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = AdsService::new(cache.clone(), |_: &Caller| Ok(Arc::from("all")));
    let router = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    (cache, address)
}

fn client(plane: SocketAddr, node: &str, protocol: Protocol) -> XdsClient {
    let node = Node {
        id: node.into(),
        ..Node::default()
    };
    let builder = Bootstrap::builder(node).insecure(&plane.to_string());
    let builder = builder.server_listener_template(TEMPLATE).protocol(protocol);
    // That keys are to be had is asked of a listener with mutual TLS; these come when somebody writes them.
    let builder = builder.file_watcher("/nowhere/chain.pem", "/nowhere/key.pem", "/nowhere/roots.pem", "600s");
    XdsClient::start(builder.build().unwrap()).unwrap()
}

fn chain(name: &str, matches: ChainMatch, security: InboundSecurity) -> FilterChain {
    FilterChain {
        name: name.into(),
        matches,
        security,
        identity: ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: Arc::default(),
        limits: Arc::default(),
        telemetry: Default::default(),
    }
}

/// A server that its neighbours call in the clear, one identity with mutual TLS, and nobody else.
fn inbound(address: &str) -> Inbound {
    let neighbours = ChainMatch {
        sources: vec![IpPrefix::new([10, 1, 0, 0].into(), 16).unwrap()],
        ..ChainMatch::default()
    };
    let shop = ExpectedPeers::exactly(["spiffe://mesh/ns/shop/sa/cart"]);
    Inbound {
        name: format!("server/{address}").into(),
        address: address.parse().unwrap(),
        chains: vec![chain("near", neighbours, InboundSecurity::Plaintext)],
        default: Some(chain(
            "far",
            ChainMatch::default(),
            InboundSecurity::Mutual(Clients::Named(shop)),
        )),
    }
}

/// Two servers, and a service on port 80.
fn snapshot(servers: impl IntoIterator<Item = Inbound>) -> Snapshot {
    let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
    let builder = Snapshot::builder()
        .route("shop:80", Route::to(Split::all_to("c")))
        .cluster(Cluster::new("c", TlsMode::Plaintext, vec![endpoint]));
    let served = |builder: mesh_core::config::SnapshotBuilder, inbound: Inbound| {
        builder.inbound(inbound.address.to_string(), Ok(Arc::new(inbound)))
    };
    servers.into_iter().fold(builder, served).build().unwrap()
}

async fn told(client: &XdsClient, is_it: impl Fn(&Snapshot) -> bool) {
    let link = client.link();
    let there = |_: &Report| is_it(&link.snapshots().load());
    client.status().until(SOON, there).await.unwrap();
}

async fn a_server_is_told_of_its_own_address_and_of_what_changes(protocol: Protocol) {
    const HERE: &str = "127.0.0.1:7000";
    const THERE: &str = "[::1]:7001";
    let (cache, plane) = start().await;
    cache
        .publish("all", &snapshot([inbound(HERE), inbound(THERE)]))
        .unwrap();
    let client = client(plane, "server", protocol);
    let link = client.link();
    let _guards = [HERE, "127.0.0.1:7002"].map(|address| link.interest().watch_inbound(address));
    let is =
        |snapshot: &Snapshot, wanted: &Inbound| matches!(snapshot.inbound(HERE), Some(Ok(own)) if **own == *wanted);
    told(&client, |snapshot| is(snapshot, &inbound(HERE))).await;
    told(&client, |snapshot| {
        let unknown = snapshot.inbound("127.0.0.1:7002");
        matches!(unknown, Some(Err(reason)) if reason.kind() == ReasonKind::NoListener)
    })
    .await;
    assert!(link.snapshots().load().inbound(THERE).is_none(), "nobody asked for it");

    // Stricter, and nothing else changes.
    let strict = Inbound {
        chains: Vec::new(),
        ..inbound(HERE)
    };
    cache
        .publish("all", &snapshot([strict.clone(), inbound(THERE)]))
        .unwrap();
    told(&client, |snapshot| is(snapshot, &strict)).await;
    assert_eq!(client.status().report().connection.streams, 1);
}

/// What a gRPC server cannot look at (a server name, the protocol) can be said to a sidecar.
async fn a_sidecar_is_told_in_istios_shape(protocol: Protocol) {
    const HERE: &str = "127.0.0.1:7000";
    let (cache, plane) = start().await;
    let by_name = ChainMatch {
        port: Some(7000),
        server_names: vec![Domain::parse("*.shop").unwrap()],
        transport: Some(Transport::Tls),
        protocols: vec!["h2".into()],
        ..ChainMatch::default()
    };
    let mut own = inbound(HERE);
    own.chains.push(chain(
        "by name",
        by_name,
        InboundSecurity::Mutual(Clients::Named(ExpectedPeers::new(Vec::new()))),
    ));
    cache
        .publish("all", &snapshot([own.clone(), inbound("[::1]:7001")]))
        .unwrap();
    let client = client(plane, "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local", protocol);
    let link = client.link();
    let _served = link.interest().watch_inbound(HERE);
    let _called = link.interest().watch("shop:80");
    told(&client, |snapshot| {
        let served = matches!(snapshot.inbound(HERE), Some(Ok(told)) if **told == own);
        let called = snapshot.target("shop:80").is_some_and(Result::is_ok);
        let cluster = snapshot.cluster(&"c".into()).and_then(|cluster| cluster.as_ref().ok());
        served && called && cluster.is_some_and(|cluster| cluster.endpoints.len() == 1)
    })
    .await;
    let refused = client.status().report();
    assert!(
        refused.resources.iter().all(|(_, one)| one.rejected.is_none()),
        "{refused:?}"
    );
}

/// What the bootstrap says goes before what the node looks like, and the control plane is told so.
async fn the_bootstrap_chooses_the_shape(protocol: Protocol) {
    const HERE: &str = "127.0.0.1:7000";
    const SIDECAR: &str = "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local";
    let (cache, plane) = start().await;
    cache.publish("all", &snapshot([inbound(HERE)])).unwrap();
    for (id, says_grpc, chosen, shape) in [
        (SIDECAR, false, None, Profile::Envoy),
        (SIDECAR, false, Some(Profile::Grpc), Profile::Grpc),
        (SIDECAR, true, None, Profile::Grpc),
        (SIDECAR, true, Some(Profile::Envoy), Profile::Envoy),
        ("plain", false, None, Profile::Grpc),
        ("plain", false, Some(Profile::Envoy), Profile::Envoy),
    ] {
        let node = Node {
            id: id.into(),
            metadata: says_grpc
                .then(|| ("GENERATOR".into(), "grpc".into()))
                .into_iter()
                .collect(),
            ..Node::default()
        };
        let builder = Bootstrap::builder(node).insecure(&plane.to_string()).protocol(protocol);
        let builder = builder.server_listener_template(TEMPLATE);
        let builder = builder.file_watcher("/nowhere/chain.pem", "/nowhere/key.pem", "/nowhere/roots.pem", "600s");
        let builder = match chosen {
            Some(profile) => builder.profile(profile),
            None => builder,
        };
        let client = XdsClient::start(builder.build().unwrap()).unwrap();
        let link = client.link();
        let _served = link.interest().watch_inbound(HERE);
        let _called = link.interest().watch("shop:80");
        told(&client, |snapshot| {
            let served = matches!(snapshot.inbound(HERE), Some(Ok(told)) if **told == inbound(HERE));
            served && snapshot.target("shop:80").is_some_and(Result::is_ok)
        })
        .await;
        let report = client.status().report();
        let has = |kind, name: &str| report.resource(kind, name).is_some_and(|one| one.accepted.is_some());
        // An API listener of the target's name, or the routes of a port.
        let shapes = (has(ResourceKind::Listener, "shop:80"), has(ResourceKind::Route, "80"));
        let expected = (shape == Profile::Grpc, shape == Profile::Envoy);
        assert_eq!(shapes, expected, "{id} {says_grpc} {chosen:?}");
    }
}

/// Two under one name, rules for connections, which gRPC's shape has no words for, a chain of bytes.
#[tokio::test]
async fn what_cannot_be_told_of_a_server_is_not_published() {
    let (cache, _) = start().await;
    let mut other = inbound("127.0.0.1:7001");
    other.name = inbound("127.0.0.1:7000").name;
    let error = cache
        .publish("all", &snapshot([inbound("127.0.0.1:7000"), other]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "two different listeners are named \"server/127.0.0.1:7000\""
    );
    let mut guarded = inbound("127.0.0.1:7000");
    let nobody = RbacFilter {
        name: "rbac".into(),
        rules: FilterRules {
            enforced: Some(Rbac {
                action: RbacAction::Allow,
                policies: Vec::new(),
            }),
            shadow: None,
        },
    };
    guarded.chains[0].authorization = Arc::new(Authorization::new(vec![nobody], Vec::new(), Vec::new()).unwrap());
    let error = cache.publish("all", &snapshot([guarded])).unwrap_err();
    let field = error.rejected().map(|rejected| rejected.field().to_owned());
    assert_eq!(field.as_deref(), Some("filter_chains[0].filters[0].typed_config"));
    let mut bytes = inbound("127.0.0.1:7000");
    bytes.chains[0].traffic = Traffic::Tcp;
    let error = cache.publish("all", &snapshot([bytes])).unwrap_err();
    let field = error.rejected().map(|rejected| rejected.field().to_owned());
    assert_eq!(field.as_deref(), Some("filter_chains[0].filters[0].typed_config"));
}

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
    a_server_is_told_of_its_own_address_and_of_what_changes,
    a_sidecar_is_told_in_istios_shape,
    the_bootstrap_chooses_the_shape,
}
