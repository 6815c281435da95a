//! What `connectionPool` of a `DestinationRule` says is what a server sees of its callers: how many connections they make, how many
//! calls one of them carries, when it ends, and how many calls are tried again at once.
//!
//! The server is outside of the mesh and speaks HTTP/1.1 in the clear, where a connection carries a call at a time and all of it is
//! seen from there. It holds calls until the test lets them go, so nothing here depends on who is faster.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_client::Channel;
use mesh_xds::XdsClient;
use tests::{Mesh, begun, listener, soon};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service as _;

type Call = Pin<Box<dyn Future<Output = Result<StatusCode, mesh_client::Error>> + Send>>;

/// A server that tells what it sees.
#[derive(Clone)]
struct Shop {
    address: SocketAddr,
    /// By where from each request came.
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    begun: watch::Sender<usize>,
    retries: watch::Sender<usize>,
    open: watch::Sender<usize>,
    /// Answers are given while it says so.
    answers: watch::Sender<bool>,
    /// First tries fail at once.
    fails: Arc<std::sync::atomic::AtomicBool>,
}

impl Shop {
    async fn open() -> Self {
        let (socket, address) = listener().await;
        let shop = Self {
            address,
            seen: Arc::default(),
            begun: watch::Sender::new(0),
            retries: watch::Sender::new(0),
            open: watch::Sender::new(0),
            answers: watch::Sender::new(true),
            fails: Arc::default(),
        };
        let serving = shop.clone();
        tokio::spawn(async move {
            while let Ok((io, peer)) = socket.accept().await {
                tokio::spawn(serving.clone().serve(TokioIo::new(io), peer));
            }
        });
        shop
    }

    async fn serve(self, io: TokioIo<tokio::net::TcpStream>, peer: SocketAddr) {
        self.open.send_modify(|open| *open += 1);
        let answer = |request| {
            let shop = self.clone();
            async move { Ok::<_, Infallible>(shop.answer(&request, peer).await) }
        };
        // However it ends.
        let _ = http1::Builder::new().serve_connection(io, service_fn(answer)).await;
        self.open.send_modify(|open| *open -= 1);
    }

    async fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Empty<Bytes>> {
        self.seen.lock().unwrap().push(peer);
        self.begun.send_modify(|begun| *begun += 1);
        let is_retry = request.headers().contains_key("grpc-previous-rpc-attempts");
        let mut response = Response::new(Empty::new());
        if is_retry {
            self.retries.send_modify(|retries| *retries += 1);
        } else if self.fails.load(std::sync::atomic::Ordering::Relaxed) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return response;
        }
        self.answers.subscribe().wait_for(|answers| *answers).await.unwrap();
        response
    }

    /// How many connections requests came over.
    fn connections(&self) -> usize {
        self.seen.lock().unwrap().iter().collect::<BTreeSet<_>>().len()
    }

    async fn until_begun(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        soon("the requests", begun.wait_for(|begun| *begun == count))
            .await
            .unwrap();
    }
}

struct Rig {
    shop: Shop,
    channel: Channel<Empty<Bytes>>,
    _mesh: Mesh,
    _xds: XdsClient,
}

impl Rig {
    /// A caller of the shop by this policy and, where retries are asked for, with one.
    async fn start(policy: &str, retries: bool) -> Self {
        let shop = Shop::open().await;
        let service = format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: shop, namespace: default}}
spec:
  hosts: [shop.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: shop, namespace: default}}
spec: {{host: shop.example.com, trafficPolicy: {policy}}}
",
            shop.address.port()
        );
        let route = format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop, namespace: default}}
spec:
  hosts: [shop.example.com]
  http:
  - route: [{{destination: {{host: shop.example.com}}}}]
    retries: {}
",
            if retries {
                "{attempts: 1, retryOn: 5xx}"
            } else {
                "{attempts: 0}"
            }
        );
        let mesh = Mesh::start(&[("service.yaml", &service), ("route.yaml", &route)]).await;
        let status = mesh.control().status();
        assert_eq!(status.accepted, 1, "{:?}", status.diagnostics);
        let xds = mesh.join("checkout");
        let builder = Channel::builder(&xds.link(), "xds:///shop.example.com");
        let channel = builder.dangerous().plaintext().build();
        soon("the target's configuration", channel.ready()).await;
        Self {
            shop,
            channel,
            _mesh: mesh,
            _xds: xds,
        }
    }

    fn call(&self) -> Call {
        let mut channel = self.channel.clone();
        Box::pin(async move {
            let request = Request::get("http://shop.example.com/").body(Empty::new());
            let answer = channel.call(request.unwrap()).await?;
            let status = answer.status();
            answer.into_body().collect().await?;
            Ok(status)
        })
    }

    fn calls(&self, count: usize) -> Vec<Call> {
        (0..count).map(|_| self.call()).collect()
    }
}

