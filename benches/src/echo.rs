//! The echo server of the measurement, in a child process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use examples::proto::payment_server::{Payment, PaymentServer};
use examples::proto::{ChargeReply, ChargeRequest};
use mesh_core::config::ExpectedPeers;
use mesh_core::identity::Identity;
use mesh_core::identity::tls::{ClientAuth, client_config, server_config};
use rustls::ClientConfig;
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::Failure;
use crate::pki::{self, Pair, SERVER_ID};
use crate::web;

/// The request that all clients send: one field of bytes, so that what is counted is the call and not the message.
pub(crate) fn request(note: Bytes) -> ChargeRequest {
    ChargeRequest {
        note,
        ..ChargeRequest::default()
    }
}

/// Whom a client calls, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) client: Identity,
}

impl Target {
    /// TLS as the bare clients use it: the same as the mesh's.
    pub(crate) fn client_tls(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, Failure> {
        let expected = ExpectedPeers::exactly([SERVER_ID]);
        let clock = Arc::new(DefaultTimeProvider);
        Ok(client_config(&self.client, &expected, clock, &[protocol])?)
    }
}

/// What the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Grpc,
    /// HTTP/2 and HTTP/1.1 without gRPC.
    Web,
}

impl Spoken {
    /// By a client of this name.
    pub(crate) fn by(client: &str) -> Self {
        match client.contains("http") {
            true => Self::Web,
            false => Self::Grpc,
        }
    }

    /// What tells the child.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Grpc => "--serve",
            Self::Web => "--serve-web",
        }
    }
}

/// The server, as its parent sees it. It ends with its parent: its standard input closes.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) target: Target,
}

impl Server {
    pub(crate) fn spawn(spoken: Spoken) -> Result<Self, Failure> {
        let (server, client) = pki::issue()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(spoken.flag())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.as_mut().ok_or("the child has no standard input")?;
        writeln!(stdin, "{}", serde_json::to_string(&server)?)?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("the child has no standard output")?).read_line(&mut line)?;
        let target = Target {
            address: line.trim().parse()?,
            client: client.identity()?,
        };
        Ok(Self { child, target })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child: reads its certificate, prints its address, serves until its parent goes.
pub(crate) fn serve(spoken: Spoken) -> Result<(), Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let pair: Pair = serde_json::from_str(&line)?;
    let identity = pair.identity()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            std::thread::spawn(|| {
                let _ = std::io::stdin().lock().read_line(&mut String::new());
                std::process::exit(0);
            });
            match spoken {
                Spoken::Grpc => grpc(listener, &identity).await,
                Spoken::Web => web::serve(listener, &identity).await,
            }
        })
}

/// tonic's own loop behind the mesh's TLS.
async fn grpc(listener: TcpListener, identity: &Identity) -> Result<(), Failure> {
    let config = server_config(identity, ClientAuth::Required, Arc::new(DefaultTimeProvider), &[b"h2"])?;
    // Connections handed over one by one.
    let (accepted, incoming) = tokio::sync::mpsc::channel(8);
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = accepted.send(Ok::<_, std::io::Error>(Stream(stream))).await;
                }
            });
        }
    });
    let service = PaymentServer::new(Echo);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(ReceiverStream::new(incoming))
        .await?;
    Ok(())
}

struct Echo;

#[tonic::async_trait]
impl Payment for Echo {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<ChargeReply>, Status> {
        let ChargeRequest { id, note, .. } = request.into_inner();
        Ok(Response::new(ChargeReply {
            id,
            version: String::new(),
            note,
            caller: String::new(),
        }))
    }

    type ChargeManyStream = ReceiverStream<Result<ChargeReply, Status>>;

    async fn charge_many(
        &self,
        _request: Request<Streaming<ChargeRequest>>,
    ) -> Result<Response<Self::ChargeManyStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

/// tonic asks its connections for their addresses.
struct Stream(tokio_rustls::server::TlsStream<tokio::net::TcpStream>);

impl tonic::transport::server::Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Stream {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Stream {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
