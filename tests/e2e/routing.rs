//! What a control plane says of a route is done to a call: from a value over the wire to what the server and the caller see.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use axum::response::IntoResponse;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use mesh_client::{Channel, Error};
use mesh_core::Link;
use mesh_core::config::{
    Abort, Action, AppendAction, CallFilter, Cluster, DirectResponse, Domain, Endpoint, Fault, FaultAbort, FilterKind,
    FilterOverride, Fraction, HeaderEdit, HeaderFormat, HeaderRules, Mirror, Override, PathMatch, PathRewrite,
    QueryMatch, QueryTest, Redirect, RedirectPath, Rewrite, Route, RouteTree, Snapshot, Split, TlsMode, VirtualHost,
};
use mesh_server::MeshLayer;
use mesh_xds::server::{AdsService, Caller, SnapshotCache};
use mesh_xds::{Bootstrap, XdsClient};
use tests::{listener, soon};
use tokio::sync::mpsc;
use tower::{Layer as _, ServiceExt as _};

pub(crate) type Seen = (String, Option<String>, HeaderMap);

/// A server that tells what it was asked, and answers with its header `x-from`.
pub(crate) async fn server(seen: mpsc::UnboundedSender<Seen>) -> Endpoint {
    async fn handle(
        State(seen): State<mpsc::UnboundedSender<Seen>>,
        uri: Uri,
        request: Request<axum::body::Body>,
    ) -> impl IntoResponse {
        let authority = request.uri().authority().map(ToString::to_string);
        let path = uri.path_and_query().map_or_else(String::new, ToString::to_string);
        seen.send((path, authority, request.headers().clone())).unwrap();
        ([("x-secret", "k")], "ok")
    }
    let (socket, address) = listener().await;
    let nowhere = Link::fixed(Snapshot::empty(), None);
    let app = Router::new().fallback(handle).with_state(seen);
    let app = MeshLayer::new(&nowhere).dangerous().plaintext().layer(app);
    tokio::spawn(async move {
        let serving = mesh_server::serve(socket, &nowhere, app).dangerous().plaintext();
        serving.await;
    });
    Endpoint::new(address)
}

