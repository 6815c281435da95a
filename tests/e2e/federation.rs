//! A target that names an authority (gRFC A47): whom to ask is the bootstrap's to say, and what is called has the name alone.

use std::sync::Arc;

use axum::Router;
use axum::http::Request;
use http_body_util::{BodyExt as _, Full};
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::{Cluster, Domain, Endpoint, Route, RouteTree, Snapshot, Split, TlsMode, VirtualHost};
use mesh_server::MeshLayer;
use mesh_xds::server::{AdsService, Caller, SnapshotCache};
use mesh_xds::{Bootstrap, XdsClient};
use serde_json::json;
use tests::{listener, soon};
use tower::{Layer as _, ServiceExt as _};

const LISTENER: &str = "xdstp://a.example/envoy.config.listener.v3.Listener/shop";

/// The service's routes are for its name and for no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_of_an_authority_is_called_by_its_name() {
    let (socket, address) = listener().await;
    let nowhere = Link::fixed(Snapshot::empty(), None);
    let app = Router::new().fallback(|request: Request<axum::body::Body>| async move {
        let authority = request.uri().authority().map(ToString::to_string);
        authority.unwrap_or_default()
    });
    let app = MeshLayer::new(&nowhere).dangerous().plaintext().layer(app);
    tokio::spawn(async move { mesh_server::serve(socket, &nowhere, app).dangerous().plaintext().await });

    let route = Route::to(Split::all_to("c"));
    let host = VirtualHost::new("h", vec![Domain::parse("shop").unwrap()], vec![Arc::new(route)]);
    let snapshot = Snapshot::builder()
        .target(LISTENER, Ok(Arc::new(RouteTree::new("routes", vec![host]))))
        .cluster(Cluster::new("c", TlsMode::Plaintext, vec![Endpoint::new(address)]));
    let snapshot = snapshot.build().unwrap();
    let plane = async |snapshot: &Snapshot| {
        let (ads, port) = listener().await;
        let cache = SnapshotCache::new();
        cache.publish("all", snapshot).unwrap();
        let service = AdsService::new(cache, |_: &Caller| Ok("all".into()));
        let router = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(router.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(ads)));
        json!([{"server_uri": port.to_string(), "channel_creds": [{"type": "insecure"}]}])
    };
    // Names without an authority, as that of the routes is, are asked of those at the top.
    let bootstrap = json!({
        "xds_servers": plane(&snapshot).await,
        "authorities": {"a.example": {"xds_servers": plane(&snapshot).await}},
        "node": {"id": "n"},
    });
    let xds = XdsClient::start(Bootstrap::from_json(&bootstrap.to_string()).unwrap()).unwrap();
    let channel: Channel<Full<bytes::Bytes>> = Channel::builder(&xds.link(), "xds://a.example/shop")
        .dangerous()
        .plaintext()
        .build();
    let request = Request::get("/cart").body(Full::default()).unwrap();
    let answer = soon("the answer", channel.oneshot(request)).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "shop");
}
