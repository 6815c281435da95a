//! The two ports: one over TLS for the mesh, one in the clear for its loopback.
//!
//! The TLS port serves xDS (ADS, and LDS, RDS, CDS and EDS alone) and the CA together. A client certificate is optional there, because a workload that joins has
//! none yet; what each service asks is its own: xDS a certificate, before a word is said, the CA a certificate or a token. The plaintext port is for
//! xDS clients that have no TLS to the control plane; it binds loopback only and has no CA, so no secret crosses it.
//!
//! Both tell the status of all clients (CSDS, for `meshctl status`): the plaintext port whoever is on this host, as it tells
//! them every namespace's configuration too; the TLS port only workloads of the root namespace, since a workload has no
//! business with who else is there.

mod accept;
mod connected;
mod group;
mod held;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use mesh_core::report::Tally;
use mesh_xds::ClientStatusService;
use mesh_xds::csds::Reader;
use mesh_xds::server::{Caller, DiscoveryServices, LoadBoard, LoadService, SnapshotCache};
use rustls::time_provider::TimeProvider;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::ca::{Authority, CertificateService};
use crate::publish::Publisher;
pub(crate) use connected::Connected;

/// Connections that are through the handshake and wait for the server to pick them up, which it does at once.
const READY_CONNECTIONS: usize = 16;
/// The most streams of one connection at once: a client has one for xDS and one for loads, and asks for a certificate now and then.
const MAX_STREAMS: u32 = 200;
/// The longest list of headers in bytes (RFC 9113, 6.5.2).
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// Streams that the peer has reset and nobody has looked at yet (CVE-2023-44487): the next one ends the connection.
const MAX_PENDING_RESETS: usize = 20;
/// Streams of one connection that were reset for an error of the peer's (CVE-2025-8671): the next one ends the connection.
const MAX_ERROR_RESETS: usize = 1024;
/// A client that vanished is found out by pings, after these two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection of the TLS port lives, and how long its streams may take to end then. A stream is authenticated when
/// it begins, and ends with its certificate ([`held`]); this bounds how long one outlives a decision about it (Istio: 30 minutes). Clients
/// connect again and keep what they have meanwhile.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
const MAX_CONNECTION_AGE_GRACE: Duration = Duration::from_secs(5);

/// What both ports serve from.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) authority: Arc<Authority>,
    pub(crate) cache: SnapshotCache,
    pub(crate) loads: LoadBoard,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) clock: Arc<dyn TimeProvider>,
    pub(crate) tally: Tally,
    pub(crate) connected: Connected,
    /// Turns true when the ports are to close.
    pub(crate) closing: watch::Receiver<bool>,
}

/// Serves xDS and the CA over TLS until `closing`.
pub(crate) fn secure(listener: TcpListener, shared: &Shared) -> Vec<JoinHandle<()>> {
    let (ready, connections) = mpsc::channel(READY_CONNECTIONS);
    let publisher = Arc::clone(&shared.publisher);
    let xds = DiscoveryServices::authenticated(shared.cache.clone(), move |caller: &Caller| {
        group::authenticated(&publisher, caller)
    });
    let publisher = Arc::clone(&shared.publisher);
    let loads = LoadService::authenticated(shared.loads.clone(), move |caller: &Caller| {
        group::authenticated(&publisher, caller)
    });
    let (authority, connected) = (Arc::clone(&shared.authority), shared.connected.clone());
    let ca = CertificateService::new(Arc::clone(&authority), shared.tally.clone()).telling(move |id| {
        if let Some(since) = authority.rotating_since() {
            connected.renewed(id, since);
        }
    });
    let closed = closed(shared.closing.clone());
    let aged = builder().max_connection_age(MAX_CONNECTION_AGE);
    let mut server = aged.max_connection_age_grace(MAX_CONNECTION_AGE_GRACE);
    let publisher = Arc::clone(&shared.publisher);
    let status = ClientStatusService::of_clients(shared.cache.clone(), move |reader: &Reader| {
        group::administers(publisher.root_namespace(), reader)
    });
    let serving = server.add_routes(xds.into_routes()).add_service(loads).add_service(ca);
    let serving = serving.add_service(status);
    let serving = serving.serve_with_incoming_shutdown(ReceiverStream::new(connections), closed);
    let accepting = accept::secure(listener, ready, shared.clone());
    vec![
        tokio::spawn(accepting),
        tokio::spawn(async move { drop(serving.await) }),
    ]
}

/// Serves xDS in the clear until `closing`.
pub(crate) fn plaintext(listener: TcpListener, shared: &Shared) -> Vec<JoinHandle<()>> {
    let (ready, connections) = mpsc::channel(READY_CONNECTIONS);
    let publisher = Arc::clone(&shared.publisher);
    let xds = DiscoveryServices::new(shared.cache.clone(), move |caller: &Caller| {
        Ok(group::claimed(&publisher, caller))
    });
    let publisher = Arc::clone(&shared.publisher);
    let loads = LoadService::new(shared.loads.clone(), move |caller: &Caller| {
        Ok(group::claimed(&publisher, caller))
    });
    let closed = closed(shared.closing.clone());
    let status = ClientStatusService::of_clients(shared.cache.clone(), |_: &Reader| Ok(()));
    let serving = builder()
        .add_routes(xds.into_routes())
        .add_service(loads)
        .add_service(status);
    let serving = serving.serve_with_incoming_shutdown(ReceiverStream::new(connections), closed);
    let accepting = accept::plaintext(listener, ready, shared.closing.clone());
    vec![
        tokio::spawn(accepting),
        tokio::spawn(async move { drop(serving.await) }),
    ]
}

/// With the limits against floods that tonic's builder leaves out (CVE-2025-8671): strangers may knock at the port for the CA.
fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

async fn closed(mut closing: watch::Receiver<bool>) {
    // An error says that the control plane is gone, which is the same.
    drop(closing.wait_for(|closing| *closing).await);
}
