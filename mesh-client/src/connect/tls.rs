//! TLS to an endpoint: mutual, with the peer's SPIFFE identity checked against what the cluster expects, or with a server
//! outside of the mesh, which is judged by the rules of the web.
//!
//! One rustls configuration serves all handshakes of a cluster with the same kind of endpoint under one identity: building it
//! parses keys and roots, which a storm of reconnects must not repeat.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::config::{Carrier, MutualTls, TlsMode, TlsOrigination};
use mesh_core::identity::tls::{TlsError, client_config_within, origination_client_config};
use mesh_core::identity::verify::{self, Refusal};
use mesh_core::identity::{Credentials, Identity, Pins, SpiffeId};
use rustls::ClientConfig;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ahead::Ahead;
use super::coalesce::Coalesce;
use super::material::{MaterialError, Sources, Stamps};
use super::{ConnectError, ConnectKind, Io};

/// What is offered for each carrier. Istio's own names come first: a permissive Envoy takes a connection that offers none of
/// them for the application's TLS and does not decrypt it. Whoever does not know them passes them over.
const OFFER_HTTP2: &[&[u8]] = &[b"istio-h2", b"istio", b"h2"];
const OFFER_HTTP1: &[&[u8]] = &[b"istio-http/1.1", b"istio", b"http/1.1"];
const OFFER_ANY: &[&[u8]] = &[b"istio-h2", b"istio-http/1.1", b"istio", b"h2", b"http/1.1"];

