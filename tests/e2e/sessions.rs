//! A session stays with the host that it was given, through whatever a control plane says, until that host goes.
//!
//! From values over the wire to what real servers see: hot swaps, weights, growth, a host that drains, a host that leaves.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::Request;
use http_body_util::{BodyExt as _, Full};
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::{
    CallFilter, Cluster, Domain, Endpoint, Health, LbPolicy, Route, RouteTree, Session, SessionCookie, SessionState,
    Snapshot, Split, TlsMode, VirtualHost, WeightedCluster,
};
use mesh_server::MeshLayer;
use mesh_xds::server::{AdsService, Caller, SnapshotCache};
use mesh_xds::{Bootstrap, XdsClient};
use tests::{listener, soon};
use tower::{Layer as _, ServiceExt as _};

/// A server that answers with its number.
async fn server(number: usize) -> Endpoint {
    let (socket, address) = listener().await;
    let nowhere = Link::fixed(Snapshot::empty(), None);
    let app = Router::new().fallback(move || async move { number.to_string() });
    let app = MeshLayer::new(&nowhere).dangerous().plaintext().layer(app);
    tokio::spawn(async move {
        let serving = mesh_server::serve(socket, &nowhere, app).dangerous().plaintext();
        serving.await;
    });
    Endpoint::new(address)
}

/// A share's weight, and its hosts.
type Said = (u32, Vec<(SocketAddr, Health)>);

/// The shares of the split and where they are called, as far as tests change that.
fn said(snapshot: &Snapshot) -> Option<Vec<Said>> {
    let tree = snapshot.target("shop")?.as_ref().ok()?;
    let split = tree.virtual_hosts[0].routes[0].split()?;
    let share = |share: &WeightedCluster| {
        let cluster = snapshot.cluster(&share.cluster)?.as_ref().ok()?;
        let endpoints = cluster.endpoints.iter();
        let endpoints = endpoints.map(|endpoint| (endpoint.address, endpoint.health));
        Some((share.weight.0, endpoints.collect()))
    };
    split.clusters().iter().map(share).collect()
}

/// A control plane, and a client of it.
struct Rig {
    cache: SnapshotCache,
    xds: XdsClient,
    channel: Channel<Full<bytes::Bytes>>,
}

impl Rig {
    async fn start(first: &Snapshot) -> Self {
        let (ads, port) = listener().await;
        let cache = SnapshotCache::new();
        cache.publish("all", first).unwrap();
        let service = AdsService::new(cache.clone(), |_: &Caller| Ok("all".into()));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(ads);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let bootstrap = format!(
            r#"{{"xds_servers": [{{"server_uri": "{port}", "channel_creds": [{{"type": "insecure"}}]}}], "node": {{"id": "n"}}}}"#
        );
        let xds = XdsClient::start(Bootstrap::from_json(&bootstrap).unwrap()).unwrap();
        let channel = Channel::builder(&xds.link(), "xds:///shop")
            .dangerous()
            .plaintext()
            .build();
        soon("configuration", channel.ready()).await;
        Self { cache, xds, channel }
    }

    /// Says this from now on, and waits until calls go by it.
    async fn say(&self, snapshot: &Snapshot) {
        self.cache.publish("all", snapshot).unwrap();
        let link = self.xds.link();
        let wanted = said(snapshot);
        let applied = async {
            loop {
                let heard = link.snapshots().load_full();
                if said(&heard) == wanted && **link.applied().load() >= heard.version() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        soon("the new configuration", applied).await;
    }

    /// Who answers a caller that holds this, and what it is given to hold.
    async fn call(&self, held: Option<&str>) -> (usize, Option<String>) {
        let request = held
            .into_iter()
            .fold(Request::get("/cart"), |request, held| request.header("cookie", held));
        let request = request.body(Full::default()).unwrap();
        let answer = soon("the answer", self.channel.clone().oneshot(request)).await.unwrap();
        let given = answer
            .headers()
            .get("set-cookie")
            .map(|given| given.to_str().unwrap().to_owned());
        let pair = given.map(|given| given.split(';').next().unwrap().to_owned());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (std::str::from_utf8(&body).unwrap().parse().unwrap(), pair)
    }
}

/// A split between two versions, whose sessions are kept in a cookie; hosts that drain keep theirs.
fn split(v1: (u32, &[Endpoint]), v2: (u32, &[Endpoint])) -> Snapshot {
    let shares = [("v1".into(), v1.0), ("v2".into(), v2.0)];
    let route = Route::to(Split::weighted(shares).unwrap());
    let host = VirtualHost::new("h", vec![Domain::Any], vec![Arc::new(route)]);
    let mut tree = RouteTree::new("shop", vec![host]);
    let session = Session {
        state: Some(SessionState::Cookie(SessionCookie {
            name: "session".into(),
            ttl: std::time::Duration::from_secs(60),
            path: "/cart".into(),
            attributes: [].into(),
        })),
        strict: false,
    };
    tree.filters = vec![CallFilter::new("envoy.filters.http.stateful_session", session.into())];
    let cluster = |name: &str, endpoints: &[Endpoint]| {
        let mut cluster = Cluster::new(name, TlsMode::Plaintext, endpoints.to_vec());
        cluster.lb = LbPolicy::RoundRobin;
        cluster.common_lb.held = [Health::Healthy, Health::Draining].into_iter().collect();
        cluster
    };
    Snapshot::builder()
        .target("shop", Ok(Arc::new(tree)))
        .cluster(cluster("v1", v1.1))
        .cluster(cluster("v2", v2.1))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_with_its_host_until_that_goes() {
    let mut servers = Vec::new();
    for number in 0..8 {
        servers.push(server(number).await);
    }
    let rig = Rig::start(&split((1, &servers[..2]), (1, &servers[2..3]))).await;
    let (host, held) = loop {
        // The caller is given its host with its first answer; this test wants one of v1.
        let (host, held) = rig.call(None).await;
        if host < 2 {
            break (host, held.unwrap());
        }
    };
    let stays = async |what: &str| {
        for _ in 0..20 {
            assert_eq!(rig.call(Some(&held)).await, (host, None), "{what}");
        }
    };
    stays("at first").await;
    rig.say(&split((1, &servers[..2]), (99, &servers[2..3]))).await;
    stays("with a hundredth of the calls").await;
    rig.say(&split((1, &servers[..2]), (99, &servers[2..]))).await;
    stays("while the other version grows").await;
    rig.say(&split(
        (50, &[&servers[..2], &servers[5..]].concat()),
        (50, &servers[2..5]),
    ))
    .await;
    stays("while its own version grows").await;
    let mut draining = servers[..5].to_vec();
    draining[host].health = Health::Draining;
    rig.say(&split((1, &draining), (0, &[]))).await;
    stays("while its host drains").await;
    for _ in 0..20 {
        assert_ne!(
            rig.call(None).await.0,
            host,
            "a host that drains is given no new session"
        );
    }
    draining.remove(host);
    rig.say(&split((1, &draining), (0, &[]))).await;
    let (next, given) = rig.call(Some(&held)).await;
    assert_ne!(next, host);
    let given = given.unwrap();
    for _ in 0..20 {
        assert_eq!(rig.call(Some(&given)).await, (next, None), "at its next host");
    }
}