/// Calls that go on by themselves.
fn going(calls: Vec<Call>) -> JoinSet<Result<StatusCode, mesh_client::Error>> {
    calls.into_iter().collect()
}

async fn all_succeed(calls: JoinSet<Result<StatusCode, mesh_client::Error>>) {
    for answer in soon("the answers", calls.join_all()).await {
        assert_eq!(answer.unwrap(), StatusCode::OK);
    }
}

/// On one thread, so that nobody answers while the calls begin.
#[tokio::test]
async fn so_many_calls_wait_for_so_many_connections() {
    let policy = "{connectionPool: {tcp: {maxConnections: 2}, http: {http1MaxPendingRequests: 3}}}";
    let rig = Rig::start(policy, false).await;
    rig.shop.answers.send_replace(false);
    let (waiting, over) = begun(rig.calls(8)).await;
    assert_eq!((waiting.len(), over.len()), (3, 5));
    for refused in over {
        let error = refused.unwrap_err();
        assert!(
            error.to_string().contains("over the limit: max_pending_requests"),
            "{error}"
        );
    }
    // Of the three two have a connection, and the third waits for one of theirs.
    let waiting = going(waiting);
    rig.shop.until_begun(2).await;
    assert_eq!(rig.shop.connections(), 2);
    rig.shop.answers.send_replace(true);
    all_succeed(waiting).await;
    assert_eq!((rig.shop.connections(), *rig.shop.begun.borrow()), (2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_each_call_at_once_has_a_connection_and_with_one_they_share_it() {
    let free = Rig::start("{loadBalancer: {simple: ROUND_ROBIN}}", false).await;
    free.shop.answers.send_replace(false);
    let calls = going(free.calls(6));
    free.shop.until_begun(6).await;
    assert_eq!(free.shop.connections(), 6);
    free.shop.answers.send_replace(true);
    all_succeed(calls).await;

    let single = Rig::start("{connectionPool: {tcp: {maxConnections: 1}}}", false).await;
    all_succeed(going(single.calls(6))).await;
    assert_eq!((single.shop.connections(), *single.shop.begun.borrow()), (1, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_calls_are_tried_again_at_once() {
    for (policy, again) in [
        ("{connectionPool: {http: {maxRetries: 1}}}", 1),
        ("{connectionPool: {http: {maxRetries: 2}}}", 2),
        ("{connectionPool: {tcp: {maxConnections: 100}}}", 3),
    ] {
        let rig = Rig::start(policy, true).await;
        // First tries fail, and second ones are held: so long each has its place.
        rig.shop.fails.store(true, std::sync::atomic::Ordering::Relaxed);
        rig.shop.answers.send_replace(false);
        let mut calls = going(rig.calls(3));
        for _ in again..3 {
            let answer = soon("an answer", calls.join_next()).await.unwrap().unwrap();
            assert_eq!(answer.unwrap(), StatusCode::SERVICE_UNAVAILABLE, "{policy}");
        }
        let mut retries = rig.shop.retries.subscribe();
        soon("the tries", retries.wait_for(|retries| *retries == again))
            .await
            .unwrap();
        assert_eq!(calls.len(), again);
        rig.shop.answers.send_replace(true);
        all_succeed(calls).await;
        assert_eq!(
            (*rig.shop.retries.borrow(), *rig.shop.begun.borrow()),
            (again, 3 + again)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_carries_so_many_calls() {
    for (policy, connections) in [
        ("{connectionPool: {http: {maxRequestsPerConnection: 1}}}", 6),
        ("{connectionPool: {http: {maxRequestsPerConnection: 2}}}", 3),
        ("{connectionPool: {http: {maxRetries: 1}}}", 1),
    ] {
        let rig = Rig::start(policy, false).await;
        for _ in 0..6 {
            assert_eq!(rig.call().await.unwrap(), StatusCode::OK);
        }
        assert_eq!(rig.shop.connections(), connections, "{policy}");
    }
}

/// A connection of which nobody says anything stays for an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_when_it_was_idle_for_as_long_as_a_rule_says() {
    let rig = Rig::start("{connectionPool: {http: {idleTimeout: 0.2s}}}", false).await;
    assert_eq!(rig.call().await.unwrap(), StatusCode::OK);
    let mut open = rig.shop.open.subscribe();
    soon("the end of the connection", open.wait_for(|open| *open == 0))
        .await
        .unwrap();
    assert_eq!(rig.call().await.unwrap(), StatusCode::OK);
    assert_eq!(rig.shop.connections(), 2);
}