/// A client of a control plane that says this.
async fn told(snapshot: &Snapshot) -> XdsClient {
    let (ads, port) = listener().await;
    let cache = SnapshotCache::new();
    cache.publish("all", snapshot).unwrap();
    let service = AdsService::new(cache, |_: &Caller| Ok("all".into()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(ads);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let bootstrap = format!(
        r#"{{"xds_servers": [{{"server_uri": "{port}", "channel_creds": [{{"type": "insecure"}}]}}], "node": {{"id": "n"}}}}"#
    );
    XdsClient::start(Bootstrap::from_json(&bootstrap).unwrap()).unwrap()
}

fn at(path: &str, action: Action) -> Route {
    let mut route = Route::doing(action);
    route.matches.path = PathMatch::Segments(path.into());
    route
}

fn forward() -> Action {
    Action::Forward(Split::all_to("shop").into())
}

/// A route of each kind.
fn routes() -> Vec<Route> {
    let redirect = Action::Redirect(Box::new(Redirect {
        status: StatusCode::FOUND,
        scheme: Some("https".into()),
        host: Some("elsewhere".into()),
        port: None,
        path: Some(RedirectPath::Rewritten(PathRewrite::Prefix("/there".into()))),
        strip_query: true,
    }));
    let respond = Action::Respond(DirectResponse {
        status: StatusCode::BAD_GATEWAY,
        body: "no such host".into(),
    });
    let mut broken = at("/broken", forward());
    let abort = FaultAbort {
        fraction: Fraction::ALL,
        abort: Abort::Http(StatusCode::IM_A_TEAPOT),
        body: "on purpose".into(),
    };
    broken.filter_overrides = vec![FilterOverride {
        filter: "fault".into(),
        what: Override::With(FilterKind::from(Fault {
            abort: Some(abort),
            ..Fault::default()
        })),
    }];
    let mut edited = at("/edited", forward());
    if let Action::Forward(forward) = &mut edited.action {
        let path = Some(PathRewrite::Prefix("/v2".into()));
        forward.rewrite = Some(Box::new(Rewrite {
            path,
            ..Rewrite::default()
        }));
    }
    let mut rules = HeaderRules::default();
    let value = HeaderFormat::parse("%REQ(:authority)% by %UPSTREAM_CLUSTER%").unwrap();
    rules.request.add = vec![HeaderEdit::new("x-for".parse().unwrap(), value, AppendAction::AddIfAbsent).unwrap()];
    rules.response.remove = vec!["x-secret".parse().unwrap()];
    edited.headers = rules.shared();
    let mut asked = at("/asked", forward());
    asked.matches.query = vec![QueryMatch {
        name: "really".into(),
        test: QueryTest::Present(true),
    }];
    let mut mirrored = at("/mirrored", forward());
    if let Action::Forward(forward) = &mut mirrored.action {
        forward.mirrors = vec![Mirror {
            cluster: "shadow".into(),
            fraction: None,
            shadow_suffix: true,
        }];
    }
    vec![
        at("/moved", redirect),
        at("/gone", respond),
        broken,
        edited,
        asked,
        mirrored,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_control_plane_says_of_a_route_is_done_to_a_call() {
    let (shop_seen, mut shop) = mpsc::unbounded_channel();
    let (shadow_seen, mut shadow) = mpsc::unbounded_channel();
    let cluster = |name: &str, endpoint| Cluster::new(name, TlsMode::Plaintext, vec![endpoint]);
    let routes = routes().into_iter().map(Arc::new).collect();
    let mut tree = RouteTree::new("shop", vec![VirtualHost::new("h", vec![Domain::Any], routes)]);
    tree.filters = vec![CallFilter::new("fault", Fault::default().into())];
    let snapshot = Snapshot::builder()
        .target("shop", Ok(Arc::new(tree)))
        .cluster(cluster("shop", server(shop_seen).await))
        .cluster(cluster("shadow", server(shadow_seen).await))
        .build()
        .unwrap();
    let xds = told(&snapshot).await;
    let channel = Channel::builder(&xds.link(), "xds:///shop")
        .dangerous()
        .plaintext()
        .build();
    soon("configuration", channel.ready()).await;
    let call = async |path: &str| {
        let request = Request::get(path).body(Full::new(bytes::Bytes::new())).unwrap();
        soon("the answer", channel.clone().oneshot(request)).await
    };

    let moved = call("/moved/a?b").await.unwrap();
    assert_eq!(
        (moved.status().as_u16(), &moved.headers()["location"]),
        (302, &"https://elsewhere/there/a".parse().unwrap())
    );

    let gone = call("/gone").await.unwrap();
    assert_eq!(gone.status(), 502);
    assert_eq!(gone.into_body().collect().await.unwrap().to_bytes(), "no such host");

    let broken = call("/broken").await.unwrap();
    assert_eq!(broken.status(), 418);
    assert!(broken.extensions().get::<Error>().unwrap().is_fault());

    let edited = call("/edited/a?b").await.unwrap();
    assert!(!edited.headers().contains_key("x-secret"));
    let (path, authority, headers) = soon("the request", shop.recv()).await.unwrap();
    assert_eq!((path.as_str(), authority.as_deref()), ("/v2/a?b", Some("shop")));
    assert_eq!(headers["x-for"], "shop by shop");
    assert_eq!(headers["x-envoy-original-path"], "/edited/a?b");

    assert!(call("/asked").await.unwrap_err().is_no_route());
    call("/asked?really").await.unwrap();
    assert_eq!(soon("the request", shop.recv()).await.unwrap().0, "/asked?really");

    call("/mirrored").await.unwrap();
    assert_eq!(
        soon("the request", shop.recv()).await.unwrap().1.as_deref(),
        Some("shop")
    );
    assert_eq!(
        soon("the copy", shadow.recv()).await.unwrap().1.as_deref(),
        Some("shop-shadow")
    );

    tokio::time::timeout(Duration::ZERO, shop.recv()).await.unwrap_err();
}
