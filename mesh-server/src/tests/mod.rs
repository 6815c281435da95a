//! The crate as its users meet it: real sockets, real TLS, a client that is hyper's own. Where time matters, pipes under a
//! paused clock take the place of sockets.

mod access_log;
mod admin;
mod authorize;
mod bypass;
mod canonical;
mod conduct;
mod descriptors;
mod drain;
mod ext_authz;
mod floods;
mod forwarded;
mod identities;
mod lifetime;
mod limits;
mod modes;
mod odd;
mod overload;
mod raw;
mod services;
mod strict;
mod telemetry;
mod tokens;
mod withdrawn;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::Link;
use mesh_core::config::ExpectedPeers;
use mesh_core::identity::Identity;
use mesh_core::identity::tls::{client_config, provider};
use mesh_core::identity::verify::ServerVerifier;
use mesh_core::link::{Parts, Source};
use mesh_core::testing::{SettableClock, TestCa};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, version};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use crate::serve::{Drained, Listen};
use crate::{MeshLayer, PeerIdentity, RequestBody, serve};

/// A day in 2026.
const NOW_SECONDS: u64 = 1_795_305_600;

const SERVER: &str = "spiffe://mesh.test/ns/shop/sa/payment";
const CLIENT: &str = "spiffe://mesh.test/ns/shop/sa/checkout";

/// A mesh of one server, and what its tests need to meddle with.
struct Mesh {
    ca: TestCa,
    link: Link,
    source: Source,
    clock: SettableClock,
}

impl Mesh {
    fn new() -> Self {
        Self::with(Parts::default())
    }

    /// One whose control plane also says whom servers let in.
    fn governed() -> Self {
        Self::with(Parts {
            governs_servers: true,
            ..Parts::default()
        })
    }

    fn with(parts: Parts) -> Self {
        let ca = TestCa::new("mesh.test");
        let clock = SettableClock::at(NOW_SECONDS);
        let (source, link) = Link::new(Parts {
            wall_clock: Arc::new(clock.clone()),
            ..parts
        });
        source.identity.publish(Ok(ca.identity(SERVER)));
        Self {
            ca,
            link,
            source,
            clock,
        }
    }

    /// How a client with `identity` calls the server.
    fn client_as(&self, identity: &Identity) -> Arc<ClientConfig> {
        let expected = ExpectedPeers::exactly([SERVER]);
        client_config(identity, &expected, Arc::new(self.clock.clone()), &[b"h2"]).unwrap()
    }

    fn client(&self) -> Arc<ClientConfig> {
        self.client_as(&self.ca.identity(CLIENT))
    }

    /// A client that verifies the server and does not say who it is.
    fn anonymous(&self) -> Arc<ClientConfig> {
        let verifier = ServerVerifier::new(self.ca.bundle(), ExpectedPeers::exactly([SERVER]));
        let mut config = ClientConfig::builder_with_details(Arc::clone(provider()), Arc::new(self.clock.clone()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    fn refused(&self, reason: &'static str) -> u64 {
        self.link.tally().get("handshake_refused", reason)
    }
}

type Answer = UnsyncBoxBody<Bytes, tower::BoxError>;

/// A handler that counts its calls and says who called.
#[derive(Clone, Default)]
struct Handler {
    calls: Arc<AtomicUsize>,
}

impl Handler {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let peer = request.extensions().get::<PeerIdentity>();
        Response::new(Full::new(peer.map(ToString::to_string).unwrap_or_default().into()))
    }

    /// Serves it on a port of its own.
    async fn listen(&self, link: &Link) -> (SocketAddr, JoinHandle<Drained>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve(listener, link, self.app(link));
        (address, tokio::spawn(serving.into_future()))
    }

    /// As a service of the mesh.
    fn app(&self, link: &Link) -> BoxCloneSyncService<Request<RequestBody>, Response<Answer>, Infallible> {
        let handler = self.clone();
        let answer = move |request: Request<RequestBody>| {
            let response = handler.answer(&request);
            async { Ok::<_, Infallible>(response) }
        };
        let app = MeshLayer::new(link).layer(service_fn(answer));
        BoxCloneSyncService::new(
            app.map_response(|response: Response<_>| response.map(|body| Answer::new(body.map_err(Into::into)))),
        )
    }
}

async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    shake_hands(TcpStream::connect(address).await?, config).await
}

async fn shake_hands<IO>(io: IO, config: Arc<ClientConfig>) -> io::Result<TlsStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from("payment.shop").unwrap();
    TlsConnector::from(config).connect(name, io).await
}

type Sender = http2::SendRequest<Empty<Bytes>>;

/// An HTTP/2 client over `io`, and the task that ends with its connection.
async fn h2<IO>(io: IO) -> hyper::Result<(Sender, JoinHandle<hyper::Result<()>>)>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    Ok((sender, tokio::spawn(connection)))
}

async fn get(sender: &mut Sender) -> hyper::Result<(u16, Bytes)> {
    let request = Request::get("http://payment.shop/").body(Empty::new()).unwrap();
    let response = sender.send_request(request).await?;
    let code = response.status().as_u16();
    Ok((code, response.into_body().collect().await?.to_bytes()))
}

/// One whole call on a connection of its own.
async fn call(address: SocketAddr, config: Arc<ClientConfig>) -> Result<(u16, Bytes), Box<dyn std::error::Error>> {
    let (mut sender, _connection) = h2(connect(address, config).await?).await?;
    Ok(get(&mut sender).await?)
}

async fn get_http1<IO>(io: IO) -> (u16, Bytes)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", "payment.shop")
        .body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let code = response.status().as_u16();
    (code, response.into_body().collect().await.unwrap().to_bytes())
}

/// A listener whose connections are pipes.
struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

/// What the control plane knows the server behind [`Pipes`] by.
const PIPES: &str = "127.0.0.1:1";

/// The other end of [`Pipes`].
#[derive(Clone)]
struct Dial(mpsc::UnboundedSender<DuplexStream>);

fn pipes() -> (Dial, Pipes) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Dial(sender), Pipes(receiver))
}

impl Dial {
    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.0.send(theirs).unwrap();
        ours
    }
}

impl Listen for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, ([127, 0, 0, 1], 1).into())),
            None => std::future::pending().await,
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(PIPES.parse().unwrap())
    }
}
