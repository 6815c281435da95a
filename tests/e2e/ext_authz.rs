//! Who may call what is asked of authorizers outside of the process (Istio's CUSTOM): by gRPC of one that Envoy's own service definition
//! makes, by HTTP of an axum router, both members of the mesh; from a saved file to the next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request as HttpRequest;
use axum::response::IntoResponse;
use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue,
    HeaderValueOption, HttpResponse, HttpStatus, OkHttpResponse,
};
use envoy_types::pb::google::rpc;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use mesh_client::Channel;
use mesh_core::Link;
use mesh_server::MeshLayer;
use mesh_xds::XdsClient;
use tests::{Mesh, admitted, identity, listener, soon};
use tokio::net::TcpListener;
use tonic::{Response, Status};
use tower::{Layer as _, ServiceExt as _};

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Lets pass who says `x-key: good`, and says who it is.
#[derive(Clone, Default)]
struct ByGrpc {
    asked: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Authorization for ByGrpc {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let peer = attributes.source.unwrap_or_default().principal;
        let http = attributes.request.unwrap_or_default().http.unwrap_or_default();
        let header = |key: &str, value: String| HeaderValueOption {
            header: Some(HeaderValue {
                key: key.into(),
                value,
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        };
        let (code, said) = match http.headers.get("x-key").map(String::as_str) {
            Some("good") => (
                0,
                HttpResponse::OkResponse(OkHttpResponse {
                    headers: vec![header("x-user", format!("{peer} {}", http.path))],
                    headers_to_remove: vec!["x-key".into()],
                    response_headers_to_add: vec![header("x-checked", "grpc".into())],
                    ..OkHttpResponse::default()
                }),
            ),
            Some("broken") => return Err(Status::internal("broken")),
            _ => (
                7,
                HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(HttpStatus { code: 401 }),
                    headers: vec![header("x-why", "no key".into())],
                    body: "show a key".into(),
                }),
            ),
        };
        Ok(Response::new(CheckResponse {
            status: Some(rpc::Status {
                code,
                ..rpc::Status::default()
            }),
            http_response: Some(said),
            ..CheckResponse::default()
        }))
    }
}

/// The same by HTTP.
async fn by_http(request: HttpRequest) -> impl IntoResponse {
    let path = request.uri().path().to_owned();
    match request.headers().get("x-key").is_some_and(|key| key == "good") {
        true => (StatusCode::OK, [("x-user", format!("http {path}"))], String::new()),
        false => (
            StatusCode::FORBIDDEN,
            [("x-why", "no key".to_owned())],
            "show a key".to_owned(),
        ),
    }
}

/// Serves as a member of the mesh until the test ends.
async fn member<S>(mesh: &Mesh, account: &str, listener: TcpListener, app: impl FnOnce(&Link) -> S) -> XdsClient
where
    S: Serves,
{
    let address = listener.local_addr().unwrap().to_string();
    let xds = mesh.join(account);
    let link = xds.link();
    identity(&link).await;
    app(&link).serve(listener, &link);
    admitted(&link, &address).await;
    xds
}

/// What can be served: both kinds of routers are.
trait Serves {
    fn serve(self, listener: TcpListener, link: &Link);
}

impl Serves for Router {
    fn serve(self, listener: TcpListener, link: &Link) {
        let link = link.clone();
        let channels = link.clone();
        let layer = MeshLayer::new(&link).ext_authz_by(move |target| Channel::new(&channels, target));
        let app = layer.layer(self);
        tokio::spawn(async move { mesh_server::serve(listener, &link, app).await });
    }
}

impl Serves for tonic::service::Routes {
    fn serve(self, listener: TcpListener, link: &Link) {
        self.into_axum_router().serve(listener, link);
    }
}

fn documents(payment: u16, grpc: u16, http: u16) -> String {
    let one = |name: &str, account: &str, port: u16| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 9000, name: http, protocol: HTTP2, targetPort: {port}}}]
  workloadSelector: {{labels: {{app: {name}}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: default}}
spec: {{address: 127.0.0.1, ports: {{http: {port}}}, labels: {{app: {name}}}, serviceAccount: {account}}}
"
        )
    };
    one("payment", "payment", payment) + &one("authz-grpc", "authz-grpc", grpc) + &one("authz-http", "authz-http", http)
}

