//! ID-4: leaves that must be refused, in both directions, each for its own reason; and those that must not.

use std::collections::HashSet;

use super::*;
use crate::config::Clients;
use crate::identity::InvalidSpiffeId as Rule;
use crate::testing::{
    ExtendedKeyUsagePurpose as Eku, KeyUsagePurpose as Ku, Leaf, NOT_AFTER_SECONDS, Name, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PKCS_RSA_SHA256, SignerForm, WeakSignature,
};

/// Who the peer says it is, whichever side it is on.
const PEER: &str = SERVER;

type Case = (&'static str, Refusal, Issued);

/// Every leaf that rustls with webpki alone accepts, although SPIFFE or the mesh refuses it.
fn what_webpki_accepts(ca: &TestCa) -> Vec<Case> {
    let good = || ca.leaf(PEER);
    let id = |id: &str| ca.leaf(id).issue();
    let foreign = TrustDomain::parse("foreign.test").unwrap();
    vec![
        (
            "two URI names",
            Refusal::TwoUriSans,
            good().name(Name::Uri, CLIENT).issue(),
        ),
        (
            "a DNS name only",
            Refusal::NoUriSan,
            good().nameless().name(Name::Dns, "payment").issue(),
        ),
        ("no name", Refusal::NoSan, good().nameless().common_name(PEER).issue()),
        (
            "an http URI",
            Refusal::Id(Rule::Scheme),
            id("http://mesh.test/ns/shop/sa/payment"),
        ),
        (
            "another domain's name",
            Refusal::ForeignTrustDomain(foreign),
            id("spiffe://foreign.test/a"),
        ),
        ("the domain's own name", Refusal::RootPath, id("spiffe://mesh.test")),
        (
            "dots in the path",
            Refusal::Id(Rule::DotSegment),
            id("spiffe://mesh.test/ns/../sa/payment"),
        ),
        (
            "an escape in the path",
            Refusal::Id(Rule::PathCharacter),
            id("spiffe://mesh.test/ns/%73hop"),
        ),
        (
            "upper case",
            Refusal::Id(Rule::TrustDomainCharacter),
            id("spiffe://MESH.test/ns/shop/sa/payment"),
        ),
        (
            "may sign certificates",
            Refusal::KeyCertSign,
            good().key_usages(&[Ku::DigitalSignature, Ku::KeyCertSign]).issue(),
        ),
        (
            "may sign CRLs",
            Refusal::CrlSign,
            good().key_usages(&[Ku::DigitalSignature, Ku::CrlSign]).issue(),
        ),
        ("no key usage", Refusal::NoKeyUsage, good().key_usages(&[]).issue()),
        (
            "no digitalSignature",
            Refusal::NoDigitalSignature,
            good().key_usages(&[Ku::KeyEncipherment]).issue(),
        ),
    ]
}

/// Ids that the grammar refuses, as leaves.
fn ids(ca: &TestCa) -> Vec<Case> {
    let id = |rule, name, bytes: &[u8]| {
        (
            name,
            Refusal::Id(rule),
            ca.leaf(PEER).nameless().name(Name::Uri, bytes).issue(),
        )
    };
    let long = format!("spiffe://mesh.test/{}", "a".repeat(2048));
    vec![
        id(
            Rule::TrustDomainCharacter,
            "user information",
            b"spiffe://root@mesh.test/a",
        ),
        id(Rule::TrustDomainCharacter, "a port", b"spiffe://mesh.test:443/a"),
        id(Rule::QueryOrFragment, "a query", b"spiffe://mesh.test/a?b"),
        id(Rule::QueryOrFragment, "a fragment", b"spiffe://mesh.test/a#b"),
        id(Rule::EmptyTrustDomain, "no domain", b"spiffe:///a"),
        id(Rule::Scheme, "an upper-case scheme", b"SPIFFE://mesh.test/a"),
        id(Rule::Scheme, "an empty URI", b""),
        id(Rule::EmptySegment, "an empty segment", b"spiffe://mesh.test//a"),
        id(Rule::EmptySegment, "a trailing slash", b"spiffe://mesh.test/a/"),
        id(
            Rule::PathCharacter,
            "a NUL",
            b"spiffe://mesh.test/ns/shop/sa/payment\0.evil",
        ),
        id(Rule::PathCharacter, "a space", b"spiffe://mesh.test/a b"),
        id(Rule::PathCharacter, "UTF-8", "spiffe://mesh.test/\u{e9}".as_bytes()),
        id(Rule::PathCharacter, "a backslash", b"spiffe://mesh.test/a\\b"),
        id(Rule::PathCharacter, "a line feed", b"spiffe://mesh.test/a\nb"),
        id(Rule::PathCharacter, "parameters", b"spiffe://mesh.test/a;b=c"),
        id(Rule::PathCharacter, "a tilde", b"spiffe://mesh.test/~a"),
        id(Rule::TrustDomainCharacter, "an IPv6 address", b"spiffe://[::1]/a"),
        id(
            Rule::TrustDomainCharacter,
            "an escape in the domain",
            b"spiffe://mesh%2etest/a",
        ),
        id(
            Rule::TrustDomainCharacter,
            "user and password",
            b"spiffe://u:p@mesh.test/a",
        ),
        id(Rule::EmptySegment, "a lone slash", b"spiffe://mesh.test/"),
        id(Rule::EmptySegment, "two slashes at the end", b"spiffe://mesh.test/a//"),
        id(Rule::DotSegment, "a dot", b"spiffe://mesh.test/./a"),
        id(Rule::DotSegment, "dots at the end", b"spiffe://mesh.test/a/.."),
        id(Rule::TooLong, "too long", long.as_bytes()),
        (
            "not even UTF-8",
            Refusal::BadEncoding,
            ca.leaf(PEER)
                .nameless()
                .name(Name::Uri, b"spiffe://mesh.test/\xff")
                .issue(),
        ),
    ]
}

/// What else is refused: form, time, issuer, path.
fn the_rest(ca: &TestCa) -> Vec<Case> {
    let good = || ca.leaf(PEER);
    let below = |edit: fn(&mut SignerForm)| ca.intermediate_with("spiffe://mesh.test", edit).leaf(PEER).issue();
    let signer = |uri: &str| ca.intermediate_with(uri, |_| {}).leaf(PEER).issue();
    let mut thief = good().issue();
    thief.key = good().issue().key;
    let mut garbage = good().issue();
    garbage.chain[0] = vec![0x30, 0x03, 0x02, 0x01, 0x01].into();
    let mut trailing = good().issue();
    trailing.chain[0] = [&trailing.chain[0], &[0u8][..]].concat().into();
    let mut forged = good().issue();
    let mut bytes = forged.chain[0].to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    forged.chain[0] = bytes.into();
    let mut crowd = good().issue();
    crowd.chain.extend(std::iter::repeat_n(ca.root(), 4));
    let mut orphan = ca.intermediate().leaf(PEER).issue();
    orphan.chain.truncate(1);
    vec![
        ("a CA", Refusal::CaLeaf, good().ca().issue()),
        (
            "key usage not critical",
            Refusal::KeyUsageNotCritical,
            good().key_usage_not_critical().issue(),
        ),
        (
            "clientAuth only",
            Refusal::NoServerAuth,
            good().extended_key_usages(&[Eku::ClientAuth]).issue(),
        ),
        (
            "serverAuth only",
            Refusal::NoClientAuth,
            good().extended_key_usages(&[Eku::ServerAuth]).issue(),
        ),
        (
            "for mail",
            Refusal::NoServerAuth,
            good().extended_key_usages(&[Eku::EmailProtection]).issue(),
        ),
        (
            "expired",
            Refusal::Expired,
            good().valid(NOW_SECONDS - 7200, NOW_SECONDS - 1).issue(),
        ),
        (
            "not valid yet",
            Refusal::NotYetValid,
            good().valid(NOW_SECONDS + 1, NOT_AFTER_SECONDS).issue(),
        ),
        (
            "dates reversed",
            Refusal::Expired,
            good().valid(NOW_SECONDS + 60, NOW_SECONDS - 60).issue(),
        ),
        (
            "an unknown critical extension",
            Refusal::CriticalExtension,
            good().unknown_critical_extension().issue(),
        ),
        ("a stolen certificate", Refusal::BadSignature, thief),
        ("version 1", Refusal::CertificateVersion, good().version_1().issue()),
        ("RSA of 1024 bits", Refusal::WeakKey, good().short_rsa().issue()),
        (
            "signed over SHA-1, ECDSA",
            Refusal::SignatureAlgorithm,
            good().weak_signature(WeakSignature::EcdsaSha1).issue(),
        ),
        (
            "signed over SHA-1, RSA",
            Refusal::SignatureAlgorithm,
            good().weak_signature(WeakSignature::RsaSha1).issue(),
        ),
        (
            "signed over MD5",
            Refusal::SignatureAlgorithm,
            good().weak_signature(WeakSignature::RsaMd5).issue(),
        ),
        (
            "a name constraint",
            Refusal::NameConstraint,
            good().name_constraint().issue(),
        ),
        ("signed by itself", Refusal::UnknownIssuer, good().issue_self_signed()),
        ("garbage", Refusal::BadEncoding, garbage),
        ("trailing bytes", Refusal::BadEncoding, trailing),
        ("a flipped bit", Refusal::UnknownIssuer, forged),
        ("five certificates", Refusal::ChainTooLong, crowd),
        ("a missing intermediate", Refusal::UnknownIssuer, orphan),
        (
            "an intermediate that is no CA",
            Refusal::SignerNotCa,
            below(|signer| signer.ca = false),
        ),
        (
            "an intermediate without keyCertSign",
            Refusal::SignerKeyUsage,
            below(|signer| signer.key_usages = vec![Ku::CrlSign]),
        ),
        (
            "an intermediate without key usage",
            Refusal::SignerKeyUsage,
            below(|signer| signer.key_usages.clear()),
        ),
        (
            "an intermediate that is a workload",
            Refusal::SignerId,
            signer("spiffe://mesh.test/ns/shop/sa/evil"),
        ),
        (
            "an intermediate of another domain",
            Refusal::SignerId,
            signer("spiffe://foreign.test"),
        ),
        (
            "a path length exceeded",
            Refusal::PathLength,
            ca.intermediate_with("spiffe://mesh.test", |signer| signer.path_length = Some(0))
                .intermediate()
                .leaf(PEER)
                .issue(),
        ),
        (
            "another CA of another name",
            Refusal::UnknownIssuer,
            stranger("other.test", PEER),
        ),
    ]
}

/// What the corpus is measured by.
#[test]
fn id_4_the_corpus_has_its_size() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let cases: Vec<Case> = [what_webpki_accepts(&ca), ids(&ca), the_rest(&ca)]
        .into_iter()
        .flatten()
        .collect();
    let labels: HashSet<_> = cases.iter().map(|(_, refusal, _)| refusal.as_str()).collect();
    let names: HashSet<_> = cases.iter().map(|(name, ..)| name).collect();
    assert!(
        cases.len() >= 66 && labels.len() >= 33,
        "{} cases, {} labels",
        cases.len(),
        labels.len()
    );
    assert_eq!(names.len(), cases.len());
}

