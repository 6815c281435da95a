//! The same echo without gRPC: hyper's own clients and the mesh's channel, over HTTP/2 and HTTP/1.1, and the server that answers them.
//!
//! hyper has connections and no pool. Over HTTP/2 one is enough; over HTTP/1.1 a call takes one that is free, or dials, which is the least that
//! any client of that version does.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_client::Channel;
use mesh_core::identity::Identity;
use mesh_core::identity::tls::{ClientAuth, server_config};
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::Service as _;

use crate::Failure;
use crate::caller::{Caller, came_back};
use crate::counting::{Counting, Writes};
use crate::echo::Target;
use crate::meshed::{self, Asked};

/// Where the echo is; the host is the mesh's target as well.
const ECHO: &str = "http://payment/echo";

type Whole = Full<Bytes>;

#[derive(Clone)]
pub(crate) enum Web {
    Hyper1(Free),
    Hyper2(http2::SendRequest<Whole>),
    Mesh(Channel<Whole>, Version),
}

/// Connections that no call is on.
#[derive(Clone)]
pub(crate) struct Free {
    server: Target,
    writes: Writes,
    connections: Rc<RefCell<Vec<http1::SendRequest<Whole>>>>,
}

pub(crate) async fn hyper(server: &Target, writes: &Writes, version: Version) -> Result<Web, Failure> {
    if version == Version::HTTP_2 {
        let io = connect(server, writes, b"h2").await?;
        let (send, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        return Ok(Web::Hyper2(send));
    }
    Ok(Web::Hyper1(Free {
        server: server.clone(),
        writes: writes.clone(),
        connections: Rc::default(),
    }))
}

pub(crate) fn meshed(server: &Target, writes: &Writes, asked: Asked, version: Version) -> Result<Web, Failure> {
    let link = meshed::link(server, writes, asked)?;
    Ok(Web::Mesh(Channel::new(&link, "xds:///payment"), version))
}

async fn connect(
    server: &Target,
    writes: &Writes,
    protocol: &[u8],
) -> Result<TokioIo<tokio_rustls::client::TlsStream<Counting>>, Failure> {
    let stream = writes.clone().connect(server.address).await?;
    let name = ServerName::IpAddress(server.address.ip().into());
    let tls = TlsConnector::from(server.client_tls(protocol)?);
    Ok(TokioIo::new(tls.connect(name, stream).await?))
}

impl Free {
    async fn take(&self) -> Result<http1::SendRequest<Whole>, Failure> {
        // Taken out before anything is awaited: nobody else can have it.
        let free = self.connections.borrow_mut().pop();
        if let Some(mut send) = free {
            send.ready().await?;
            return Ok(send);
        }
        let io = connect(&self.server, &self.writes, b"http/1.1").await?;
        let (send, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(send)
    }
}

impl Caller for Web {
    async fn call(&mut self, note: Bytes) -> Result<(), Failure> {
        let sent = note.len();
        let request = Request::builder().method(Method::POST);
        let received = match self {
            Self::Hyper1(free) => {
                let request = request.uri("/echo").header("host", "payment");
                let mut send = free.take().await?;
                let received = length(send.send_request(request.body(Whole::new(note))?).await?).await?;
                free.connections.borrow_mut().push(send);
                received
            }
            Self::Hyper2(send) => {
                let request = request.uri(ECHO).body(Whole::new(note))?;
                send.ready().await?;
                length(send.send_request(request).await?).await?
            }
            Self::Mesh(channel, version) => {
                let request = request.uri(ECHO).version(*version).body(Whole::new(note))?;
                length(channel.call(request).await?).await?
            }
        };
        came_back(sent, received)
    }
}

/// The bytes of an answer.
async fn length<B>(response: Response<B>) -> Result<usize, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    if response.status() != StatusCode::OK {
        return Err(format!("answered {}", response.status()).into());
    }
    let (mut body, mut length) = (response.into_body(), 0);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}

/// hyper's own server of both versions, behind the TLS that the mesh has.
pub(crate) async fn serve(listener: TcpListener, identity: &Identity) -> Result<(), Failure> {
    let clock = Arc::new(DefaultTimeProvider);
    let tls = server_config(identity, ClientAuth::Required, clock, &[b"h2", b"http/1.1"])?;
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let served = server.serve_connection(TokioIo::new(stream), hyper::service::service_fn(echo));
            // A client that goes is no failure.
            let _ = served.await;
        });
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    Ok(Response::new(request.into_body()))
}