const CONFIG: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    extensionProviders:
    - name: by-grpc
      envoyExtAuthzGrpc:
        service: authz-grpc.default.svc.cluster.local
        port: \"9000\"
        timeout: 10s
        statusOnError: \"503\"
    - name: by-http
      envoyExtAuthzHttp:
        service: default/authz-http.default.svc.cluster.local
        port: 9000
        timeout: 10s
        pathPrefix: /check
        includeRequestHeadersInCheck: [x-key]
        headersToUpstreamOnAllow: [x-user]
        headersToDownstreamOnDeny: ['x-w*']
";

fn custom(provider: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ask, namespace: default}}
spec:
  selector: {{matchLabels: {{app: payment}}}}
  action: CUSTOM
  provider: {{name: {provider}}}
  rules: [{{to: [{{operation: {{paths: ['/pay*']}}}}]}}]
"
    )
}

type Caller = Channel<Full<Bytes>>;

async fn get(channel: &Caller, path: &str, key: &str) -> (u16, http::HeaderMap, String) {
    let request = Request::get(path).header("x-key", key).header("x-user", "forged");
    let call = channel.clone().oneshot(request.body(Full::default()).unwrap());
    let (parts, body) = soon("an answer", call).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        parts.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

async fn until(channel: &Caller, key: &str, status: u16) {
    let changed = async {
        while get(channel, "/pay", key).await.0 != status {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the policy to reach the server", changed).await;
}

#[tokio::test]
async fn custom_asks_an_authorizer_of_the_mesh_by_grpc_and_by_http() {
    let ((pay, at), (grpc, grpc_at), (http, http_at)) = (listener().await, listener().await, listener().await);
    let text = documents(at.port(), grpc_at.port(), http_at.port());
    let mesh = Mesh::start(&[("a.yaml", &text), ("config.yaml", CONFIG)]).await;
    let echo = axum::routing::get(|request: HttpRequest| async move {
        let header = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap());
        format!("{} {}", header("x-user"), header("x-key"))
    });
    let app = Router::new().route("/pay", echo.clone()).route("/open", echo);
    let payment = member(&mesh, "payment", pay, |_| app).await;
    let authorizer = ByGrpc::default();
    let service = AuthorizationServer::new(authorizer.clone());
    let _grpc = member(&mesh, "authz-grpc", grpc, |_| tonic::service::Routes::new(service)).await;
    let _http = member(&mesh, "authz-http", http, |_| Router::new().fallback(by_http)).await;
    let caller = mesh.join("checkout");
    let channel: Caller = Channel::new(&caller.link(), "payment.default.svc.cluster.local:9000");
    soon("the target's configuration", channel.ready()).await;
    until(&channel, "none", 200).await;

    mesh.save("policy.yaml", &custom("by-grpc"));
    until(&channel, "none", 401).await;
    let (status, headers, body) = get(&channel, "/pay", "none").await;
    assert_eq!(
        (status, &*body, &headers["x-why"]),
        (401, "show a key", &"no key".parse().unwrap())
    );
    let (status, headers, body) = get(&channel, "/pay", "good").await;
    // Who called, what for, and without the key.
    assert_eq!(
        (status, &*body),
        (200, "spiffe://cluster.local/ns/default/sa/checkout /pay -")
    );
    assert_eq!(headers["x-checked"], "grpc");
    assert_eq!(get(&channel, "/pay", "broken").await.0, 503);
    let asked = authorizer.asked.load(Ordering::Relaxed);
    assert_eq!(get(&channel, "/open", "none").await.0, 200);
    assert_eq!(
        authorizer.asked.load(Ordering::Relaxed),
        asked,
        "nobody is asked about what no rule matches"
    );

    mesh.save("policy.yaml", &custom("by-http"));
    until(&channel, "none", 403).await;
    let (status, headers, body) = get(&channel, "/pay", "none").await;
    assert_eq!(
        (status, &*body, &headers["x-why"]),
        (403, "show a key", &"no key".parse().unwrap())
    );
    assert_eq!(get(&channel, "/pay", "good").await.2, "http /check/pay good");

    // A provider that is not there is no yes.
    mesh.save("policy.yaml", &custom("nobody"));
    let gone = async {
        while get(&channel, "/pay", "good").await.2 != "RBAC: access denied" {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the policy to reach the server", gone).await;
    assert_eq!(get(&channel, "/open", "none").await.0, 200);
    let tally = payment.link().tally().clone();
    assert!(tally.get("ext_authz_allowed", "grpc") >= 1 && tally.get("ext_authz_denied", "http") >= 1);
    assert!(tally.get("ext_authz_failed", "failed") >= 1);
}
