//! A stolen key and its certificate: told of, and ended.

use mesh_core::identity::verify::Leaf;

use super::*;
use crate::ca::issue::shown;

const PAYMENT: &str = "spiffe://cluster.local/ns/default/sa/payment";

/// A service over a clock that a test sets, in a folder or in memory.
fn bench(state: Option<&Path>, clock: &Arc<Settable>) -> Bench {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let clock: Arc<dyn TimeProvider> = Arc::clone(clock) as _;
    let authority = Authority::open(state, domain, clock, DEFAULT_LEAF_LIFETIME).unwrap();
    Bench::new(Arc::new(authority))
}

/// Renews the certificate that was answered, with a new key, as whoever holds a copy of it can.
fn renew(bench: &Bench, answer: &CreateCertificateResponse) -> Result<CreateCertificateResponse, Status> {
    renew_with(bench, answer, &key())
}

fn renew_with(
    bench: &Bench,
    answer: &CreateCertificateResponse,
    key: &KeyPair,
) -> Result<CreateCertificateResponse, Status> {
    let der = CertificateDer::from_pem_slice(answer.cert_chain[0].as_bytes()).unwrap();
    let leaf = Leaf::read(&der).unwrap();
    let mut request = Request::new(CreateCertificateRequest {
        csr: csr(key, &[leaf.id().as_str()]),
        validity_duration: 0,
    });
    request.extensions_mut().insert(Line::from(Peer {
        identity: Some(leaf.id().clone()),
        certificate: Some(shown(&leaf, &der)),
        address: Some(SocketAddr::from(([192, 0, 2, 1], 1))),
    }));
    settled(bench.service.create(&request))
}

#[test]
fn id_a_stolen_certificate_renews_no_more_once_its_owner_is_denied() {
    let folder = tempfile::tempdir().unwrap();
    for state in [None, Some(folder.path())] {
        let clock = Arc::new(Settable(AtomicU64::new(NOW)));
        let at = |now: u64| clock.0.store(now, Ordering::Relaxed);
        let bench = bench(state, &clock);
        let lasting = Lifetime::Reusable(Duration::from_secs(3600));
        let token = bench.token(lasting);
        let stolen = bench.ask(&csr(&key(), &[CHECKOUT]), Some(&token), None).unwrap();
        let other = bench.authority.issue_token(&id(PAYMENT), lasting).unwrap();
        let other = bench.ask(&csr(&key(), &[PAYMENT]), Some(other.expose()), None).unwrap();
        at(NOW + 10);
        let copy = renew(&bench, &stolen).unwrap();
        at(NOW + 20);
        // Another process, beside the one that runs, where there is a folder that both know.
        let denied = match state {
            Some(folder) => open(Some(folder), NOW + 20).unwrap().deny(&id(CHECKOUT)),
            None => bench.authority.deny(&id(CHECKOUT)),
        };
        assert_eq!(denied.unwrap(), 1);
        for known in [&stolen, &copy] {
            refused(renew(&bench, known), Code::PermissionDenied);
        }
        refused(
            bench.ask(&csr(&key(), &[CHECKOUT]), Some(&token), None),
            Code::Unauthenticated,
        );
        assert_eq!(bench.tally.get("certificate_refused", "denied"), 2);
        // Nobody else is, and the owner comes back by a new token, for good.
        renew(&bench, &other).unwrap();
        at(NOW + 21);
        let token = bench.token(lasting);
        let own = bench.ask(&csr(&key(), &[CHECKOUT]), Some(&token), None).unwrap();
        let own = renew(&bench, &own).unwrap();
        renew(&bench, &own).unwrap();
        refused(renew(&bench, &copy), Code::PermissionDenied);
    }
}

