//! Every kind of service, over HTTP/2 and HTTP/1.1, each told who calls.

use std::task::{Context, Poll};

use axum::Extension;
use axum::routing::get as on_get;
use tonic::body::Body as TonicBody;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::Service;

use super::*;
use crate::FromHyper;

#[tokio::test]
async fn a_tower_function_knows_its_peer() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    assert_eq!(call(address, mesh.client()).await.unwrap(), (200, CLIENT.into()));
    assert_eq!(handler.calls(), 1);
}

#[tokio::test]
async fn an_axum_router_knows_its_peer_over_both_protocols() {
    let mesh = Mesh::new();
    let router = axum::Router::new().route(
        "/",
        on_get(|Extension(peer): Extension<PeerIdentity>| async move { peer.to_string() }),
    );
    let app = MeshLayer::new(&mesh.link).layer(router);
    let address = spawn(&mesh, app).await;
    assert_eq!(call(address, mesh.client()).await.unwrap(), (200, CLIENT.into()));

    let mut http1 = (*mesh.client()).clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    let io = connect(address, Arc::new(http1)).await.unwrap();
    assert_eq!(get_http1(io).await, (200, CLIENT.into()));
}

#[tokio::test]
async fn a_hyper_function_knows_its_peer() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let answer = move |request: Request<RequestBody>| {
        let response = handler.answer(&request);
        async { Ok::<_, Infallible>(response) }
    };
    let app = MeshLayer::new(&mesh.link).layer(FromHyper::new(hyper::service::service_fn(answer)));
    let address = spawn(&mesh, app).await;
    assert_eq!(call(address, mesh.client()).await.unwrap(), (200, CLIENT.into()));
}

#[tokio::test]
async fn tonic_routes_know_their_peer() {
    let mesh = Mesh::new();
    let app = MeshLayer::new(&mesh.link).layer(Routes::new(Named::default()));
    let address = spawn(&mesh, app).await;
    assert_eq!(say(address, &mesh).await, (200, Some(CLIENT.to_owned())));
}

#[tokio::test]
async fn id_5_tonics_own_loop_is_strict_and_knows_its_peer() {
    let (mesh, service) = (Mesh::new(), Named::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder()
        .layer(MeshLayer::new(&mesh.link))
        .add_service(service.clone())
        .serve_with_incoming_shutdown(crate::tonic::incoming(listener, &mesh.link), async {
            drop(stopped.await)
        });
    let server = tokio::spawn(server);

    assert_eq!(say(address, &mesh).await, (200, Some(CLIENT.to_owned())));
    call(address, mesh.anonymous()).await.unwrap_err();
    assert_eq!((mesh.refused("no_certificate"), service.handler.calls()), (1, 1));
    let (mut plain, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    get(&mut plain).await.unwrap_err();
    assert_eq!((mesh.refused("plaintext"), service.handler.calls()), (1, 1));

    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

/// What somebody gets who wraps a service and then serves it with tonic's plain loop.
#[tokio::test]
async fn id_5_a_meshed_service_on_tonics_plain_loop_runs_no_handler() {
    let (mesh, service) = (Mesh::new(), Named::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = Server::builder()
        .layer(MeshLayer::new(&mesh.link))
        .add_service(service.clone())
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let (mut plain, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let response = plain.send_request(grpc()).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "7");
    assert_eq!(
        (mesh.link.tally().total("request_refused"), service.handler.calls()),
        (1, 0)
    );
}

#[tokio::test]
async fn plaintext_is_served_only_if_both_ends_of_the_code_say_so() {
    let (mesh, handler) = (Mesh::new(), Handler::default());
    let answer = move |request: Request<RequestBody>| {
        let response = handler.answer(&request);
        async { Ok::<_, Infallible>(response) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = MeshLayer::new(&mesh.link)
        .dangerous()
        .plaintext()
        .layer(service_fn(answer));
    tokio::spawn(serve(listener, &mesh.link, app).dangerous().plaintext().into_future());
    let (mut plain, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    assert_eq!(get(&mut plain).await.unwrap(), (200, Bytes::new()));
}

async fn spawn<S, B>(mesh: &Mesh, app: S) -> SocketAddr
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    address
}

fn grpc() -> Request<Empty<Bytes>> {
    Request::post("http://payment.shop/mesh.test.Named/Say")
        .header("content-type", "application/grpc")
        .body(Empty::new())
        .unwrap()
}

/// A gRPC call, by hand: its status and the peer that the service saw.
async fn say(address: SocketAddr, mesh: &Mesh) -> (u16, Option<String>) {
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    let response = sender.send_request(grpc()).await.unwrap();
    let peer = response
        .headers()
        .get("peer")
        .map(|peer| peer.to_str().unwrap().to_owned());
    (response.status().as_u16(), peer)
}

/// What tonic would generate for a service `mesh.test.Named`, as far as routing goes.
#[derive(Clone, Default)]
struct Named {
    handler: Handler,
}

impl NamedService for Named {
    const NAME: &'static str = "mesh.test.Named";
}

impl Service<Request<TonicBody>> for Named {
    type Response = Response<TonicBody>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<TonicBody>) -> Self::Future {
        let peer = request.extensions().get::<PeerIdentity>().map(ToString::to_string);
        drop(self.handler.answer(&request));
        let mut response = Response::new(TonicBody::empty());
        if let Some(peer) = peer {
            response.headers_mut().insert("peer", peer.parse().unwrap());
        }
        std::future::ready(Ok(response))
    }
}
