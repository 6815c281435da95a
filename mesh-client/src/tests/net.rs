//! Servers at the other end of in-memory pipes, found by address.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use mesh_core::config::{Cluster, Endpoint, Route, Snapshot, Split, TlsMode};
use mesh_core::{Entropy, Link, link};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service as _;

use crate::connect::{Connecting, Io};
use crate::{Channel, Error, ResponseBody, use_connector};

pub(super) type Handled = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(super) type Handler = Arc<dyn Fn(Request<RecvStream>, SendResponse<Bytes>) -> Handled + Send + Sync>;

/// Servers by address, and how often each was connected to.
#[derive(Clone, Default)]
pub(super) struct Net {
    servers: Arc<Mutex<HashMap<SocketAddr, Server>>>,
    dial_time: Arc<Mutex<Duration>>,
    dials: Arc<AtomicUsize>,
    dialled: Arc<Mutex<HashMap<SocketAddr, usize>>>,
    frozen: Arc<AtomicBool>,
    open: Arc<Mutex<HashMap<SocketAddr, usize>>>,
    tasks: Arc<Mutex<Vec<Task>>>,
    stand_in: Arc<Mutex<Option<Server>>>,
}

/// What serves a connection, and at which address.
type Task = (SocketAddr, tokio::task::JoinHandle<()>);

/// Counts an open connection, seen from the server, for as long as it is.
struct Open {
    net: Net,
    address: SocketAddr,
}

impl Open {
    fn new(net: &Net, address: SocketAddr) -> Self {
        *net.open.lock().unwrap().entry(address).or_default() += 1;
        Self {
            net: net.clone(),
            address,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.net.open.lock().unwrap().get_mut(&self.address).unwrap() -= 1;
    }
}

/// Speaks for itself over a byte stream, TLS taken off.
pub(super) type Raw = Arc<dyn Fn(Box<dyn Io>) -> Handled + Send + Sync>;

#[derive(Clone)]
struct Server {
    speaks: Speaks,
    tls: Option<Arc<rustls::ServerConfig>>,
}

#[derive(Clone)]
enum Speaks {
    Http2(Handler, h2::server::Builder),
    Raw(Raw),
}

pub(super) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

impl Net {
    pub(super) fn serve<F>(
        &self,
        n: u8,
        handler: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.serve_with(n, h2::server::Builder::new(), None, handler);
    }

    pub(super) fn serve_with<F>(
        &self,
        n: u8,
        settings: h2::server::Builder,
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request, respond| Box::pin(handler(request, respond)));
        let speaks = Speaks::Http2(handler, settings);
        self.servers.lock().unwrap().insert(address(n), Server { speaks, tls });
    }

    /// Server `n` says and does what `speaks` does with each connection.
    pub(super) fn serve_raw<F>(
        &self,
        n: u8,
        tls: Option<Arc<rustls::ServerConfig>>,
        speaks: impl Fn(Box<dyn Io>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let speaks = Speaks::Raw(Arc::new(move |io| Box::pin(speaks(io))));
        self.servers.lock().unwrap().insert(address(n), Server { speaks, tls });
    }

    /// How long a connection takes to be made.
    pub(super) fn dials_take(&self, time: Duration) {
        *self.dial_time.lock().unwrap() = time;
    }

    /// While it is frozen, nothing passes over the connections that there are, in either direction, and none of them ends.
    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }

    pub(super) fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }

    /// From now on server `n` answers wherever there is no other.
    pub(super) fn stands_in(&self, n: u8) {
        let server = self.servers.lock().unwrap().get(&address(n)).cloned();
        *self.stand_in.lock().unwrap() = server;
    }

    /// At how many addresses somebody was dialled.
    pub(super) fn dialled(&self) -> usize {
        self.dialled.lock().unwrap().len()
    }

    /// How often one of them was dialled.
    pub(super) fn dials_to(&self, n: u8) -> usize {
        let dialled = self.dialled.lock().unwrap();
        dialled.get(&address(n)).copied().unwrap_or_default()
    }

    /// Ends server `n` with all its connections.
    pub(super) async fn stop(&self, n: u8) {
        self.servers.lock().unwrap().remove(&address(n));
        for task in self.tasks_of(n) {
            task.abort();
            let _ = task.await;
        }
    }

    /// As [`stop`](Self::stop), without waiting for the end: its connections end, and its port is refused.
    pub(super) fn kill(&self, n: u8) {
        self.servers.lock().unwrap().remove(&address(n));
        self.end_connections(n);
    }

    /// The connections of a server end without a word, and it takes new ones.
    pub(super) fn end_connections(&self, n: u8) {
        self.tasks_of(n).into_iter().for_each(|task| task.abort());
    }

    fn tasks_of(&self, n: u8) -> Vec<tokio::task::JoinHandle<()>> {
        let mut tasks = self.tasks.lock().unwrap();
        let of_it = tasks.extract_if(.., |(at, _)| *at == address(n));
        of_it.map(|(_, task)| task).collect()
    }

    /// How many connections server `n` has open.
    pub(super) fn open(&self, n: u8) -> usize {
        self.open.lock().unwrap().get(&address(n)).copied().unwrap_or_default()
    }

    /// A fresh membership whose connections go to these servers.
    pub(super) fn link(&self) -> (link::Source, Link) {
        self.link_with(link::Parts::default())
    }

    pub(super) fn link_with(&self, parts: link::Parts) -> (link::Source, Link) {
        let parts = link::Parts {
            entropy: Entropy::seeded(42),
            ..parts
        };
        let (source, link) = Link::new(parts);
        let net = self.clone();
        use_connector(&link, move |address| -> Connecting {
            let net = net.clone();
            let time = *net.dial_time.lock().unwrap();
            Box::pin(async move {
                // Even a sleep of nothing ends with a tick of the clock.
                if !time.is_zero() {
                    tokio::time::sleep(time).await;
                }
                net.connect(address)
            })
        })
        .unwrap();
        (source, link)
    }

    pub(super) fn connect(&self, address: SocketAddr) -> io::Result<Box<dyn Io>> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        *self.dialled.lock().unwrap().entry(address).or_default() += 1;
        let server = self.servers.lock().unwrap().get(&address).cloned();
        let server = server.or_else(|| self.stand_in.lock().unwrap().clone());
        let server = server.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let (near, far) = tokio::io::duplex(64 * 1024);
        let open = Open::new(self, address);
        let task = tokio::spawn(async move {
            server.run(far).await;
            drop(open);
        });
        self.tasks.lock().unwrap().push((address, task));
        Ok(Box::new(Freezable {
            inner: near,
            frozen: Arc::clone(&self.frozen),
        }))
    }
}