#[test]
fn id_what_says_who_is_denied_and_cannot_be_read_renews_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Settable(AtomicU64::new(NOW)));
    let bench = bench(Some(folder.path()), &clock);
    let token = bench.token(Lifetime::default());
    let own = bench.ask(&csr(&key(), &[CHECKOUT]), Some(&token), None).unwrap();
    bench.authority.deny(&id(CHECKOUT)).unwrap();
    let record = std::fs::read_dir(folder.path().join("denied")).unwrap().next().unwrap();
    std::fs::write(record.unwrap().path(), "not a record").unwrap();
    refused(renew(&bench, &own), Code::Unavailable);
}

#[test]
fn id_a_certificate_that_is_renewed_with_two_keys_is_told_of() {
    let clock = Arc::new(Settable(AtomicU64::new(NOW)));
    let bench = bench(None, &clock);
    let token = bench.token(Lifetime::default());
    let own = bench.ask(&csr(&key(), &[CHECKOUT]), Some(&token), None).unwrap();
    let told = || bench.tally.get("certificate_renewed_twice", "");
    // An answer that was lost is asked for again with the same key.
    let next = key();
    renew_with(&bench, &own, &next).unwrap();
    let newer = renew_with(&bench, &own, &next).unwrap();
    renew(&bench, &newer).unwrap();
    assert_eq!(told(), 0);
    renew(&bench, &own).unwrap();
    assert_eq!(told(), 1);
}

/// A pod that was deleted, or a copy of its certificate, renews for so long after the last token and no longer.
#[test]
fn id_a_chain_of_renewals_ends_until_a_token_is_shown_again() {
    const LIMIT: u64 = 10 * 24 * 3600;
    let folder = tempfile::tempdir().unwrap();
    for state in [None, Some(folder.path())] {
        let clock = Arc::new(Settable(AtomicU64::new(NOW)));
        let at = |now: u64| clock.0.store(now, Ordering::Relaxed);
        let opened = || {
            let domain = TrustDomain::parse("cluster.local").unwrap();
            let clock: Arc<dyn TimeProvider> = Arc::clone(&clock) as _;
            let mut authority = Authority::open(state, domain, clock, DEFAULT_LEAF_LIFETIME).unwrap();
            authority.limit_renewal(Duration::from_secs(LIMIT));
            Bench::new(Arc::new(authority))
        };
        let bench = opened();
        let lasting = Lifetime::Reusable(Duration::from_secs(100 * 24 * 3600));
        let token = bench.token(lasting);
        let mut own = bench.ask(&csr(&key(), &[CHECKOUT]), Some(&token), None).unwrap();
        for (after, ending) in [(LIMIT / 2, 0), (LIMIT / 4 * 3, 1), (LIMIT - 1, 2)] {
            at(NOW + after);
            own = renew(&bench, &own).unwrap();
            assert_eq!(bench.tally.get("certificate_renewal_ending", ""), ending);
        }
        at(NOW + LIMIT);
        refused(renew(&bench, &own), Code::Unauthenticated);
        assert_eq!(bench.tally.get("certificate_refused", "renewed_for_too_long"), 1);
        // A control plane that starts later knows it too, where there is a folder.
        let later = if state.is_some() { opened() } else { bench };
        refused(renew(&later, &own), Code::Unauthenticated);
        // By a token it begins anew, and so for whoever has the same id.
        let new = later.ask(&csr(&key(), &[CHECKOUT]), Some(&token), None).unwrap();
        at(NOW + LIMIT + LIMIT / 2);
        renew(&later, &new).unwrap();
        renew(&later, &own).unwrap();
    }
}

/// What is not there because the state directory is gone was not taken away by anybody.
#[test]
fn id_nobody_renews_while_the_folder_of_who_is_denied_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Settable(AtomicU64::new(NOW)));
    let bench = bench(Some(folder.path()), &clock);
    let token = bench.token(Lifetime::default());
    let answer = bench.ask(&csr(&key(), &[CHECKOUT]), Some(&token), None).unwrap();
    renew(&bench, &answer).unwrap();
    let (there, away) = (folder.path().join("denied"), folder.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    assert!(renew(&bench, &answer).is_err());
    std::fs::rename(away, there).unwrap();
    renew(&bench, &answer).unwrap();
}
