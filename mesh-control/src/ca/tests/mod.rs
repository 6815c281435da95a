//! The CA's contract, asked through the service as a caller would, and its files.

mod contract;
mod denied;
mod rotation;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain, verify};
use mesh_core::report::Tally;
use mesh_xds::server::{Line, Peer, Shown};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PKCS_RSA_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use tonic::{Code, Request, Status};

use super::common::BACKDATED;
use super::issue::{Authority, DEFAULT_LEAF_LIFETIME};
use super::proto::{CreateCertificateRequest, CreateCertificateResponse};
use super::service::CertificateService;
use super::{CaError, Lifetime};

const NOW: u64 = 1_800_000_000;
const CHECKOUT: &str = "spiffe://cluster.local/ns/default/sa/checkout";

#[derive(Debug)]
struct Fixed(u64);

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// A clock that a test sets.
#[derive(Debug)]
struct Settable(AtomicU64);

impl TimeProvider for Settable {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.load(Ordering::Relaxed),
        )))
    }
}

fn open(state: Option<&Path>, now: u64) -> Result<Arc<Authority>, CaError> {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    Authority::open(state, domain, Arc::new(Fixed(now)), DEFAULT_LEAF_LIFETIME).map(Arc::new)
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn csr(key: &KeyPair, names: &[&str]) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names
        .iter()
        .map(|name| SanType::URI((*name).try_into().unwrap()))
        .collect();
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A service, and who calls it.
struct Bench {
    authority: Arc<Authority>,
    service: CertificateService,
    tally: Tally,
}

impl Bench {
    fn new(authority: Arc<Authority>) -> Self {
        let tally = Tally::default();
        let service = CertificateService::new(Arc::clone(&authority), tally.clone());
        Self {
            authority,
            service,
            tally,
        }
    }

    fn token(&self, lifetime: Lifetime) -> String {
        self.authority
            .issue_token(&id(CHECKOUT), lifetime)
            .unwrap()
            .expose()
            .to_owned()
    }

    fn ask(
        &self,
        csr: &str,
        token: Option<&str>,
        certificate: Option<&str>,
    ) -> Result<CreateCertificateResponse, Status> {
        self.ask_for(csr, 0, token, certificate)
    }

    fn ask_for(
        &self,
        csr: &str,
        seconds: i64,
        token: Option<&str>,
        certificate: Option<&str>,
    ) -> Result<CreateCertificateResponse, Status> {
        let mut request = Request::new(CreateCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: seconds,
        });
        if let Some(token) = token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request.extensions_mut().insert(Line::from(Peer {
            identity: certificate.map(id),
            certificate: certificate.map(|_| Shown {
                not_before: NOW - BACKDATED.as_secs(),
                sha256: [0; 32],
            }),
            address: Some(SocketAddr::from(([192, 0, 2, 1], 1))),
        }));
        settled(self.service.create(&request))
    }
}

/// What a future comes to that waits for nothing: no test here but one has a hook that does.
fn settled<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits for something"),
    }
}

fn bench() -> Bench {
    Bench::new(open(None, NOW).unwrap())
}

#[track_caller]
fn refused(answer: Result<CreateCertificateResponse, Status>, code: Code) {
    assert_eq!(answer.unwrap_err().code(), code);
}

#[test]
fn a_leaf_follows_the_profile() {
    let bench = bench();
    let token = bench.token(Lifetime::default());
    let chain = bench
        .ask(&csr(&key(), &[CHECKOUT]), Some(&token), None)
        .unwrap()
        .cert_chain;
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], bench.authority.root_pem());
    let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    // The rules of the verifier that every peer uses.
    assert_eq!(verify::leaf_id(&der).unwrap().as_str(), CHECKOUT);
    let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1);
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let oids: Vec<String> = leaf
        .extensions()
        .iter()
        .map(|extension| extension.oid.to_id_string())
        .collect();
    assert!(
        oids.contains(&"2.5.29.14".into()) && oids.contains(&"2.5.29.35".into()),
        "{oids:?}"
    );
    let validity = leaf.validity();
    assert_eq!(validity.not_before.timestamp() as u64, NOW - BACKDATED.as_secs());
    assert_eq!(
        validity.not_after.timestamp() as u64,
        NOW + DEFAULT_LEAF_LIFETIME.as_secs()
    );
    assert!(leaf.raw_serial().len() >= 12);
}

