//! The two ports: one over TLS for the mesh, one in the clear for its loopback.
//!
//! The TLS port serves ADS and the CA together. A client certificate is optional there, because a workload that joins has
//! none yet; what each service asks is its own: ADS a certificate, the CA a certificate or a token. The plaintext port is for
//! xDS clients that have no TLS to the control plane; it binds loopback only and has no CA, so no secret crosses it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::identity::{SpiffeId, verify};
use mesh_core::report::Tally;
use mesh_xds::server::{AdsService, Caller, Io, Peer, Refusal, SnapshotCache};
use rustls::time_provider::TimeProvider;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::ca::{Authority, CertificateService};
use crate::publish::Publisher;

/// The longest a TLS handshake may take; a peer that only holds a socket open holds it this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes in progress at once. More wait in the kernel's backlog.
const MAX_HANDSHAKES: usize = 256;
/// Connections that are through the handshake and wait for the server to pick them up, which it does at once.
const READY_CONNECTIONS: usize = 16;
/// The pause after an accept that failed: the usual cause, no more file descriptors, does not pass by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client that vanished is found out by pings, after these two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection of the TLS port lives, and how long its streams may take to end then. A stream is authenticated when
/// it begins, so this bounds how long one outlives its certificate (Istio: 30 minutes). Clients connect again and keep what
/// they have meanwhile.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
const MAX_CONNECTION_AGE_GRACE: Duration = Duration::from_secs(5);
/// The namespace of a plaintext client that names none, as `kubectl` has it.
const DEFAULT_NAMESPACE: &str = "default";

/// What both ports serve from.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) authority: Arc<Authority>,
    pub(crate) cache: SnapshotCache,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) clock: Arc<dyn TimeProvider>,
    pub(crate) tally: Tally,
    /// Turns true when the ports are to close.
    pub(crate) closing: watch::Receiver<bool>,
}

/// Serves ADS and the CA over TLS until `closing`.
pub(crate) fn secure(listener: TcpListener, shared: &Shared) -> Vec<JoinHandle<()>> {
    let (ready, connections) = mpsc::channel(READY_CONNECTIONS);
    let publisher = Arc::clone(&shared.publisher);
    let ads = AdsService::new(shared.cache.clone(), move |caller: &Caller| {
        let namespace = authenticated_namespace(caller)?;
        group(&publisher, namespace)
    });
    let ca = CertificateService::new(Arc::clone(&shared.authority), shared.tally.clone());
    let closed = closed(shared.closing.clone());
    let aged = builder().max_connection_age(MAX_CONNECTION_AGE);
    let mut server = aged.max_connection_age_grace(MAX_CONNECTION_AGE_GRACE);
    let serving = server.add_service(ads).add_service(ca);
    let serving = serving.serve_with_incoming_shutdown(ReceiverStream::new(connections), closed);
    let accepting = accept(listener, ready, shared.clone());
    vec![tokio::spawn(accepting), tokio::spawn(async move { drop(serving.await) })]
}

/// Serves ADS in the clear until `closing`.
pub(crate) fn plaintext(listener: TcpListener, shared: &Shared) -> Vec<JoinHandle<()>> {
    let (ready, connections) = mpsc::channel(READY_CONNECTIONS);
    let publisher = Arc::clone(&shared.publisher);
    let ads = AdsService::new(shared.cache.clone(), move |caller: &Caller| {
        group(&publisher, claimed_namespace(caller).unwrap_or(DEFAULT_NAMESPACE))
    });
    let closed = closed(shared.closing.clone());
    let serving = builder().add_service(ads);
    let serving = serving.serve_with_incoming_shutdown(ReceiverStream::new(connections), closed);
    let mut closing = shared.closing.clone();
    let accepting = async move {
        while let Some((stream, address)) = next(&listener, &mut closing).await {
            let peer = Peer {
                identity: None,
                address: Some(address),
            };
            if ready.send(Ok::<_, std::io::Error>(Io::new(stream, peer))).await.is_err() {
                return;
            }
        }
    };
    vec![tokio::spawn(accepting), tokio::spawn(async move { drop(serving.await) })]
}