const PLAIN_HTTP2: &[&[u8]] = &[b"h2"];
const PLAIN_HTTP1: &[&[u8]] = &[b"http/1.1"];
const PLAIN_ANY: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The most configurations kept for one cluster. Its endpoints are of two or three kinds (Istio: with the mesh's TLS, with
/// another's, without); more are built anew for each handshake rather than kept.
const MAX_CACHED: usize = 8;

/// The newest TLS configurations of one cluster, the latest used last.
pub(crate) struct TlsConfigs {
    wall_clock: Arc<dyn TimeProvider>,
    pins: Pins,
    credentials: Credentials,
    cached: Mutex<Vec<Cached>>,
}

struct Cached {
    made_of: MadeOf,
    carrier: Carrier,
    mode: Arc<TlsMode>,
    config: Arc<ClientConfig>,
}

/// What a configuration was made of, besides what the cluster says.
#[derive(Clone, PartialEq, Eq)]
enum MadeOf {
    /// The workload's identity, by its generation.
    Identity(u64),
    /// What files and names stood for.
    Material(Stamps),
}

impl TlsConfigs {
    pub(crate) fn new(wall_clock: Arc<dyn TimeProvider>) -> Self {
        Self {
            wall_clock,
            pins: Pins::default(),
            credentials: Credentials::default(),
            cached: Mutex::default(),
        }
    }

    /// Of the peers that a cluster expects, only whom `pins` admit.
    pub(crate) fn pinned(self, pins: Pins) -> Self {
        Self { pins, ..self }
    }

    /// With what names stand for.
    pub(crate) fn provided(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }

    /// For a peer in the mesh.
    fn mutual(
        &self,
        mode: &Arc<TlsMode>,
        mutual: &MutualTls,
        identity: &Identity,
        carrier: Carrier,
    ) -> Result<Arc<ClientConfig>, ConnectError> {
        let made_of = MadeOf::Identity(identity.generation());
        self.cached(made_of, mode, carrier, || {
            let clock = Arc::clone(&self.wall_clock);
            client_config_within(
                &self.pins,
                identity,
                !mutual.anonymous,
                &mutual.expected,
                clock,
                offer(carrier),
            )
            .map_err(config)
        })
    }

    /// For a server outside of the mesh.
    async fn origination(
        &self,
        mode: &Arc<TlsMode>,
        outside: &TlsOrigination,
        identity: Option<&Identity>,
        carrier: Carrier,
    ) -> Result<Arc<ClientConfig>, ConnectError> {
        let sources = Sources {
            credentials: &self.credentials,
            identity,
        };
        let lacking = |error| ConnectError::new(ConnectKind::Material(error));
        let made_of = MadeOf::Material(sources.stamps(outside).await.map_err(lacking)?);
        if let Some(known) = self.find(&made_of, mode, carrier) {
            return Ok(known);
        }
        let material = sources.read(outside).await.map_err(lacking)?;
        self.cached(made_of, mode, carrier, || {
            let roots = (!outside.unverified).then_some(&material.roots[..]);
            let clock = Arc::clone(&self.wall_clock);
            let shown = material.shown.as_ref();
            origination_client_config(roots, &outside.names, shown, clock, plain_offer(carrier)).map_err(config)
        })
    }

    fn find(&self, made_of: &MadeOf, mode: &Arc<TlsMode>, carrier: Carrier) -> Option<Arc<ClientConfig>> {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cached.iter().find(|one| one.is(made_of, mode, carrier))?;
        Some(Arc::clone(&found.config))
    }

    fn cached(
        &self,
        made_of: MadeOf,
        mode: &Arc<TlsMode>,
        carrier: Carrier,
        make: impl FnOnce() -> Result<Arc<ClientConfig>, ConnectError>,
    ) -> Result<Arc<ClientConfig>, ConnectError> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is agreed any more under an identity that was replaced, or by a file that was.
        cached.retain(|one| match (&one.made_of, &made_of) {
            (MadeOf::Identity(older), MadeOf::Identity(newest)) => older >= newest || !is_of_one(&one.mode, mode),
            (MadeOf::Material(_), MadeOf::Material(_)) => one.made_of == made_of || !is_judged_alike(&one.mode, mode),
            _ => true,
        });
        let newest = match cached.iter().position(|one| one.is(&made_of, mode, carrier)) {
            Some(place) => cached.remove(place),
            None => Cached {
                carrier,
                mode: Arc::clone(mode),
                config: make()?,
                made_of,
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

impl Cached {
    fn is(&self, made_of: &MadeOf, mode: &Arc<TlsMode>, carrier: Carrier) -> bool {
        self.carrier == carrier
            && self.made_of == *made_of
            && (Arc::ptr_eq(&self.mode, mode) || is_judged_alike(&self.mode, mode))
    }
}

/// Whether two modes make the same configuration: the name that is sent is no part of it.
fn is_judged_alike(one: &TlsMode, other: &TlsMode) -> bool {
    match (one, other) {
        (TlsMode::Mutual(one), TlsMode::Mutual(other)) => {
            (&one.expected, &one.identity, one.anonymous) == (&other.expected, &other.identity, other.anonymous)
        }
        (TlsMode::Origination(one), TlsMode::Origination(other)) => {
            (&one.roots, &one.names, &one.shown, one.unverified)
                == (&other.roots, &other.names, &other.shown, other.unverified)
        }
        _ => false,
    }
}

/// Whether both go by the same certificate providers, so that the newest identity of these is the one of both.
fn is_of_one(one: &TlsMode, other: &TlsMode) -> bool {
    match (one, other) {
        (TlsMode::Mutual(one), TlsMode::Mutual(other)) => one.identity == other.identity,
        _ => false,
    }
}

fn config(error: TlsError) -> ConnectError {
    ConnectError::new(ConnectKind::Config(error))
}

impl std::fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConfigs").finish_non_exhaustive()
    }
}

/// A connection with somebody who was asked who they are.
pub(super) struct Secured<T> {
    pub(super) io: Coalesce<TlsStream<Ahead<T>>>,
    pub(super) http2: bool,
    /// The earlier end of the two certificates.
    pub(super) not_after: Option<UnixTime>,
    /// Who the peer is, where it is one of the mesh's.
    pub(super) peer: Option<SpiffeId>,
}

/// Shakes hands as a client.
pub(super) async fn handshake<T: Io>(
    io: T,
    address: SocketAddr,
    mode: &Arc<TlsMode>,
    identity: Option<&Identity>,
    configs: &TlsConfigs,
    carrier: Carrier,
) -> Result<Secured<T>, ConnectError> {
    let (config, name) = match (&**mode, identity) {
        (TlsMode::Mutual(mutual), Some(identity)) => (
            configs.mutual(mode, mutual, identity, carrier)?,
            server_name(mutual, address),
        ),
        (TlsMode::Origination(outside), _) => {
            let name = match &outside.sni {
                Some(name) => ServerName::try_from(String::from(&**name)).ok(),
                // Who has names of its own to look for is held against no other, and none need be sent.
                None if !outside.names.is_empty() => Some(ServerName::IpAddress(address.ip().into())),
                None => None,
            };
            let name = name.ok_or_else(|| ConnectError::new(ConnectKind::Material(MaterialError::NoServerName)))?;
            (configs.origination(mode, outside, identity, carrier).await?, name)
        }
        _ => return Err(ConnectError::new(ConnectKind::Material(MaterialError::NoIdentity))),
    };
    let stream = TlsConnector::from(config)
        .connect(name, Ahead::new(io))
        .await
        .map_err(explain)?;
    let session = stream.get_ref().1;
    let http2 = match (session.alpn_protocol(), &**mode) {
        // A server that knows nothing of ALPN speaks what HTTPS was before it (RFC 9113 3.3).
        (None, TlsMode::Origination(_)) if carrier != Carrier::Http2 => Some(false),
        (protocol, _) => agreed(protocol, carrier),
    };
    let http2 = http2.ok_or_else(|| ConnectError::new(ConnectKind::Alpn))?;
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let of_peer = leaf.and_then(|leaf| verify::not_after(leaf).ok());
    let peer = leaf.filter(|_| matches!(&**mode, TlsMode::Mutual(_)));
    let peer = peer.and_then(|leaf| verify::leaf_id(leaf).ok());
    let shows = !matches!(&**mode, TlsMode::Mutual(mutual) if mutual.anonymous);
    let own = identity.filter(|_| shows).map(|identity| identity.svid().not_after());
    let not_after = match (own, of_peer) {
        (Some(own), Some(of_peer)) => Some(own.min(of_peer)),
        (one, other) => one.or(other),
    };
    Ok(Secured {
        io: Coalesce::new(stream),
        http2,
        not_after,
        peer,
    })
}

fn plain_offer(carrier: Carrier) -> &'static [&'static [u8]] {
    match carrier {
        Carrier::Http2 => PLAIN_HTTP2,
        Carrier::Http1 => PLAIN_HTTP1,
        Carrier::Any => PLAIN_ANY,
    }
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
    use mesh_core::config::{ChainIdentity, ExpectedPeers};
    use mesh_core::testing::TestCa;
    use rustls::time_provider::DefaultTimeProvider;

    use super::*;

    fn mode(n: usize) -> Arc<TlsMode> {
        let id = format!("spiffe://d/ns/n/sa/{n}");
        Arc::new(TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::exactly([id.as_str()]),
            sni: None,
            ..MutualTls::default()
        }))
    }

    #[test]
    fn modes_do_not_displace_one_another_and_are_bounded() {
        let ca = TestCa::new("d");
        let (first, second) = (
            ca.identity("spiffe://d/ns/n/sa/me"),
            ca.identity("spiffe://d/ns/n/sa/me"),
        );
        let configs = TlsConfigs::new(Arc::new(DefaultTimeProvider));
        let with = |identity: &Identity, n: usize, carrier| {
            let mode = mode(n);
            let TlsMode::Mutual(mutual) = &*mode else {
                panic!("the mode is mutual")
            };
            configs.mutual(&mode, mutual, identity, carrier).unwrap()
        };
        let of = |identity: &Identity, n: usize| with(identity, n, Carrier::Http2);
        let (a, b) = (of(&first, 0), of(&first, 1));
        assert!(Arc::ptr_eq(&a, &of(&first, 0)) && Arc::ptr_eq(&b, &of(&first, 1)));
        assert!(!Arc::ptr_eq(&a, &b));
        // A new identity makes all anew, and a handshake that began under the old one does not undo that.
        let renewed = of(&second, 0);
        assert!(!Arc::ptr_eq(&a, &renewed));
        of(&first, 0);
        assert!(Arc::ptr_eq(&renewed, &of(&second, 0)));
        // What is offered is part of it.
        let other = with(&second, 0, Carrier::Http1);
        assert!(!Arc::ptr_eq(&renewed, &other) && other.alpn_protocols[0] == b"istio-http/1.1");
        for n in 0..3 * MAX_CACHED {
            of(&second, n);
        }
        assert_eq!(configs.cached.lock().unwrap().len(), MAX_CACHED);
    }

    /// Endpoints of one cluster may be called by two identities: neither displaces what was made by the other, however old it is.
    #[test]
    fn identities_of_two_providers_do_not_displace_one_another() {
        let ca = TestCa::new("d");
        let id = "spiffe://d/ns/n/sa/me";
        let (older, newer) = (ca.identity(id), ca.identity(id));
        let configs = TlsConfigs::new(Arc::new(DefaultTimeProvider));
        let of = |identity: &Identity, provider: Option<&str>| {
            let mutual = MutualTls {
                expected: ExpectedPeers::exactly([id]),
                identity: ChainIdentity {
                    certificate: provider.map(Into::into),
                    roots: None,
                },
                ..MutualTls::default()
            };
            let mode = Arc::new(TlsMode::Mutual(mutual.clone()));
            configs.mutual(&mode, &mutual, identity, Carrier::Http2).unwrap()
        };
        let (own, other) = (of(&older, None), of(&newer, Some("other")));
        assert!(Arc::ptr_eq(&own, &of(&older, None)));
        assert!(Arc::ptr_eq(&other, &of(&newer, Some("other"))));
        // And nothing made by the one is used for the other.
        assert!(!Arc::ptr_eq(&other, &of(&newer, None)));
    }
}