/// A pipe that can fall silent.
struct Freezable {
    inner: tokio::io::DuplexStream,
    frozen: Arc<AtomicBool>,
}

impl AsyncRead for Freezable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.frozen.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Freezable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.frozen.load(Ordering::Relaxed) {
            // As a kernel does whose peer is gone: it takes what it is given.
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Server {
    async fn run(self, io: tokio::io::DuplexStream) {
        match self.tls.clone() {
            None => self.accept(io).await,
            Some(tls) => {
                if let Ok(io) = tokio_rustls::TlsAcceptor::from(tls).accept(io).await {
                    self.accept(io).await;
                }
            }
        }
    }

    async fn accept(self, io: impl Io) {
        let (handler, settings) = match self.speaks {
            Speaks::Http2(handler, settings) => (handler, settings),
            Speaks::Raw(speaks) => return speaks(Box::new(io)).await,
        };
        let Ok(mut connection) = settings.handshake::<_, Bytes>(io).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            if request.headers().contains_key("x-go-away") {
                connection.graceful_shutdown();
            }
            tokio::spawn(handler(request, respond));
        }
    }
}

/// Answers 200 with `text`.
pub(super) fn say(mut respond: SendResponse<Bytes>, text: &'static str) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
}

/// Never answers.
pub(super) async fn silent(respond: SendResponse<Bytes>) {
    let _open = respond;
    std::future::pending().await
}

/// Answers as a gRPC server does that fails at once.
pub(super) fn say_grpc(mut respond: SendResponse<Bytes>, code: &'static str) {
    let response = Response::builder()
        .header("grpc-status", code)
        .header("content-type", "application/grpc");
    respond.send_response(response.body(()).unwrap(), true).unwrap();
}

pub(super) fn say_status(mut respond: SendResponse<Bytes>, status: u16) {
    let response = Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .body(())
        .unwrap();
    respond.send_response(response, true).unwrap();
}

pub(super) type Plain = Channel<Full<Bytes>>;

/// A channel to target `t` that may speak plaintext.
pub(super) fn channel(link: &Link) -> Plain {
    Channel::builder(link, "xds:///t").dangerous().plaintext().build()
}

/// One route of target `t` to plaintext cluster `c` of these servers.
pub(super) fn one_cluster(servers: &[u8], change: impl FnOnce(&mut Route, &mut Cluster)) -> Snapshot {
    let mut route = Route::to(Split::all_to("c"));
    let endpoints = servers.iter().map(|n| Endpoint::new(address(*n))).collect();
    let mut cluster = Cluster::new("c", TlsMode::Plaintext, endpoints);
    change(&mut route, &mut cluster);
    Snapshot::builder().route("t", route).cluster(cluster).build().unwrap()
}

pub(super) fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post("/pkg.Service/Method")
        .body(Full::new(body.into()))
        .unwrap()
}

pub(super) fn grpc() -> Request<Full<Bytes>> {
    let mut request = post("message");
    request
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("application/grpc"));
    request
}

pub(super) async fn call(channel: &Plain, request: Request<Full<Bytes>>) -> Result<Response<ResponseBody>, Error> {
    channel.clone().call(request).await
}

pub(super) async fn text(response: Response<ResponseBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The status of a gRPC answer, wherever it stands.
pub(super) async fn grpc_status(response: Response<ResponseBody>) -> (String, String) {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let headers: &HeaderMap = collected
        .trailers()
        .filter(|t| t.contains_key("grpc-status"))
        .unwrap_or(&parts.headers);
    let text = |name| {
        headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    (text("grpc-status"), text("grpc-message"))
}
