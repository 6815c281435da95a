//! What is negotiated around the certificates: no resumption (ID-8), no older TLS and no anonymity (ID-7).

use rustls::{CipherSuite, HandshakeKind};

use super::*;
use crate::testing::NOT_BEFORE_SECONDS;

/// A client and a server that meet repeatedly must verify each other each time.
#[test]
fn id_8_no_resumption_is_ever_offered_or_taken() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let (client_config, server_config) = (good_client(&ca), good_server(&ca));
    for _ in 0..tries() {
        let (outcome, client, server) = handshake(&client_config, &server_config);
        outcome.accepted();
        assert_eq!(client.tls13_tickets_received(), 0);
        let kinds = [client.handshake_kind(), server.handshake_kind()];
        assert!(
            kinds.iter().all(|kind| matches!(kind, Some(HandshakeKind::Full))),
            "{kinds:?}"
        );
    }
}

/// How often it is tried: `ID_8_TRIES`, and a hundred times where nothing is said.
#[allow(
    clippy::disallowed_methods,
    reason = "the length of a test is for whoever runs it to say"
)]
fn tries() -> u32 {
    std::env::var("ID_8_TRIES").map_or(100, |tries| tries.parse().unwrap())
}

/// A client of another make that keeps sessions finds none to keep.
#[test]
fn id_8_no_resumption_for_a_client_that_wants_it() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let mut eager = (*good_client(&ca)).clone();
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    eager.enable_early_data = true;
    let (eager, server_config) = (Arc::new(eager), good_server(&ca));
    for _ in 0..tries() {
        let (outcome, mut client, server) = handshake(&eager, &server_config);
        outcome.accepted();
        assert!(client.early_data().is_none());
        assert_eq!(
            (client.tls13_tickets_received(), server.handshake_kind()),
            (0, Some(HandshakeKind::Full))
        );
    }
}

/// The leaf expires between two connections: the second is refused, although nothing else has changed.
#[test]
fn id_8_an_expired_leaf_does_not_come_back() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let clock = SettableClock::at(NOW_SECONDS);
    let at: Arc<dyn TimeProvider> = Arc::new(clock.clone());
    let server = server_config(&ca.identity(SERVER), ClientAuth::Required, Arc::clone(&at), &[]).unwrap();
    let svid = ca.leaf(CLIENT).valid(NOT_BEFORE_SECONDS, NOW_SECONDS + 60).svid();
    let identity = Identity::new(svid, ca.bundle());
    let client = client_config(&identity, &ExpectedPeers::exactly([SERVER]), at, &[]).unwrap();
    handshake(&client, &server).0.accepted();
    clock.set(NOW_SECONDS + 61);
    assert_eq!(handshake(&client, &server).0.by_server(), Some(&Refusal::Expired));
    // Clocks jump back, too: time is what the clock says, with no memory.
    clock.set(NOW_SECONDS);
    handshake(&client, &server).0.accepted();
}

#[test]
fn id_7_a_client_without_a_certificate_is_refused() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let anonymous = tls::pinned_client_config(&[ca.root()], None, clock(), &[b"h2"]).unwrap();
    let mut server = (*good_server(&ca)).clone();
    // A certificate that satisfies the anonymous client's own ideas, so that it comes as far as being asked for one.
    server.cert_resolver = resolver(ca.web_server("payment.shop"));
    let (outcome, ..) = handshake(&anonymous, &Arc::new(server));
    assert_eq!(outcome.by_server(), Some(&Refusal::NoCertificate));
}

#[test]
fn id_7_no_common_protocol_is_refused() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let expected = ExpectedPeers::exactly([SERVER]);
    let client = client_config(&ca.identity(CLIENT), &expected, clock(), &[b"smtp"]).unwrap();
    let (outcome, ..) = handshake(&client, &good_server(&ca));
    assert_eq!(outcome.by_server(), Some(&Refusal::NoCommonProtocol));
}

/// This build has no TLS 1.2 to test with, so the hello of such a client is spelt out (RFC 5246 7.4.1.2).
#[test]
fn id_7_a_client_of_tls_1_2_is_refused() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let mut server = ServerConnection::new(good_server(&ca)).unwrap();
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    body.push(0); // no session
    body.extend([0x00, 0x02, 0xc0, 0x2b]); // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    body.extend([0x01, 0x00]); // no compression
    body.extend([0x00, 0x16]); // extensions: groups, point formats, signature algorithms
    body.extend([0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17]);
    body.extend([0x00, 0x0b, 0x00, 0x02, 0x01, 0x00]);
    body.extend([0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03]);
    let error = feed(&mut server, &record(0x01, &body));
    assert_eq!(Refusal::from_error(&error), Some(&Refusal::TlsVersion), "{error:?}");
}

#[test]
fn id_7_a_server_of_tls_1_2_is_refused() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let name = ServerName::try_from("payment.shop").unwrap();
    let mut client = ClientConnection::new(good_client(&ca), name).unwrap();
    client.write_tls(&mut Vec::new()).unwrap();
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0xc0, 0x2b, 0x00]);
    let error = feed(&mut client, &record(0x02, &body));
    assert_eq!(Refusal::from_error(&error), Some(&Refusal::TlsVersion), "{error:?}");
}

/// A plaintext answer to a TLS hello is an error, and not one about certificates.
#[test]
fn id_7_a_plaintext_answer_is_an_error() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let name = ServerName::try_from("payment.shop").unwrap();
    let mut client = ClientConnection::new(good_client(&ca), name).unwrap();
    let error = feed(&mut client, b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(Refusal::from_error(&error), None, "{error:?}");
}

fn feed<T>(connection: &mut rustls::ConnectionCommon<T>, mut wire: &[u8]) -> Error {
    connection.read_tls(&mut wire).unwrap();
    connection.process_new_packets().unwrap_err()
}

/// One handshake message in one record.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u16;
    let mut out = vec![0x16, 0x03, 0x03];
    out.extend((length + 4).to_be_bytes());
    out.extend([kind, 0]);
    out.extend(length.to_be_bytes());
    out.extend(body);
    out
}

/// Whoever records a handshake today cannot read it with the quantum computer of another day.
#[test]
fn id_8_the_key_exchange_is_post_quantum() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let (outcome, client, server) = handshake(&good_client(&ca), &good_server(&ca));
    outcome.accepted();
    for group in [
        client.negotiated_key_exchange_group(),
        server.negotiated_key_exchange_group(),
    ] {
        assert_eq!(
            group.map(|group| group.name()),
            Some(rustls::NamedGroup::X25519MLKEM768)
        );
    }
}

/// Members agree on the cheapest suite; a client of another make gets the one that it puts first, of those that TLS 1.3 has.
#[test]
fn id_8_the_cipher_suite_is_the_clients_choice_and_aes_128_is_ours() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let server = good_server(&ca);
    let agreed = |client: &Arc<ClientConfig>| {
        let (outcome, client, server) = handshake(client, &server);
        outcome.accepted();
        let suite = client.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, server.negotiated_cipher_suite().map(|suite| suite.suite()));
        suite
    };
    assert_eq!(agreed(&good_client(&ca)), Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
    for first in [
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        let mut theirs = (**provider()).clone();
        theirs.cipher_suites.sort_by_key(|suite| suite.suite() != first);
        let verifier = super::super::verify::ServerVerifier::new(ca.bundle(), ExpectedPeers::exactly([SERVER]));
        let client = ClientConfig::builder_with_details(Arc::new(theirs), clock())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(resolver(ca.leaf(CLIENT).issue()));
        assert_eq!(agreed(&Arc::new(client)), Some(first));
    }
}