fn stranger(domain: &str, id: &str) -> Issued {
    TestCa::new(domain).leaf(id).issue()
}

#[track_caller]
fn refused(ca: &TestCa, cases: Vec<Case>) {
    let (client, server) = (good_client(ca), good_server(ca));
    for (name, refusal, issued) in cases {
        let copy = Issued {
            chain: issued.chain.clone(),
            key: issued.key.clone_key(),
        };
        let as_server = handshake(&client, &stranger_server(issued)).0;
        assert_eq!(
            as_server.by_client(),
            Some(&refusal),
            "server with {name}: {as_server:?}"
        );
        assert!(
            matches!(as_server.server, Err(Error::AlertReceived(_))),
            "server with {name}: {as_server:?}"
        );
        let as_client = handshake(&stranger_client(copy, &ca.bundle()), &server).0;
        assert_eq!(
            as_client.by_server(),
            Some(&refusal),
            "client with {name}: {as_client:?}"
        );
        assert!(
            matches!(as_client.client, Err(Error::AlertReceived(_))),
            "client with {name}: {as_client:?}"
        );
    }
}

#[test]
fn id_4_leaves_that_webpki_accepts_are_refused() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let cases = what_webpki_accepts(&ca);
    let labels: HashSet<_> = cases.iter().map(|(_, refusal, _)| refusal.as_str()).collect();
    assert_eq!(labels.len(), cases.len(), "each has a label of its own");
    refused(&ca, cases);
}

