//! Accepting: TCP, the TLS handshake under its deadline, and who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::crowd::Crowd;
use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::identity::verify;
use mesh_xds::server::{Io, Peer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Shared;

/// The longest a TLS handshake may take; a peer that only holds a socket open holds it this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes in progress at once; of more, the oldest gives way, so that peers who say nothing keep nobody from joining.
const MAX_HANDSHAKES: usize = 512;
/// The pause after an accept that failed: the usual cause, no more file descriptors, does not pass by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections go that are ready to be served.
type Ready<S> = mpsc::Sender<io::Result<Io<S>>>;

/// Accepts connections in the clear until the port is to close.
pub(super) async fn plaintext(listener: TcpListener, ready: Ready<TcpStream>, mut closing: watch::Receiver<bool>) {
    while let Some((stream, address)) = next(&listener, &mut closing).await {
        let peer = Peer {
            identity: None,
            address: Some(address),
        };
        if ready.send(Ok(Io::new(stream, peer))).await.is_err() {
            return;
        }
    }
}

/// Accepts connections over TLS until the port is to close. Handshakes go on beside one another.
pub(super) async fn secure(listener: TcpListener, ready: Ready<TlsStream<TcpStream>>, mut shared: Shared) {
    let strangers = Strangers::default();
    while let Some((stream, address)) = next(&listener, &mut shared.closing).await {
        let (tell, gives_way) = oneshot::channel();
        let (number, gone) = strangers.lock().enter(tell);
        // Dropping it tells.
        drop(gone);
        let (strangers, shared, ready) = (strangers.clone(), shared.clone(), ready.clone());
        tokio::spawn(async move {
            let tally = shared.tally.clone();
            let shaken = tokio::select! {
                biased;
                shaken = handshake(stream, address, shared) => shaken,
                _ = gives_way => {
                    tally.count("handshake_refused", "crowded_out");
                    None
                }
            };
            strangers.lock().leave(number);
            if let Some(io) = shaken {
                drop(ready.send(Ok(io)).await);
            }
        });
    }
}

/// Those who shake hands.
#[derive(Clone)]
struct Strangers(Arc<Mutex<Crowd<oneshot::Sender<()>>>>);

impl Default for Strangers {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Crowd::new(MAX_HANDSHAKES))))
    }
}

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, Crowd<oneshot::Sender<()>>> {
        // A queue is whole whatever its holder was doing when it panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None`: refused, and counted.
async fn handshake(stream: TcpStream, address: SocketAddr, shared: Shared) -> Option<Io<TlsStream<TcpStream>>> {
    let refused = |reason: &'static str, error: &dyn std::fmt::Display| {
        shared.tally.count("handshake_refused", reason);
        // Strangers must not fill the log: of each reason the first, the second, the fourth...; the counter has all.
        let count = shared.tally.get("handshake_refused", reason);
        match count.is_power_of_two() {
            true => tracing::warn!(peer = %address, reason, count, %error, "connection refused"),
            false => tracing::debug!(peer = %address, reason, count, %error, "connection refused"),
        }
        None
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
    Some(Io::new(stream, peer))
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
