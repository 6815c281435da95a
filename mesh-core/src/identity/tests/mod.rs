//! Real rustls handshakes over buffers in memory: what is refused, why, and by whom.

mod corpus;
mod session;

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::ServerName;
use rustls::server::NoClientAuth;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection, version};

use super::tls::{self, ClientAuth, client_config, provider, server_config};
use super::verify::{ClientVerifier, Refusal};
use super::{Identity, SpiffeId, TrustBundle, TrustDomain};
use crate::config::ExpectedPeers;
use crate::testing::{Issued, SettableClock, TestCa};

/// A day in 2026.
const NOW_SECONDS: u64 = 1_795_305_600;

const TRUST_DOMAIN: &str = "mesh.test";
const SERVER: &str = "spiffe://mesh.test/ns/shop/sa/payment";
const CLIENT: &str = "spiffe://mesh.test/ns/shop/sa/checkout";

fn clock() -> Arc<dyn TimeProvider> {
    Arc::new(SettableClock::at(NOW_SECONDS))
}

/// How a handshake ended on each side.
#[derive(Debug)]
struct Outcome {
    client: Result<(), Error>,
    server: Result<(), Error>,
}

impl Outcome {
    #[track_caller]
    fn accepted(self) {
        assert!(self.client.is_ok() && self.server.is_ok(), "{self:?}");
    }

    /// What the client says about the server.
    fn by_client(&self) -> Option<&Refusal> {
        self.client.as_ref().err().and_then(Refusal::from_error)
    }

    /// What the server says about the client.
    fn by_server(&self) -> Option<&Refusal> {
        self.server.as_ref().err().and_then(Refusal::from_error)
    }
}

fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (Outcome, ClientConnection, ServerConnection) {
    let name = ServerName::try_from("payment.shop").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let mut outcome = Outcome {
        client: Ok(()),
        server: Ok(()),
    };
    // A TLS 1.3 handshake is one and a half round trips; a refusal's alert is another half.
    for _ in 0..4 {
        let (served, called) = (deliver(&mut client, &mut server), deliver(&mut server, &mut client));
        outcome.server = outcome.server.and(served);
        outcome.client = outcome.client.and(called);
    }
    if outcome.client.is_ok() && outcome.server.is_ok() {
        assert!(!client.is_handshaking() && !server.is_handshaking());
    }
    (outcome, client, server)
}

/// Carries what `from` has to say to `to`.
fn deliver<A, B>(from: &mut rustls::ConnectionCommon<A>, to: &mut rustls::ConnectionCommon<B>) -> Result<(), Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

/// A client that checks nothing of its own certificate, as a stranger's would.
fn stranger_client(issued: Issued, trusts: &TrustBundle) -> Arc<ClientConfig> {
    let verifier = super::verify::ServerVerifier::new(trusts.clone(), ExpectedPeers::exactly([SERVER]));
    let config = ClientConfig::builder_with_details(Arc::clone(provider()), clock())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(resolver(issued));
    Arc::new(config)
}

/// A server that asks for no certificate and checks nothing of its own.
fn stranger_server(issued: Issued) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_details(Arc::clone(provider()), clock())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(NoClientAuth))
        .with_cert_resolver(resolver(issued));
    Arc::new(config)
}

fn resolver(issued: Issued) -> Arc<SingleCertAndKey> {
    let key = any_supported_type(&issued.key).unwrap();
    Arc::new(CertifiedKey::new(issued.chain, key).into())
}

fn good_client(ca: &TestCa) -> Arc<ClientConfig> {
    let expected = ExpectedPeers::exactly([SERVER]);
    client_config(&ca.identity(CLIENT), &expected, clock(), &[b"h2"]).unwrap()
}

fn good_server(ca: &TestCa) -> Arc<ServerConfig> {
    server_config(&ca.identity(SERVER), ClientAuth::Required, clock(), &[b"h2"]).unwrap()
}

#[test]
fn good_peers_meet() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let (outcome, client, server) = handshake(&good_client(&ca), &good_server(&ca));
    outcome.accepted();
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    let peer = &server.peer_certificates().unwrap()[0];
    assert_eq!(
        super::verify::leaf_id(peer),
        SpiffeId::parse(CLIENT).map_err(Refusal::Id)
    );
}

#[test]
fn debug_shows_no_key() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let identity = ca.identity(CLIENT);
    let generation = identity.generation();
    assert_eq!(
        format!("{identity:?}"),
        format!("Identity {{ id: \"{CLIENT}\", not_after: 4102444800, generation: {generation}, .. }}")
    );
    assert_ne!(ca.identity(CLIENT).generation(), generation);
}