/// The twelve are worth a test only as long as webpki would let them in: this is the day that changes.
#[test]
fn id_4_webpki_alone_would_accept_them() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root()).unwrap();
    let plain = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()))
        .build()
        .unwrap();
    let mut config = (*good_server(&ca)).clone();
    config = ServerConfig::builder_with_details(Arc::clone(provider()), clock())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_client_cert_verifier(plain)
        .with_cert_resolver(config.cert_resolver);
    let server = Arc::new(config);
    for (name, _, issued) in what_webpki_accepts(&ca) {
        let (outcome, ..) = handshake(&stranger_client(issued, &ca.bundle()), &server);
        assert!(outcome.server.is_ok(), "{name}: {outcome:?}");
    }
}

#[test]
fn id_4_malformed_ids_are_refused() {
    let ca = TestCa::new(TRUST_DOMAIN);
    refused(&ca, ids(&ca));
}

#[test]
fn id_4_form_time_issuer_and_path_are_judged() {
    let ca = TestCa::new(TRUST_DOMAIN);
    refused(&ca, the_rest(&ca));
}

#[test]
fn id_4_another_ca_of_the_same_name_is_refused() {
    let ca = TestCa::new(TRUST_DOMAIN);
    refused(
        &ca,
        vec![("the same name", Refusal::UnknownIssuer, stranger(TRUST_DOMAIN, PEER))],
    );
}

