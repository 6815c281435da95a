//! Renewal times and what is made of a CA's answers.

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
fn renewal_is_at_half_of_what_is_left_give_or_take_a_tenth() {
    use mesh_core::Entropy;
    use rustls::pki_types::UnixTime;
    let entropy = Entropy::seeded(3);
    let identity = TestCa::new("d").identity(ID);
    let end = identity.svid().not_after().as_secs();
    for left in [1000, 10_000] {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(end - left));
        for _ in 0..200 {
            let wait = super::join::renewal(&identity, now, &entropy).as_secs() - now.as_secs();
            assert!((left * 45 / 100..=left * 55 / 100).contains(&wait), "{wait} of {left}");
        }
    }
    let now = UnixTime::since_unix_epoch(Duration::from_secs(end + 5));
    assert_eq!(
        super::join::renewal(&identity, now, &entropy).as_secs(),
        now.as_secs() + 1
    );
}