#[test]
fn the_root_is_a_signer_of_its_trust_domain_without_name_constraints() {
    let authority = open(None, NOW).unwrap();
    let der = CertificateDer::from_pem_slice(authority.root_pem().as_bytes()).unwrap();
    let (_, root) = x509_parser::parse_x509_certificate(&der).unwrap();
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = root.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert!(!usage.value.digital_signature());
    assert!(root.name_constraints().unwrap().is_none());
    let names = root.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        format!("{:?}", names.value.general_names),
        "[URI(\"spiffe://cluster.local\")]"
    );
}

#[test]
fn the_key_must_be_proven_and_of_a_good_type() {
    let bench = bench();
    let token = bench.token(Lifetime::Reusable(Duration::from_secs(60)));
    let ask = |csr: &str| bench.ask(csr, Some(&token), None);
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        ask(&csr(&KeyPair::generate_for(algorithm).unwrap(), &[])).unwrap();
    }
    refused(
        ask(&csr(&KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), &[])),
        Code::InvalidArgument,
    );
    refused(ask(""), Code::InvalidArgument);
    refused(ask(&"A".repeat(9000)), Code::InvalidArgument);
    // The key of another: the last character of a signature is changed.
    let pem = csr(&key(), &[]);
    let body = pem.find("\n-----END").unwrap();
    let at = pem[..body].trim_end_matches('=').len() - 6;
    let other = if &pem[at..=at] == "A" { "B" } else { "A" };
    refused(
        ask(&format!("{}{other}{}", &pem[..at], &pem[at + 1..])),
        Code::InvalidArgument,
    );
}

#[test]
fn another_name_is_refused_and_not_corrected() {
    let bench = bench();
    let other = "spiffe://cluster.local/ns/default/sa/payment";
    for names in [&[other][..], &[CHECKOUT, other], &["spiffe://cluster.local"]] {
        let token = bench.token(Lifetime::default());
        refused(
            bench.ask(&csr(&key(), names), Some(&token), None),
            Code::InvalidArgument,
        );
        // The mistake did not cost the token.
        bench.ask(&csr(&key(), &[]), Some(&token), None).unwrap();
    }
}

#[test]
fn lifetimes_are_bounded_by_the_maximum_and_the_root() {
    let bench = bench();
    let ask = |seconds| {
        let token = bench.token(Lifetime::default());
        bench.ask_for(&csr(&key(), &[]), seconds, Some(&token), None)
    };
    ask(60).unwrap();
    refused(ask(59), Code::InvalidArgument);
    refused(ask(-1), Code::InvalidArgument);
    refused(ask(24 * 3600 + 1), Code::InvalidArgument);
    let state = tempfile::tempdir().unwrap();
    open(Some(state.path()), NOW).unwrap();
    let end = NOW + 10 * 365 * 24 * 3600;
    let old = open(Some(state.path()), end - 100).unwrap();
    let issued = old.sign(&id(CHECKOUT), &key(), Duration::ZERO).unwrap();
    assert_eq!(issued.not_after, end);
    assert!(open(Some(state.path()), end + 1).is_err());
}