#[test]
fn id_4_a_uri_name_constraint_refuses_even_what_it_permits() {
    let ca = TestCa::with_uri_constraint(TRUST_DOMAIN, TRUST_DOMAIN);
    let server = good_server(&ca);
    let (outcome, ..) = handshake(&stranger_client(ca.leaf(CLIENT).issue(), &ca.bundle()), &server);
    assert_eq!(outcome.by_client(), Some(&Refusal::NameConstraint));
}

#[test]
fn id_4_the_wrong_identity_of_the_right_ca_is_refused() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let other = "spiffe://mesh.test/ns/shop/sa/other";
    let wrong = Refusal::WrongIdentity(SpiffeId::parse(other).unwrap());
    // What is expected in the common name, or among the names of another kind, is nobody's identity.
    for leaf in [
        ca.leaf(other),
        ca.leaf(other).common_name(SERVER),
        ca.leaf(other).name(Name::Dns, SERVER),
    ] {
        let issued = leaf.issue();
        let copy = Issued {
            chain: issued.chain.clone(),
            key: issued.key.clone_key(),
        };
        let (outcome, ..) = handshake(&good_client(&ca), &stranger_server(issued));
        assert_eq!(outcome.by_client(), Some(&wrong));
        // A server that names its clients refuses them in the same way.
        let clients = Clients::Named(ExpectedPeers::exactly([SERVER]));
        let server = tls::inbound_server_config(&ca.identity(SERVER), Some(&clients), clock(), &[b"h2"]).unwrap();
        let (outcome, ..) = handshake(&stranger_client(copy, &ca.bundle()), &server);
        assert_eq!(outcome.by_server(), Some(&wrong));
    }
}

#[test]
fn id_4_an_empty_expectation_refuses_everybody() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let client = client_config(&ca.identity(CLIENT), &ExpectedPeers::default(), clock(), &[]).unwrap();
    let (outcome, ..) = handshake(&client, &good_server(&ca));
    assert_eq!(outcome.by_client(), Some(&Refusal::NothingExpected));
}

#[test]
fn id_4_good_variants_are_accepted() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let good = || ca.leaf(PEER);
    let plain = |leaf: Leaf<'_>| leaf.issue();
    let mut with_root = good().issue();
    with_root.chain.push(ca.root());
    let both = [Eku::ServerAuth, Eku::ClientAuth, Eku::EmailProtection];
    let cases = vec![
        ("as it comes", plain(good())),
        ("a DNS name too", plain(good().name(Name::Dns, "payment.shop"))),
        (
            "many DNS names too",
            plain((0..20).fold(good(), |leaf, n| leaf.name(Name::Dns, format!("payment-{n}")))),
        ),
        (
            "a mail address too",
            plain(good().name(Name::Email, "payment@mesh.test")),
        ),
        ("a common name", plain(good().common_name("payment"))),
        ("another's common name", plain(good().common_name(CLIENT))),
        ("no extended key usage", plain(good().extended_key_usages(&[]))),
        (
            "another extended key usage too",
            plain(good().extended_key_usages(&both)),
        ),
        (
            "key encipherment too",
            plain(good().key_usages(&[Ku::DigitalSignature, Ku::KeyEncipherment])),
        ),
        (
            "key agreement too",
            plain(good().key_usages(&[Ku::DigitalSignature, Ku::KeyAgreement])),
        ),
        (
            "valid from this second",
            plain(good().valid(NOW_SECONDS, NOW_SECONDS + 1)),
        ),
        (
            "valid to this second",
            plain(good().valid(NOW_SECONDS - 1, NOW_SECONDS)),
        ),
        ("P-384", plain(good().key(&PKCS_ECDSA_P384_SHA384))),
        ("Ed25519", plain(good().key(&PKCS_ED25519))),
        ("RSA", plain(good().key(&PKCS_RSA_SHA256))),
        ("an intermediate", plain(ca.intermediate().leaf(PEER))),
        ("two intermediates", plain(ca.intermediate().intermediate().leaf(PEER))),
        (
            "a path length that suffices",
            plain(
                ca.intermediate_with("spiffe://mesh.test", |s| s.path_length = Some(0))
                    .leaf(PEER),
            ),
        ),
        (
            "an intermediate that is not SPIFFE's",
            plain(ca.intermediate_with("https://mesh.test/ca", |_| {}).leaf(PEER)),
        ),
        ("the root sent too", with_root),
    ];
    assert!(cases.len() >= 20, "{}", cases.len());
    let (client, server) = (good_client(&ca), good_server(&ca));
    for (name, issued) in cases {
        let copy = Issued {
            chain: issued.chain.clone(),
            key: issued.key.clone_key(),
        };
        let (outcome, ..) = handshake(&client, &stranger_server(issued));
        assert!(outcome.client.is_ok(), "server with {name}: {outcome:?}");
        let (outcome, ..) = handshake(&stranger_client(copy, &ca.bundle()), &server);
        assert!(outcome.server.is_ok(), "client with {name}: {outcome:?}");
    }
}
