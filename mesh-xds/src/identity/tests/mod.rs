//! Renewal times and what is made of a CA's answers.

mod authority;
mod clocks;
mod federation;

use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::testing::TestCa;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, SanType};

use super::issue::{Applicant, IssueError};

const ID: &str = "spiffe://d/ns/n/sa/a";

/// Signs what it is asked to.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Signer {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![SanType::URI("spiffe://d".try_into().unwrap())];
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    fn sign(&self, csr: &str) -> Vec<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        vec![request.signed_by(&self.issuer).unwrap().pem(), self.root.clone()]
    }
}

#[test]
fn a_request_names_the_identity_and_nothing_else() {
    let applicant = Applicant::new(&SpiffeId::parse(ID).unwrap()).unwrap();
    let request = CertificateSigningRequestParams::from_pem(applicant.csr()).unwrap();
    assert_eq!(request.params.subject_alt_names, [SanType::URI(ID.try_into().unwrap())]);
    assert_eq!(request.params.distinguished_name.iter().count(), 0);
}

#[test]
fn answers_of_a_ca() {
    let id = SpiffeId::parse(ID).unwrap();
    let applicant = Applicant::new(&id).unwrap();
    let signer = Signer::new();
    let answer = signer.sign(applicant.csr());
    let (identity, roots) = applicant.accept(&id, &answer, &[]).unwrap();
    assert_eq!((identity.id(), roots.len()), (&id, 1));
    // The root before it is trusted for one term more.
    let old = TestCa::new("d").root();
    let (identity, roots) = applicant.accept(&id, &answer, std::slice::from_ref(&old)).unwrap();
    assert_eq!((identity.bundle().roots(id.trust_domain()).len(), roots.len()), (2, 1));

    let check = |answer: &[String]| applicant.accept(&id, answer, &[]).err().unwrap();
    assert!(matches!(check(&[]), IssueError::Short(0)));
    assert!(matches!(check(&answer[..1]), IssueError::Short(1)));
    assert!(matches!(
        check(&["not PEM".into(), answer[1].clone()]),
        IssueError::Pem(_)
    ));
    // The certificate of another key, and of another name.
    let other = Applicant::new(&id).unwrap();
    assert!(matches!(check(&signer.sign(other.csr())), IssueError::Svid(_)));
    let stranger = SpiffeId::parse("spiffe://d/ns/n/sa/b").unwrap();
    let error = applicant.accept(&stranger, &answer, &[]).err().unwrap();
    assert!(matches!(error, IssueError::Another(_)));
}

#[test]
fn renewal_is_at_half_of_a_life_give_or_take_a_tenth() {
    use mesh_core::Entropy;
    use rustls::pki_types::UnixTime;
    let entropy = Entropy::seeded(3);
    let identity = TestCa::new("d").identity(ID);
    let (begin, end) = (
        identity.svid().not_before().as_secs(),
        identity.svid().not_after().as_secs(),
    );
    let renewal = |now: u64| {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        super::term::renewal(&identity, now, &entropy)
    };
    for left in [1000, 10_000] {
        for _ in 0..200 {
            let wait = renewal(end - left).unwrap().as_secs();
            assert!((left * 45 / 100..=left * 55 / 100).contains(&wait), "{wait} of {left}");
        }
    }
    assert_eq!(renewal(end - 1), Some(Duration::from_secs(1)));
    // Ended by this clock, and not begun by this clock: never longer than half of what it lives, and a tenth.
    assert_eq!((renewal(end), renewal(end + 5)), (None, None));
    let longest = Duration::from_secs((end - begin) * 55 / 100 + 1);
    assert!(renewal(begin - 86_400 * 365 * 40).unwrap() <= longest);
}