#[test]
fn an_svid_is_checked_where_it_is_made() {
    use super::{InvalidSvid, Svid};
    let ca = TestCa::new(TRUST_DOMAIN);
    let (good, other) = (ca.leaf(CLIENT).issue(), ca.leaf(CLIENT).issue());
    let invalid = |chain, key| Svid::new(chain, key).unwrap_err();
    assert_eq!(invalid(good.chain, other.key.clone_key()), InvalidSvid::KeyMismatch);
    assert_eq!(invalid(Vec::new(), other.key.clone_key()), InvalidSvid::Empty);
    let bad = ca.leaf(CLIENT).ca().issue();
    assert_eq!(invalid(bad.chain, bad.key), InvalidSvid::Leaf(Refusal::CaLeaf));
}

#[test]
fn the_control_plane_is_judged_by_name_and_pinned_root() {
    let (ca, other) = (TestCa::new(TRUST_DOMAIN), TestCa::new("other.test"));
    let server = stranger_server(ca.web_server("payment.shop"));
    let misnamed = stranger_server(ca.web_server("else.shop"));
    let pinned = |root| tls::pinned_client_config(&[root], None, clock(), &[]).unwrap();
    handshake(&pinned(ca.root()), &server).0.accepted();
    let (refused, ..) = handshake(&pinned(other.root()), &server);
    assert_eq!(refused.by_client(), Some(&Refusal::UnknownIssuer));
    assert!(handshake(&pinned(ca.root()), &misnamed).0.client.is_err());
    let nobody = tls::pinned_client_config(&[], None, clock(), &[]).unwrap_err();
    assert!(nobody.is_roots());
}

#[test]
fn an_optional_client_may_stay_anonymous_but_not_lie() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let server = server_config(&ca.identity(SERVER), ClientAuth::Optional, clock(), &[]).unwrap();
    let verifier = super::verify::ServerVerifier::new(ca.bundle(), ExpectedPeers::exactly([SERVER]));
    let anonymous = ClientConfig::builder_with_details(Arc::clone(provider()), clock())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let (outcome, _, connection) = handshake(&Arc::new(anonymous), &server);
    outcome.accepted();
    assert!(connection.peer_certificates().is_none());
    let liar = stranger_client(ca.leaf("spiffe://mesh.test").issue(), &ca.bundle());
    assert_eq!(handshake(&liar, &server).0.by_server(), Some(&Refusal::RootPath));
    // The same verifier, said the other way round.
    let _: ClientVerifier = ClientVerifier::new(ca.bundle(), ClientAuth::Optional);
}

#[test]
fn federated_roots_vouch_for_their_own_domain_only() {
    let (ours, theirs) = (TestCa::new(TRUST_DOMAIN), TestCa::new("their.test"));
    let domain = TrustDomain::parse("their.test").unwrap();
    let bundle = ours.bundle().with_domain(domain.clone(), vec![theirs.root()]).unwrap();
    let identity = Identity::new(ours.svid(SERVER), bundle);
    let server = server_config(&identity, ClientAuth::Required, clock(), &[]).unwrap();
    let call = |issued| handshake(&stranger_client(issued, &ours.bundle()), &server).0;

    call(theirs.leaf("spiffe://their.test/a").issue()).accepted();
    let forged = call(theirs.leaf(CLIENT).issue());
    assert_eq!(forged.by_server(), Some(&Refusal::UnknownIssuer));

    let bundle = ours.bundle().with_domain(domain.clone(), Vec::new()).unwrap();
    let identity = Identity::new(ours.svid(SERVER), bundle);
    let server = server_config(&identity, ClientAuth::Required, clock(), &[]).unwrap();
    let issued = theirs.leaf("spiffe://their.test/a").issue();
    let (emptied, ..) = handshake(&stranger_client(issued, &ours.bundle()), &server);
    assert_eq!(emptied.by_server(), Some(&Refusal::NoRoots(domain)));
}

#[test]
fn nothing_that_an_issuer_wrote_ends_the_quotation_of_a_forwarded_certificate() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let own = SpiffeId::parse(SERVER).unwrap();
    let told = |name: &str| {
        let issued = ca.leaf(CLIENT).common_name(name).issue();
        let value = super::forwarded_client_cert(&own, &issued.chain[0]).unwrap();
        value.to_str().unwrap().to_owned()
    };
    let evil = told("a\";URI=spiffe://mesh.test/admin,By=\"");
    let subject = evil.split_once("Subject=\"").unwrap().1;
    // The first quotation mark that is not escaped is the one before the id.
    let end = subject
        .char_indices()
        .find(|(at, letter)| *letter == '"' && !subject[..*at].ends_with('\\'))
        .unwrap();
    assert_eq!(&subject[end.0..], format!("\";URI={CLIENT}"));
    assert!(told("a\nb: c").contains("Subject=\"\";"));
    assert!(told(&"a".repeat(4_000)).contains("Subject=\"\";"));
}
