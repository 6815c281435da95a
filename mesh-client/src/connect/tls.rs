//! Mutual TLS to an endpoint, with the peer's SPIFFE identity checked against what the cluster expects.
//!
//! One rustls configuration serves all handshakes of a cluster with the same kind of endpoint under one identity: building it
//! parses keys and roots, which a storm of reconnects must not repeat.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::config::{Carrier, MutualTls};
use mesh_core::identity::tls::{TlsError, client_config_within};
use mesh_core::identity::verify::{self, Refusal};
use mesh_core::identity::{Identity, Pins};
use rustls::ClientConfig;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::coalesce::Coalesce;
use super::{ConnectError, ConnectKind, Io};

/// What is offered for each carrier. Istio's own names come first: a permissive Envoy takes a connection that offers none of
/// them for the application's TLS and does not decrypt it. Whoever does not know them passes them over.
const OFFER_HTTP2: &[&[u8]] = &[b"istio-h2", b"istio", b"h2"];
const OFFER_HTTP1: &[&[u8]] = &[b"istio-http/1.1", b"istio", b"http/1.1"];
const OFFER_ANY: &[&[u8]] = &[b"istio-h2", b"istio-http/1.1", b"istio", b"h2", b"http/1.1"];

/// The most configurations kept for one cluster. Its endpoints are of two or three kinds (Istio: with the mesh's TLS, with
/// another's, without); more are built anew for each handshake rather than kept.
const MAX_CACHED: usize = 8;

/// The newest TLS configurations of one cluster, the latest used last.
pub(crate) struct TlsConfigs {
    wall_clock: Arc<dyn TimeProvider>,
    pins: Pins,
    cached: Mutex<Vec<Cached>>,
}

struct Cached {
    generation: u64,
    carrier: Carrier,
    tls: Arc<MutualTls>,
    config: Arc<ClientConfig>,
}

impl TlsConfigs {
    pub(crate) fn new(wall_clock: Arc<dyn TimeProvider>) -> Self {
        Self {
            wall_clock,
            pins: Pins::default(),
            cached: Mutex::default(),
        }
    }

    /// Of the peers that a cluster expects, only whom `pins` admit.
    pub(crate) fn pinned(self, pins: Pins) -> Self {
        Self { pins, ..self }
    }

    fn config(&self, identity: &Identity, tls: &MutualTls, carrier: Carrier) -> Result<Arc<ClientConfig>, TlsError> {
        let clock = Arc::clone(&self.wall_clock);
        client_config_within(&self.pins, identity, &tls.expected, clock, offer(carrier))
    }

    fn for_handshake(
        &self,
        identity: &Identity,
        tls: &Arc<MutualTls>,
        carrier: Carrier,
    ) -> Result<Arc<ClientConfig>, ConnectError> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is agreed any more under an identity that was replaced.
        cached.retain(|one| one.generation >= identity.generation());
        let hit = cached.iter().position(|one| {
            (one.generation, one.carrier) == (identity.generation(), carrier)
                && (Arc::ptr_eq(&one.tls, tls) || one.tls == *tls)
        });
        let newest = match hit {
            Some(place) => cached.remove(place),
            None => Cached {
                generation: identity.generation(),
                carrier,
                tls: Arc::clone(tls),
                config: self
                    .config(identity, tls, carrier)
                    .map_err(|error| ConnectError::new(ConnectKind::Config(error)))?,
            },
        };
        let config = Arc::clone(&newest.config);
        if cached.len() == MAX_CACHED {
            cached.remove(0);
        }
        cached.push(newest);
        Ok(config)
    }
}

impl std::fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConfigs").finish_non_exhaustive()
    }
}

/// A connection with somebody who was asked who they are.
pub(super) struct Secured<T> {
    pub(super) io: Coalesce<TlsStream<T>>,
    pub(super) http2: bool,
    /// The earlier end of the two certificates.
    pub(super) not_after: Option<UnixTime>,
}