#[test]
fn tokens() {
    let bench = bench();
    let csr = csr(&key(), &[]);
    let once = bench.token(Lifetime::default());
    bench.ask(&csr, Some(&once), None).unwrap();
    refused(bench.ask(&csr, Some(&once), None), Code::Unauthenticated);
    let (id, _) = once.split_once('.').unwrap();
    let fresh = bench.token(Lifetime::default());
    let (fresh_id, _) = fresh.split_once('.').unwrap();
    let forged = format!("{fresh_id}.{}", "0".repeat(32));
    for bad in [
        &forged,
        "",
        "x",
        "../../root.pem",
        &format!("{id}.."),
        &fresh.to_uppercase(),
    ] {
        refused(bench.ask(&csr, Some(bad), None), Code::Unauthenticated);
    }
    refused(bench.ask(&csr, None, None), Code::Unauthenticated);
    bench.ask(&csr, Some(&fresh), None).unwrap();
    assert_eq!(bench.tally.get("certificate_issued", "join_token"), 2);
}

#[test]
fn guessing_is_slowed_down() {
    let bench = bench();
    let csr = csr(&key(), &[]);
    let codes: Vec<Code> = (0..12)
        .map(|_| bench.ask(&csr, Some("guess"), None).unwrap_err().code())
        .collect();
    assert_eq!(codes[9], Code::Unauthenticated);
    assert_eq!(codes[10], Code::ResourceExhausted);
}

#[test]
fn failures_from_an_address_shut_out_nobody_who_proves_itself() {
    let bench = bench();
    let csr = csr(&key(), &[CHECKOUT]);
    let token = bench.token(Lifetime::default());
    // More than all sources together may ask for.
    for _ in 0..7_000 {
        bench.ask(&csr, Some("guess"), None).unwrap_err();
    }
    refused(bench.ask(&csr, None, None), Code::ResourceExhausted);
    bench.ask(&csr, None, Some(CHECKOUT)).unwrap();
    bench.ask(&csr, Some(&token), None).unwrap();
    refused(bench.ask(&csr, Some(&token), None), Code::ResourceExhausted);
}

#[test]
fn an_error_of_ours_does_not_cost_the_token() {
    let state = tempfile::tempdir().unwrap();
    let clock = Arc::new(Settable(AtomicU64::new(NOW)));
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
    let bench = Bench::new(Arc::new(
        Authority::open(Some(state.path()), domain, time, DEFAULT_LEAF_LIFETIME).unwrap(),
    ));
    let csr = csr(&key(), &[]);
    // The root has ended, and nothing can be signed; the token has not.
    let end = NOW + 10 * 365 * 24 * 3600;
    clock.0.store(end - 60, Ordering::Relaxed);
    let token = bench.token(Lifetime::default());
    clock.0.store(end + 1, Ordering::Relaxed);
    refused(bench.ask(&csr, Some(&token), None), Code::Unavailable);
    clock.0.store(end - 1, Ordering::Relaxed);
    bench.ask(&csr, Some(&token), None).unwrap();
}

#[test]
fn renewal_is_for_the_same_name_only() {
    let bench = bench();
    bench.ask(&csr(&key(), &[CHECKOUT]), None, Some(CHECKOUT)).unwrap();
    let other = csr(&key(), &["spiffe://cluster.local/ns/default/sa/payment"]);
    refused(bench.ask(&other, None, Some(CHECKOUT)), Code::InvalidArgument);
    let foreign = bench.ask(
        &csr(&key(), &[]),
        None,
        Some("spiffe://elsewhere/ns/default/sa/checkout"),
    );
    refused(foreign, Code::PermissionDenied);
    assert_eq!(bench.tally.get("certificate_issued", "certificate"), 1);
}

#[test]
fn a_token_of_another_process_works_once_until_it_expires() {
    let state = tempfile::tempdir().unwrap();
    let running = Bench::new(open(Some(state.path()), NOW).unwrap());
    let beside = open(Some(state.path()), NOW).unwrap();
    assert_eq!(beside.root_pem(), running.authority.root_pem());
    let issue = |lifetime| beside.issue_token(&id(CHECKOUT), lifetime).unwrap().expose().to_owned();
    let token = issue(Lifetime::default());
    let csr = csr(&key(), &[]);
    running.ask(&csr, Some(&token), None).unwrap();
    refused(running.ask(&csr, Some(&token), None), Code::Unauthenticated);
    let token = issue(Lifetime::SingleUse(Duration::from_secs(7200)));
    let later = Bench::new(open(Some(state.path()), NOW + 601).unwrap());
    refused(later.ask(&csr, Some(&token), None), Code::Unauthenticated);
    // Making one sweeps out the expired.
    later.token(Lifetime::default());
    assert_eq!(std::fs::read_dir(state.path().join("tokens")).unwrap().count(), 1);
    let everything = walk(state.path());
    let (_, secret) = token.split_once('.').unwrap();
    assert!(
        everything
            .iter()
            .all(|bytes| !bytes.windows(secret.len()).any(|part| part == secret.as_bytes()))
    );
}

