//! What the state directory signs is believed, and each way of not being believed has its rule's name.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::TrustDomain;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider as _};

use super::*;
use crate::{Enrolment, MAX_LEAF_LIFETIME};

struct Made {
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    now: UnixTime,
    _state: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let clock = Arc::new(DefaultTimeProvider);
        let enrolment = Enrolment::open(&state.path().join("state"), None, None, clock).unwrap();
        let issued = enrolment.issue("shop", "pay", Duration::from_secs(3600)).unwrap();
        assert_eq!(issued.id.as_str(), "spiffe://cluster.local/ns/shop/sa/pay");
        assert!(issued.key_pem.contains("PRIVATE KEY"));
        let log = std::fs::read_to_string(state.path().join("state/audit.log")).unwrap();
        assert!(log.contains(&issued.serial) && log.contains("state directory"), "{log}");
        Self {
            chain: read_pem(issued.certificate_pem.as_bytes()).unwrap(),
            roots: read_pem(issued.roots_pem.as_bytes()).unwrap(),
            now: DefaultTimeProvider.current_time().unwrap(),
            _state: state,
        }
    }

    fn bundle(&self, domain: &str) -> TrustBundle {
        TrustBundle::new(TrustDomain::parse(domain).unwrap(), self.roots.clone()).unwrap()
    }
}

fn rule(judged: Result<Believed, (JudgedBy, Refusal)>) -> (JudgedBy, &'static str) {
    let (by, refusal) = judged.unwrap_err();
    (by, refusal.as_str())
}

#[test]
fn what_the_state_directory_signs_is_believed_and_every_rule_has_its_name() {
    let made = Made::new();
    let (chain, own, now) = (&made.chain[..], made.bundle("cluster.local"), made.now);
    let believed = verify(chain, &own, None, now).unwrap();
    assert_eq!(believed.id.as_str(), "spiffe://cluster.local/ns/shop/sa/pay");
    let left = believed.not_after.as_secs() - now.as_secs();
    assert!((3590..=3600).contains(&left), "{left}");
    assert!(verify(chain, &own, Some("spiffe://cluster.local/ns/shop/sa/pay"), now).is_ok());

    let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let other = Made::new();
    let twice: Vec<_> = (0..5).map(|_| made.chain[0].clone()).collect();
    for (judged, expected) in [
        (
            verify(chain, &own, Some("spiffe://cluster.local/ns/shop/sa/web"), now),
            (JudgedBy::Client, "wrong_identity"),
        ),
        (
            verify(chain, &other.bundle("cluster.local"), None, now),
            (JudgedBy::Server, "unknown_issuer"),
        ),
        (
            verify(chain, &made.bundle("other.example"), None, now),
            (JudgedBy::Server, "foreign_trust_domain"),
        ),
        (
            verify(chain, &own, None, at(now.as_secs() + 7200)),
            (JudgedBy::Server, "expired"),
        ),
        (
            verify(chain, &own, None, at(now.as_secs() - 7200)),
            (JudgedBy::Server, "not_yet_valid"),
        ),
        (verify(&made.roots, &own, None, now), (JudgedBy::Server, "root_path")),
        (verify(&twice, &own, None, now), (JudgedBy::Server, "chain_too_long")),
        (verify(&[], &own, None, now), (JudgedBy::Server, "no_certificate")),
    ] {
        assert_eq!(rule(judged), expected);
    }
}

#[test]
fn a_life_that_no_certificate_has_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let clock = Arc::new(DefaultTimeProvider);
    let enrolment = Enrolment::open(&state.path().join("state"), None, None, clock).unwrap();
    for seconds in [1, MAX_LEAF_LIFETIME.as_secs() + 1] {
        let refused = enrolment
            .issue("shop", "pay", Duration::from_secs(seconds))
            .unwrap_err();
        assert!(refused.to_string().contains("lives between"), "{refused}");
    }
    assert!(enrolment.issue("shop/x", "pay", Duration::ZERO).unwrap_err().is_name());
}

#[test]
fn what_a_certificate_says_is_shown() {
    let made = Made::new();
    let leaf = CertificateView::read(&made.chain[0]).unwrap();
    assert_eq!(leaf.names, ["URI:spiffe://cluster.local/ns/shop/sa/pay"]);
    assert_eq!((leaf.key.as_str(), leaf.is_ca), ("EC 256", false));
    assert_eq!(leaf.key_usage, ["critical", "digitalSignature"]);
    assert_eq!(leaf.extended_key_usage, ["serverAuth", "clientAuth"]);
    let root = CertificateView::read(&made.roots[0]).unwrap();
    assert!(root.is_ca && root.key_usage.contains(&"keyCertSign"), "{root}");
    assert!(CertificateView::read(&CertificateDer::from(vec![1, 2, 3])).is_none());
}

#[test]
fn what_is_no_pem_says_so() {
    for (text, why) in [
        ("", UnreadablePem::Empty),
        (
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            UnreadablePem::Broken,
        ),
        (&"x".repeat(MAX_PEM_BYTES + 1), UnreadablePem::TooLarge),
    ] {
        assert_eq!(read_pem(text.as_bytes()), Err(why));
    }
}