/// Shakes hands as a client.
pub(super) async fn handshake<T: Io>(
    io: T,
    address: SocketAddr,
    identity: &Identity,
    tls: &Arc<MutualTls>,
    configs: &TlsConfigs,
    carrier: Carrier,
) -> Result<Secured<T>, ConnectError> {
    let config = configs.for_handshake(identity, tls, carrier)?;
    let stream = TlsConnector::from(config)
        .connect(server_name(tls, address), io)
        .await
        .map_err(explain)?;
    let session = stream.get_ref().1;
    let http2 = agreed(session.alpn_protocol(), carrier).ok_or_else(|| ConnectError::new(ConnectKind::Alpn))?;
    let of_peer = session
        .peer_certificates()
        .and_then(|chain| verify::not_after(chain.first()?).ok());
    let own = identity.svid().not_after();
    Ok(Secured {
        not_after: Some(of_peer.map_or(own, |end| end.min(own))),
        io: Coalesce::new(stream),
        http2,
    })
}

fn offer(carrier: Carrier) -> &'static [&'static [u8]] {
    match carrier {
        Carrier::Http2 => OFFER_HTTP2,
        Carrier::Http1 => OFFER_HTTP1,
        Carrier::Any => OFFER_ANY,
    }
}

/// Whether it is HTTP/2 that was agreed upon, or else HTTP/1.1; `None` when it is neither.
fn agreed(protocol: Option<&[u8]>, carrier: Carrier) -> Option<bool> {
    match protocol? {
        b"h2" | b"istio-h2" => Some(true),
        b"http/1.1" | b"istio-http/1.1" => Some(false),
        // It says who is called and not in which protocol: that which was meant.
        b"istio" => Some(carrier == Carrier::Http2),
        _ => None,
    }
}

/// What is sent as SNI. It names no one the peer is checked against (the SPIFFE id does that), so an endpoint without a
/// usable name is called by its address, which sends none.
fn server_name(tls: &MutualTls, address: SocketAddr) -> ServerName<'static> {
    tls.sni
        .as_deref()
        .and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
}

fn explain(error: std::io::Error) -> ConnectError {
    let refusal = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .and_then(Refusal::from_error);
    ConnectError::new(match refusal {
        Some(refusal) => ConnectKind::PeerRefused(refusal.clone()),
        None => ConnectKind::Tls(error),
    })
}

#[cfg(test)]
mod tests {
    use mesh_core::config::ExpectedPeers;
    use mesh_core::testing::TestCa;
    use rustls::time_provider::DefaultTimeProvider;

    use super::*;

    fn mode(n: usize) -> Arc<MutualTls> {
        let id = format!("spiffe://d/ns/n/sa/{n}");
        Arc::new(MutualTls {
            expected: ExpectedPeers::exactly([id.as_str()]),
            sni: None,
        })
    }

    #[test]
    fn modes_do_not_displace_one_another_and_are_bounded() {
        let ca = TestCa::new("d");
        let (first, second) = (
            ca.identity("spiffe://d/ns/n/sa/me"),
            ca.identity("spiffe://d/ns/n/sa/me"),
        );
        let configs = TlsConfigs::new(Arc::new(DefaultTimeProvider));
        let of = |identity: &Identity, n: usize| configs.for_handshake(identity, &mode(n), Carrier::Http2).unwrap();
        let (a, b) = (of(&first, 0), of(&first, 1));
        assert!(Arc::ptr_eq(&a, &of(&first, 0)) && Arc::ptr_eq(&b, &of(&first, 1)));
        assert!(!Arc::ptr_eq(&a, &b));
        // A new identity makes all anew, and a handshake that began under the old one does not undo that.
        let renewed = of(&second, 0);
        assert!(!Arc::ptr_eq(&a, &renewed));
        of(&first, 0);
        assert!(Arc::ptr_eq(&renewed, &of(&second, 0)));
        // What is offered is part of it.
        let other = configs.for_handshake(&second, &mode(0), Carrier::Http1).unwrap();
        assert!(!Arc::ptr_eq(&renewed, &other) && other.alpn_protocols[0] == b"istio-http/1.1");
        for n in 0..3 * MAX_CACHED {
            of(&second, n);
        }
        assert_eq!(configs.cached.lock().unwrap().len(), MAX_CACHED);
    }
}