fn walk(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = |path: std::path::PathBuf| {
        if path.is_dir() {
            walk(&path)
        } else {
            vec![std::fs::read(path).unwrap()]
        }
    };
    entries.flat_map(files).collect()
}

#[test]
fn of_many_that_use_one_token_at_once_one_succeeds() {
    let state = tempfile::tempdir().unwrap();
    let bench = Bench::new(open(Some(state.path()), NOW).unwrap());
    let token = bench.token(Lifetime::default());
    let csr = csr(&key(), &[]);
    let ask = || bench.ask(&csr, Some(&token), None).is_ok();
    let won = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        callers
            .into_iter()
            .filter_map(|caller| caller.join().ok())
            .filter(|won| *won)
            .count()
    });
    assert_eq!(won, 1);
}

#[cfg(unix)]
#[test]
fn secrets_on_disk_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    open(Some(state.path()), NOW).unwrap();
    let path = state.path().join("root.pem");
    let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    mode(0o640);
    assert!(open(Some(state.path()), NOW).unwrap_err().is_exposed());
    mode(0o600);
    open(Some(state.path()), NOW).unwrap();
    std::fs::rename(&path, state.path().join("aside")).unwrap();
    std::os::unix::fs::symlink("aside", &path).unwrap();
    assert!(open(Some(state.path()), NOW).unwrap_err().is_exposed());
    // Nor may others put other files in their places.
    std::fs::remove_file(&path).unwrap();
    open(Some(state.path()), NOW).unwrap();
    for folder in [
        state.path().to_owned(),
        state.path().join("tokens"),
        state.path().join("denied"),
    ] {
        let mode = |mode| std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
        for open_to_others in [0o777, 0o720, 0o702] {
            mode(open_to_others);
            assert!(
                open(Some(state.path()), NOW).unwrap_err().is_exposed(),
                "{folder:?} {open_to_others:o}"
            );
        }
        mode(0o755);
        open(Some(state.path()), NOW).unwrap();
    }
}

#[test]
fn a_root_of_another_trust_domain_or_with_another_key_is_refused() {
    let state = tempfile::tempdir().unwrap();
    open(Some(state.path()), NOW).unwrap();
    let other = TrustDomain::parse("example.org").unwrap();
    let error = Authority::open(Some(state.path()), other, Arc::new(Fixed(NOW)), DEFAULT_LEAF_LIFETIME).unwrap_err();
    assert!(error.to_string().contains("cluster.local"), "{error}");
    let path = state.path().join("root.pem");
    let text = std::fs::read_to_string(&path).unwrap();
    let certificate = &text[text.find("-----BEGIN CERTIFICATE").unwrap()..];
    std::fs::write(&path, format!("{}{certificate}", key().serialize_pem())).unwrap();
    assert!(
        open(Some(state.path()), NOW)
            .unwrap_err()
            .to_string()
            .contains("not the certificate's")
    );
}

#[test]
fn nothing_prints_a_secret() {
    let bench = bench();
    let token = bench.authority.issue_token(&id(CHECKOUT), Lifetime::default()).unwrap();
    assert_eq!(format!("{token:?}"), "JoinToken(..)");
    let shown = format!("{:?} {:?}", bench.authority, bench.service);
    assert!(!shown.contains("PRIVATE") && !shown.contains("secret"), "{shown}");
}
