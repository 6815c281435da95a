//! Other trust domains by their bundles in files: each judged by its own roots, in both directions, as the files change.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_core::identity::verify::Refusal;
use mesh_core::identity::{Identity, TrustDomain};
use mesh_core::testing::TestCa;

use super::authority::{Authority, Workload};
use super::clocks::called;

const PARTNER: &str = "spiffe://partner.test/ns/a/sa/b";
/// More than the files are read again after.
const SOON: Duration = Duration::from_secs(61);

/// A SPIFFE bundle; with a key of another use, which says nothing of certificates.
fn bundle(sequence: u64, cas: &[&TestCa]) -> String {
    let key = |ca: &&TestCa| serde_json::json!({"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(ca.root())]});
    let mut keys: Vec<_> = cas.iter().map(key).collect();
    keys.push(serde_json::json!({"kty": "EC", "use": "jwt-svid", "kid": "1"}));
    serde_json::json!({"spiffe_sequence": sequence, "spiffe_refresh_hint": 60, "keys": keys}).to_string()
}

fn pem(ca: &TestCa) -> String {
    let text = STANDARD.encode(ca.root());
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn files(path: &Path) -> BTreeMap<TrustDomain, std::path::PathBuf> {
    // The file for the own domain is there to show that it says nothing.
    [(domain("partner.test"), path.into()), (domain("d"), path.into())].into()
}

/// The newest identity, after the files were read again.
async fn settled(workload: &Workload) -> Identity {
    tokio::time::sleep(SOON).await;
    workload.standing().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_domain_is_judged_by_its_own_roots_as_its_bundle_changes() {
    let (first, second) = (TestCa::new("partner.test"), TestCa::new("partner.test"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("partner.json");
    let write = |text: String| std::fs::write(&path, text).unwrap();
    write(bundle(7, &[&first]));
    let authority = Authority::new(86_400);
    let workload = Workload::start_federated(&authority, files(&path));
    let clock = &workload.clock;

    // A partner who trusts us, by our root and under our name.
    let us = settled(&workload).await;
    let ours = us.bundle().roots(&domain("d")).to_vec();
    assert_eq!(ours.len(), 1, "the file for the own domain counts for nothing");
    let partner = |ca: &TestCa, id: &str| {
        let bundle = ca.bundle().with_domain(domain("d"), ours.clone()).unwrap();
        Identity::new(ca.svid(id), bundle)
    };
    let them = partner(&first, PARTNER);
    called(&us, &them, clock).await.unwrap();
    called(&them, &us, clock).await.unwrap();
    // A root of theirs says nothing of us, nor of a third domain.
    let forged = partner(&first, "spiffe://d/ns/shop/sa/checkout");
    assert_eq!(called(&us, &forged, clock).await, Err(Refusal::UnknownIssuer));
    let third = partner(&first, "spiffe://third.test/a");
    let unknown = Refusal::ForeignTrustDomain(domain("third.test"));
    assert_eq!(called(&us, &third, clock).await, Err(unknown));

    // Three phases of their rotation, by the bundle alone.
    let next = partner(&second, PARTNER);
    assert_eq!(called(&us, &next, clock).await, Err(Refusal::UnknownIssuer));
    write(bundle(8, &[&first, &second]));
    let both = settled(&workload).await;
    assert!(!both.is_renewal_of(&us), "connections are judged anew");
    called(&both, &them, clock).await.unwrap();
    called(&both, &next, clock).await.unwrap();
    write(bundle(9, &[&second]));
    let us = settled(&workload).await;
    assert_eq!(called(&us, &them, clock).await, Err(Refusal::UnknownIssuer));
    called(&us, &next, clock).await.unwrap();

    // What goes back, or cannot be read, changes nothing and is counted.
    for (failures, text) in [(1, bundle(8, &[&first])), (2, "{".into()), (3, String::new())] {
        write(text);
        let still = settled(&workload).await;
        assert_eq!(still.generation(), us.generation());
        assert!(workload.counted("bundle_failed") >= failures);
    }
    // PEM tells no sequence, and a bundle of nothing trusts nothing.
    write(pem(&first));
    called(&settled(&workload).await, &them, clock).await.unwrap();
    write(bundle(10, &[]));
    let none = Refusal::NoRoots(domain("partner.test"));
    assert_eq!(called(&settled(&workload).await, &them, clock).await, Err(none));
    // Renewal keeps what is known of others.
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    let renewed = workload.standing().unwrap();
    assert_eq!(renewed.bundle().domains().count(), 2);
}
