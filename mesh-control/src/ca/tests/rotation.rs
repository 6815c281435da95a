//! One root after another: who can still reach whom, by which roots, and what is left in the state directory.

use std::path::Path;
use std::sync::Arc;

use mesh_core::identity::tls::{ClientAuth, pinned_client_config, server_config};
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::rotation::{Acknowledged, RotationPhase, RotationStep};
use super::*;

fn reopen(state: &Path) -> Authority {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let mut authority = Authority::open(Some(state), domain, Arc::new(Fixed(NOW)), DEFAULT_LEAF_LIFETIME).unwrap();
    authority.serve_as(["localhost".to_owned()]).unwrap();
    authority
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap()
}

/// Whether a client that knows `roots` reaches the control plane.
async fn reaches(authority: &Authority, roots: &[CertificateDer<'static>]) -> bool {
    let clock: Arc<dyn TimeProvider> = Arc::new(Fixed(NOW));
    let own = authority.own_identity().unwrap();
    let server = server_config(&own, ClientAuth::Optional, Arc::clone(&clock), &[b"h2"]).unwrap();
    let client = pinned_client_config(roots, None, clock, &[b"h2"]).unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let accepting = TlsAcceptor::from(server).accept(far);
    let name = ServerName::try_from("localhost").unwrap();
    let (accepted, connected) = tokio::join!(accepting, TlsConnector::from(client).connect(name, near));
    drop(accepted);
    connected.is_ok()
}

/// A workload's certificate, and the roots that it is told of with it.
fn joined(authority: &Arc<Authority>) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
    let bench = Bench::new(Arc::clone(authority));
    let token = bench.token(Lifetime::default());
    let chain = bench
        .ask(&csr(&key(), &[CHECKOUT]), Some(&token), None)
        .unwrap()
        .cert_chain;
    (certificates(&chain[0]).remove(0), certificates(&chain[1]))
}

fn is_signed_by(leaf: &CertificateDer<'_>, root: &CertificateDer<'_>) -> bool {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).unwrap();
    let (_, root) = x509_parser::parse_x509_certificate(root).unwrap();
    leaf.verify_signature(Some(root.public_key())).is_ok()
}

#[tokio::test]
async fn id_2_a_root_follows_another_and_each_phase_survives_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let nobody = Acknowledged::default();
    let authority = Arc::new(reopen(state.path()));
    let [a] = &certificates(&authority.root_pem())[..] else {
        panic!("one root")
    };

    authority.rotate(RotationStep::Begin, &nobody, false).unwrap();
    let [first, b] = &certificates(&authority.root_pem())[..] else {
        panic!("two roots")
    };
    assert_eq!(first, a);
    let restarted = Arc::new(reopen(state.path()));
    for authority in [&authority, &restarted] {
        let (leaf, told) = joined(authority);
        assert_eq!(told, [a.clone(), b.clone()]);
        assert!(is_signed_by(&leaf, a) && !is_signed_by(&leaf, b));
        assert!(reaches(authority, std::slice::from_ref(a)).await);
        assert!(!reaches(authority, std::slice::from_ref(b)).await, "it signs nothing");
    }

    restarted.rotate(RotationStep::Switch, &nobody, false).unwrap();
    let restarted = Arc::new(reopen(state.path()));
    let (leaf, told) = joined(&restarted);
    assert_eq!(told, [b.clone(), a.clone()]);
    assert!(is_signed_by(&leaf, b));
    for root in [a, b] {
        assert!(reaches(&restarted, std::slice::from_ref(root)).await);
    }

    // There and back again.
    restarted.rotate(RotationStep::Back, &nobody, false).unwrap();
    assert!(is_signed_by(&joined(&restarted).0, a));
    restarted.rotate(RotationStep::Switch, &nobody, false).unwrap();
    let refused = restarted.rotate(RotationStep::Finish, &nobody, false).unwrap_err();
    assert!(refused.to_string().contains("may be valid until"), "{refused}");
    assert_eq!(restarted.rotation(nobody.clone()).phase, RotationPhase::Switched);

    restarted.rotate(RotationStep::Finish, &nobody, true).unwrap();
    let restarted = Arc::new(reopen(state.path()));
    assert_eq!(joined(&restarted).1, std::slice::from_ref(b));
    // The first key is gone, and who knows its certificate alone still finds the way.
    assert!(!state.path().join("root.pem").exists());
    for root in [a, b] {
        assert!(reaches(&restarted, std::slice::from_ref(root)).await);
    }

    // The next one begins where this ended; one that is given up leaves nothing behind.
    let files = || std::fs::read_dir(state.path()).unwrap().count();
    let before = files();
    restarted.rotate(RotationStep::Begin, &nobody, false).unwrap();
    assert_eq!(files(), before + 1);
    restarted.rotate(RotationStep::Cancel, &nobody, false).unwrap();
    assert_eq!(
        (files(), joined(&Arc::new(reopen(state.path()))).1),
        (before, vec![b.clone()])
    );
    assert!(reaches(&restarted, std::slice::from_ref(a)).await);
}