#[test]
fn failures_are_tried_again_within_a_twelfth_of_a_life_and_once_a_second_at_most() {
    use super::term::{Life, retry};
    use mesh_core::Entropy;
    use rustls::pki_types::UnixTime;
    let entropy = Entropy::seeded(3);
    let identity = TestCa::new("d").identity(ID);
    let end = identity.svid().not_after().as_secs();
    let life = |seconds: u64| {
        let begin = UnixTime::since_unix_epoch(Duration::from_secs(end - seconds));
        Some(Life::new(begin, &identity))
    };
    let secs = Duration::from_secs;
    for _ in 0..200 {
        let pause = retry(secs(100), life(60), &entropy);
        assert!((secs(4)..=secs(6)).contains(&pause), "{pause:?}");
        assert_eq!(retry(secs(100), life(2), &entropy), secs(1));
    }
    assert_eq!(retry(secs(100), life(86_400), &entropy), secs(100));
    assert_eq!(retry(secs(100), None, &entropy), secs(100));
    assert_eq!(retry(Duration::from_millis(10), None, &entropy), secs(1));
}

/// A map of these domains, in the shape of gRFC A87.
fn bundle_map(domains: &[(&str, &[&TestCa])]) -> String {
    use base64::Engine;
    let key = |ca: &&TestCa| {
        let der = base64::engine::general_purpose::STANDARD.encode(ca.root());
        serde_json::json!({"kty": "EC", "use": "x509-svid", "x5c": [der]})
    };
    let bundle = |cas: &[&TestCa]| {
        let mut keys: Vec<_> = cas.iter().map(key).collect();
        keys.push(serde_json::json!({"kty": "EC", "use": "jwt-svid", "kid": "1"}));
        keys.push(serde_json::json!({"kty": "EC", "x5c": ["not for us", "either"]}));
        serde_json::json!({"spiffe_sequence": 7, "spiffe_refresh_hint": 60, "keys": keys})
    };
    let domains: serde_json::Map<_, _> = domains
        .iter()
        .map(|(name, cas)| ((*name).to_owned(), bundle(cas)))
        .collect();
    serde_json::json!({ "trust_domains": domains }).to_string()
}

#[test]
fn spiffe_bundles_of_several_domains() {
    let (one, two, old) = (TestCa::new("d"), TestCa::new("e"), TestCa::new("d"));
    let map = super::bundle_map::parse(bundle_map(&[("d", &[&one, &old]), ("e", &[&two]), ("f", &[])]).as_bytes());
    let map = map.unwrap();
    let counts: Vec<_> = map
        .iter()
        .map(|(domain, roots)| (domain.as_str(), roots.len()))
        .collect();
    assert_eq!(counts, [("d", 2), ("e", 1), ("f", 0)]);
    assert!(map.values().flatten().any(|root| *root == two.root()));
    assert!(
        super::bundle_map::parse(br#"{"trust_domains": {}}"#)
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        super::bundle_map::parse(br#"{"trust_domains": {"d": {}}}"#)
            .unwrap()
            .len(),
        1
    );

    let key = |key: &str| format!(r#"{{"trust_domains": {{"d": {{"keys": [{{"use": "jwt-svid"}}, {key}]}}}}}}"#);
    let refused = [
        ("{}".to_owned(), "missing field `trust_domains`"),
        ("not JSON".to_owned(), "expected ident"),
        (r#"{"trust_domains": {"D": {}}}"#.to_owned(), "trust_domains.D: "),
        (
            r#"{"trust_domains": {"d": {"keys": 1}}}"#.to_owned(),
            "trust_domains.d.keys: invalid type",
        ),
        (
            key(r#"{"use": "x509-svid"}"#),
            "trust_domains.d.keys[1].x5c: there are 0 certificates",
        ),
        (
            key(r#"{"use": "x509-svid", "x5c": ["", ""]}"#),
            "trust_domains.d.keys[1].x5c: there are 2 certificates",
        ),
        (
            key(r#"{"use": "x509-svid", "x5c": ["-"]}"#),
            "keys[1].x5c: the certificate is not base64",
        ),
    ];
    for (json, expected) in refused {
        let error = super::bundle_map::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
}
