//! The servers that are compared, over one identity and one service.

use std::convert::Infallible;
use std::future::IntoFuture as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use examples::proto::payment_server::{Payment, PaymentServer};
use examples::proto::{ChargeReply, ChargeRequest};
use mesh_core::config::{
    Authorization, ChainIdentity, ChainMatch, Clients, FilterChain, FilterRules, Inbound, InboundSecurity,
    PermissionTest, PrincipalTest, Rbac, RbacAction, RbacFilter, RbacPolicy, Rule, StringMatch, Traffic,
};
use mesh_core::identity::Identity;
use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::link::{Parts, Source};
use mesh_core::{Link, Snapshot};
use mesh_server::MeshLayer;
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tower::Layer as _;

use crate::Failure;
use crate::pki::CLIENT_ID;

/// The servers that `server` compares, by name.
pub(crate) const NAMES: [&str; 3] = ["bare", "mesh_tonic", "mesh"];
/// How many rules are asked before the one that lets the caller pass.
const RULES_BEFORE: usize = 9;

/// A server that runs for as long as the process.
pub(crate) struct Served {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// What tells it its configuration, which must not go.
    _source: Option<Source>,
}

/// One of them, on this runtime. `_lean` is without rules: whoever has a certificate of the mesh is served. `_web` serves HTTP without gRPC.
pub(crate) async fn start(name: &'static str, identity: &Identity) -> Result<Served, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let served = |source| Served {
        name,
        address,
        _source: source,
    };
    if name == "bare" {
        bare(listener, identity)?;
        return Ok(served(None));
    }
    if name == "plain" {
        plain(listener);
        return Ok(served(None));
    }
    let (source, link) = match name.contains("_lean") {
        true => (None, Link::fixed(Snapshot::empty(), Some(identity.clone()))),
        false => {
            let (source, link) = governed(identity);
            let path = match name.ends_with("_web") {
                true => "/echo",
                false => "/payment.v1.Payment/Charge",
            };
            source.snapshots.publish(rules(address, path)?);
            (Some(source), link)
        }
    };
    match name {
        "mesh_tonic" => {
            let serving = mesh_server::tonic::server()
                .layer(MeshLayer::new(&link))
                .add_service(PaymentServer::new(Echo))
                .serve_with_incoming(mesh_server::tonic::incoming(listener, &link));
            tokio::spawn(serving);
        }
        "mesh" | "mesh_lean" => {
            let app = MeshLayer::new(&link).layer(Routes::new(PaymentServer::new(Echo)));
            tokio::spawn(mesh_server::serve(listener, &link, app).into_future());
        }
        "mesh_web" | "mesh_lean_web" => {
            let app = MeshLayer::new(&link).layer(tower::service_fn(echo));
            tokio::spawn(mesh_server::serve(listener, &link, app).into_future());
        }
        other => return Err(format!("no server {other:?}").into()),
    }
    Ok(served(source))
}

/// The echo without gRPC.
async fn echo<B>(request: http::Request<B>) -> Result<http::Response<B>, Infallible> {
    Ok(http::Response::new(request.into_body()))
}

/// A process of the mesh whose servers a control plane configures.
fn governed(identity: &Identity) -> (Source, Link) {
    let (source, link) = Link::new(Parts {
        governs_servers: true,
        ..Parts::default()
    });
    source.identity.publish(Ok(identity.clone()));
    (source, link)
}

/// STRICT, and an ALLOW of which the last rule is the caller's: each asks for a caller and a path.
fn rules(address: SocketAddr, path: &str) -> Result<Snapshot, Failure> {
    let policy = |number: usize, caller: &str| {
        let path = StringMatch::Exact(path.into());
        RbacPolicy {
            name: format!("ns[default]-policy[p{number}]-rule[0]").into(),
            permissions: vec![Rule::Is(PermissionTest::Path(path))],
            principals: vec![Rule::Is(PrincipalTest::Peer(Some(StringMatch::Exact(caller.into()))))],
        }
    };
    let mut policies: Vec<RbacPolicy> = (0..RULES_BEFORE)
        .map(|number| policy(number, &format!("spiffe://cluster.local/ns/default/sa/other-{number}")))
        .collect();
    policies.push(policy(RULES_BEFORE, CLIENT_ID));
    let filter = RbacFilter {
        name: "rbac".into(),
        rules: FilterRules {
            enforced: Some(Rbac {
                action: RbacAction::Allow,
                policies,
            }),
            shadow: None,
        },
    };
    let authorization = Authorization::new(Vec::new(), vec![filter], Vec::new())?;
    let chain = FilterChain {
        name: "".into(),
        matches: ChainMatch::default(),
        security: InboundSecurity::Mutual(Clients::Trusted),
        identity: ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: Arc::new(authorization),
        limits: Arc::default(),
        telemetry: Default::default(),
    };
    let inbound = Inbound {
        name: "inbound".into(),
        address,
        chains: vec![chain],
        default: None,
    };
    Ok(Snapshot::builder()
        .inbound(address.to_string(), Ok(Arc::new(inbound)))
        .build()?)
}

/// The application behind a sidecar: tonic's own loop, in the clear.
fn plain(listener: TcpListener) {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(PaymentServer::new(Echo));
    tokio::spawn(server.serve_with_incoming(incoming));
}

/// What is compared with: tonic's own loop behind tokio-rustls, with the TLS that the mesh has.
fn bare(listener: TcpListener, identity: &Identity) -> Result<(), Failure> {
    let tls = server_config(identity, ClientAuth::Required, Arc::new(DefaultTimeProvider), &[b"h2"])?;
    let acceptor = TlsAcceptor::from(tls);
    let (accepted, incoming) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = accepted.send(Ok::<_, io::Error>(Accepted(stream))).await;
                }
            });
        }
    });
    let server = tonic::transport::Server::builder().add_service(PaymentServer::new(Echo));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
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
struct Accepted(TlsStream<TcpStream>);

impl tonic::transport::server::Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