fn builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

async fn closed(mut closing: watch::Receiver<bool>) {
    // An error says that the control plane is gone, which is the same.
    drop(closing.wait_for(|closing| *closing).await);
}

/// The next connection; `None` when the port is to close.
async fn next(listener: &TcpListener, closing: &mut watch::Receiver<bool>) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closing| *closing) => return None,
        };
        match accepted {
            Ok((stream, address)) => {
                // Small messages both ways; without this each waits for an acknowledgement.
                drop(stream.set_nodelay(true));
                return Some((stream, address));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type Ready = mpsc::Sender<Result<Io<TlsStream<TcpStream>>, std::io::Error>>;

async fn accept(listener: TcpListener, ready: Ready, mut shared: Shared) {
    let room = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Some((stream, address)) = next(&listener, &mut shared.closing).await else { return };
        tokio::spawn(handshake(stream, address, shared.clone(), ready.clone(), permit));
    }
}

async fn handshake(stream: TcpStream, address: SocketAddr, shared: Shared, ready: Ready, _room: OwnedSemaphorePermit) {
    let refused = |reason: &'static str, error: &dyn std::fmt::Display| {
        shared.tally.count("handshake_refused", reason);
        tracing::warn!(peer = %address, reason, %error, "connection refused");
    };
    // Asked for at each connection, so that a renewed certificate is shown at once; it is made only when it is due.
    let config = match shared.authority.own_identity() {
        Ok(identity) => server_config(&identity, ClientAuth::Optional, Arc::clone(&shared.clock), &[b"h2"]),
        Err(error) => return refused("no_identity", &error),
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => return refused("no_identity", &error),
    };
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refused("tls", &error),
        Err(late) => return refused("timeout", &late),
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // The verifier has accepted it, so it has a name.
    let identity = match leaf.map(verify::leaf_id).transpose() {
        Ok(identity) => identity,
        Err(refusal) => return refused("peer", &refusal),
    };
    let peer = Peer {
        identity,
        address: Some(address),
    };
    drop(ready.send(Ok(Io::new(stream, peer))).await);
}

fn group(publisher: &Publisher, namespace: &str) -> Result<Arc<str>, Refusal> {
    if publisher.ask(namespace) {
        return Ok(namespace.into());
    }
    Err(Refusal::new("clients of too many namespaces"))
}

/// The namespace of the caller's certificate. What the caller claims of itself must not contradict it.
fn authenticated_namespace(caller: &Caller) -> Result<&str, Refusal> {
    let identity = caller.peer.identity.as_ref();
    let identity = identity.ok_or_else(|| Refusal::new("show the certificate of a workload"))?;
    let (namespace, account) = namespace_and_account(identity)
        .ok_or_else(|| Refusal::new("the certificate does not name a namespace and a service account"))?;
    let contradicts = |key, known: &str| caller.node.metadata_text(key).is_some_and(|claimed| claimed != known);
    if contradicts("NAMESPACE", namespace) || contradicts("SERVICE_ACCOUNT", account) {
        return Err(Refusal::new("the node claims to be somebody else than its certificate names"));
    }
    Ok(namespace)
}

/// The parts of `/ns/NAMESPACE/sa/ACCOUNT` (Istio's form of a SPIFFE id).
fn namespace_and_account(identity: &SpiffeId) -> Option<(&str, &str)> {
    let (namespace, account) = identity.path().strip_prefix("/ns/")?.split_once("/sa/")?;
    (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
}

/// The namespace that a node says it is in: `NAMESPACE` of its metadata, or the last part of an id such as
/// `sidecar~10.0.0.1~pod.shop~shop.svc.cluster.local` (Istio).
fn claimed_namespace(caller: &Caller) -> Option<&str> {
    let named = caller.node.metadata_text("NAMESPACE").filter(|name| !name.is_empty());
    named.or_else(|| {
        let domain = caller.node.id.split('~').nth(3)?;
        domain.split('.').next().filter(|name| !name.is_empty())
    })
}
