//! Accepting: TCP, the TLS handshake under its deadline, who is at the other end, and whether there is a place for it.
//!
//! A stranger can open sockets and say nothing, or begin handshakes and not go on. Nobody waits for a place behind those: all
//! are begun at once, and when there are too many the one that has been at it longest is ended, which a client that means it never
//! is.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::tls::{ClientAuth, server_config};
use mesh_core::identity::verify::Leaf;
use mesh_xds::server::{Io, Peer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::held::{End, Held, Places};
use crate::ca::{issued_at, shown};

/// The longest a TLS handshake may take; a peer that only holds a socket open holds it this long, unless others come.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes in progress at once; one more ends the oldest.
const MAX_HANDSHAKES: usize = 1_024;
/// The pause after an accept that failed: the usual cause, no more file descriptors, does not pass by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections go that are ready to be served.
type Ready<S> = mpsc::Sender<io::Result<Io<Held<S>>>>;

/// Accepts connections in the clear until the port is to close.
pub(super) async fn plaintext(listener: TcpListener, ready: Ready<TcpStream>, mut closing: watch::Receiver<bool>) {
    let places = Places::default();
    while let Some((stream, address)) = next(&listener, &mut closing).await {
        let Some(place) = places.take() else {
            tracing::warn!(peer = %address, "connection refused: there are too many");
            continue;
        };
        let peer = Peer {
            address: Some(address),
            ..Peer::default()
        };
        let held = Held::new(stream, place, End::Never);
        if ready.send(Ok(Io::new(held, peer))).await.is_err() {
            return;
        }
    }
}

/// Accepts connections over TLS until the port is to close. Handshakes go on beside one another.
pub(super) async fn secure(listener: TcpListener, ready: Ready<TlsStream<TcpStream>>, mut shared: Shared) {
    let (places, mut handshakes) = (Places::default(), Handshakes::default());
    while let Some((stream, address)) = next(&listener, &mut shared.closing).await {
        let task = tokio::spawn(handshake(
            stream,
            address,
            shared.clone(),
            places.clone(),
            ready.clone(),
        ));
        if handshakes.begin(task.abort_handle()) {
            shared.tally.count("handshake_refused", "crowded");
        }
    }
}

/// The handshakes in progress, the oldest first.
#[derive(Default)]
struct Handshakes(VecDeque<AbortHandle>);

impl Handshakes {
    /// Adds one; whether another was ended for it.
    fn begin(&mut self, handshake: AbortHandle) -> bool {
        if self.0.len() >= MAX_HANDSHAKES {
            self.0.retain(|handshake| !handshake.is_finished());
        }
        let oldest = match self.0.len() {
            MAX_HANDSHAKES.. => self.0.pop_front(),
            _ => None,
        };
        self.0.push_back(handshake);
        oldest.inspect(AbortHandle::abort).is_some()
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    shared: Shared,
    places: Places,
    ready: Ready<TlsStream<TcpStream>>,
) {
    let refused = |reason: &'static str, error: &dyn std::fmt::Display| {
        shared.tally.count("handshake_refused", reason);
        // Strangers must not fill the log: of each reason the first, the second, the fourth...; the counter has all.
        let count = shared.tally.get("handshake_refused", reason);
        match count.is_power_of_two() {
            true => tracing::warn!(peer = %address, reason, count, %error, "connection refused"),
            false => tracing::debug!(peer = %address, reason, count, %error, "connection refused"),
        }
    };
    // Asked for at each connection, so that a renewed certificate is shown at once; it is made only when it is due.
    let own = match shared.authority.own_identity() {
        Ok(identity) => identity,
        Err(error) => return refused("no_identity", &error),
    };
    let config = match server_config(&own, ClientAuth::Optional, Arc::clone(&shared.clock), &[b"h2"]) {
        Ok(config) => config,
        Err(error) => return refused("no_identity", &error),
    };
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refused("tls", &error),
        Err(late) => return refused("timeout", &late),
    };
    let der = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // The verifier has accepted it, so it has a name.
    let leaf = match der.map(Leaf::read).transpose() {
        Ok(leaf) => leaf,
        Err(refusal) => return refused("peer", &refusal),
    };
    let (place, end) = match &leaf {
        Some(leaf) => {
            let end = End::Certificate(leaf.not_after(), Arc::clone(&shared.clock));
            (places.take_known(leaf.id()), end)
        }
        None => (Some(places.take_anonymous(address.ip())), End::anonymous()),
    };
    let Some(place) = place else {
        return refused("too_many", &"there are too many connections of its kind");
    };
    let issued = leaf.as_ref().map(|leaf| (leaf.id().clone(), issued_at(leaf)));
    let certificate = leaf.as_ref().zip(der).map(|(leaf, der)| shown(leaf, der));
    let peer = Peer {
        identity: leaf.map(|leaf| leaf.id().clone()),
        certificate,
        address: Some(address),
    };
    let held = Held::new(stream, place, end);
    let held = match issued {
        Some((id, issued)) => held.counted(shared.connected.enter(id, issued)),
        None => held,
    };
    drop(ready.send(Ok(Io::new(held, peer))).await);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_handshake_too_many_ends_the_oldest_that_is_not_done() {
        let mut handshakes = Handshakes::default();
        let done = tokio::spawn(async {});
        let first = done.abort_handle();
        done.await.unwrap();
        assert!(!handshakes.begin(first));
        let hanging: Vec<_> = (0..MAX_HANDSHAKES)
            .map(|_| tokio::spawn(std::future::pending::<()>()))
            .collect();
        // The one that is done makes room for one of them.
        let ended = hanging
            .iter()
            .filter(|task| handshakes.begin(task.abort_handle()))
            .count();
        assert_eq!(ended, 0);
        let late = tokio::spawn(std::future::pending::<()>());
        assert!(handshakes.begin(late.abort_handle()));
        let mut hanging = hanging.into_iter();
        assert!(hanging.next().unwrap().await.unwrap_err().is_cancelled());
        assert!(hanging.all(|task| !task.is_finished()) && !late.is_finished());
    }
}
