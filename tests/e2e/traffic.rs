//! What a `VirtualService` says of a request is done to it: from a saved document to what the server and the caller see.
//!
//! [`routing`](crate::routing) has the same of values that a foreign control plane may send; here the words are Istio's.

use axum::http::Request;
use http_body_util::{BodyExt as _, Full};
use mesh_client::{Channel, Error};
use tests::{Mesh, soon};
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use crate::routing::server;

/// A service outside of the mesh, which takes no TLS.
fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http2, protocol: HTTP2}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http2: {port}}}}}]
"
    )
}

/// A rule of each kind, and none for what they do not name.
const RULES: &str = r#"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example.com]
  http:
  - match: [{uri: {prefix: /moved}}]
    redirect: {uri: /there, authority: elsewhere.example.com, scheme: https, redirectCode: 302}
  - match: [{uri: {exact: /said}}]
    directResponse: {status: 418, body: {string: no coffee}}
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /new/, authority: inner.example.com}
    route: [{destination: {host: shop.example.com}}]
  - match: [{uri: {prefix: /users/}}]
    rewrite: {uriRegexRewrite: {match: "^/users/([0-9]+)$", rewrite: "/u/\\1"}}
    route: [{destination: {host: shop.example.com}}]
  - match: [{uri: {exact: /edited}}]
    headers:
      request: {set: {x-kind: set}, add: {x-more: "2"}, remove: [x-gone]}
    route:
    - destination: {host: shop.example.com}
      headers: {response: {remove: [x-secret], add: {x-version: v1}}}
  - match: [{uri: {exact: /broken}}]
    fault: {abort: {httpStatus: 503, percentage: {value: 100}}}
    route: [{destination: {host: shop.example.com}}]
  - match: [{uri: {exact: /copied}}]
    mirrors: [{destination: {host: shadow.example.com}}]
    route: [{destination: {host: shop.example.com}}]
  - match: [{uri: {exact: /asked}, method: {exact: PUT}, queryParams: {really: {exact: "yes"}}}]
    route: [{destination: {host: shop.example.com}}]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_virtual_service_says_of_a_request_is_done_to_it() {
    let (shop_seen, mut shop) = mpsc::unbounded_channel();
    let (shadow_seen, mut shadow) = mpsc::unbounded_channel();
    let shop_port = server(shop_seen).await.address.port();
    let shadow_port = server(shadow_seen).await.address.port();
    let services = service("shop", shop_port) + "---\n" + &service("shadow", shadow_port);
    let mesh = Mesh::start(&[("services.yaml", &services), ("rules.yaml", RULES)]).await;
    assert_eq!(*mesh.control().status().diagnostics, []);
    let xds = mesh.join("checkout");
    let channel = Channel::builder(&xds.link(), "xds:///shop.example.com")
        .dangerous()
        .plaintext()
        .build();
    soon("configuration", channel.ready()).await;
    let ask = async |request: http::request::Builder| {
        let request = request.body(Full::new(bytes::Bytes::new())).unwrap();
        soon("the answer", channel.clone().oneshot(request)).await
    };
    let get = async |path: &str| ask(Request::get(path)).await;

    let moved = get("/moved/a").await.unwrap();
    assert_eq!(
        (moved.status().as_u16(), moved.headers()["location"].to_str().unwrap()),
        (302, "https://elsewhere.example.com/there")
    );

    let said = get("/said").await.unwrap();
    assert_eq!(said.status(), 418);
    assert_eq!(said.into_body().collect().await.unwrap().to_bytes(), "no coffee");

    let broken = get("/broken").await.unwrap();
    assert_eq!(broken.status(), 503);
    assert!(broken.extensions().get::<Error>().unwrap().is_fault());

    assert!(get("/asked?really=yes").await.unwrap_err().is_no_route());
    assert!(ask(Request::put("/asked?really=no")).await.unwrap_err().is_no_route());
    assert!(get("/other").await.unwrap_err().is_no_route());

    // None of these came to the server: the first request that it sees is this one.
    ask(Request::put("/asked?really=yes")).await.unwrap();
    let (path, authority, _) = soon("the request", shop.recv()).await.unwrap();
    assert_eq!(
        (path.as_str(), authority.as_deref()),
        ("/asked?really=yes", Some("shop.example.com"))
    );

    get("/old/a?b").await.unwrap();
    let (path, authority, headers) = soon("the request", shop.recv()).await.unwrap();
    assert_eq!(
        (path.as_str(), authority.as_deref()),
        ("/new/a?b", Some("inner.example.com"))
    );
    assert_eq!(headers["x-envoy-original-path"], "/old/a?b");

    get("/users/7").await.unwrap();
    assert_eq!(soon("the request", shop.recv()).await.unwrap().0, "/u/7");

    let request = Request::get("/edited").header("x-kind", "sent").header("x-more", "1");
    let edited = ask(request.header("x-gone", "1")).await.unwrap();
    assert!(!edited.headers().contains_key("x-secret"));
    assert_eq!(edited.headers()["x-version"], "v1");
    let (_, _, headers) = soon("the request", shop.recv()).await.unwrap();
    let values = |name: &str| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
    assert_eq!(values("x-kind"), ["set"]);
    assert_eq!(values("x-more"), ["1", "2"]);
    assert!(values("x-gone").is_empty());

    get("/copied").await.unwrap();
    let (_, authority, _) = soon("the request", shop.recv()).await.unwrap();
    assert_eq!(authority.as_deref(), Some("shop.example.com"));
    let (path, authority, _) = soon("the copy", shadow.recv()).await.unwrap();
    assert_eq!(
        (path.as_str(), authority.as_deref()),
        ("/copied", Some("shop.example.com-shadow"))
    );
}
