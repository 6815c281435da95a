//! Who is registered when, and a real workload that comes, is called, and goes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mesh_core::Link;
use mesh_xds::XdsClient;
use tokio::sync::Notify;

use super::*;
use crate::{ControlPlane, Lifetime};

const MESH: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: pay}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: pay, namespace: shop}
spec:
  metadata: {labels: {app: pay, version: v0}}
  template: {serviceAccount: payer, ports: {http: 8080}, labels: {version: v1}}
";

fn registration(address: &str) -> Registration {
    Registration {
        namespace: "shop".into(),
        group: "pay".into(),
        account: "payer".into(),
        address: address.parse().unwrap(),
    }
}

#[test]
fn who_goes_stays_for_the_grace_and_who_comes_again_stays() {
    let (begin, grace) = (Instant::now(), Duration::from_secs(10));
    let at = |seconds| begin + Duration::from_secs(seconds);
    let (a, b) = (registration("10.0.0.1"), registration("10.0.0.2"));
    let set = |all: &[&Registration]| all.iter().map(|one| (*one).clone()).collect::<BTreeSet<_>>();
    let mut registrations = Registrations::default();
    for (second, there, changed, registered, next) in [
        (0, set(&[&a, &b]), true, vec![&a, &b], None),
        (1, set(&[&a, &b]), false, vec![&a, &b], None),
        (2, set(&[&a]), false, vec![&a, &b], Some(12)),
        (5, set(&[&a]), false, vec![&a, &b], Some(12)),
        (6, set(&[&a, &b]), false, vec![&a, &b], None),
        (7, set(&[]), false, vec![&a, &b], Some(17)),
        (16, set(&[&b]), false, vec![&a, &b], Some(17)),
        (17, set(&[&b]), true, vec![&b], None),
    ] {
        assert_eq!(registrations.see(&there, at(second), grace), changed, "{second}");
        let now = registrations.registered();
        assert_eq!(now.iter().collect::<Vec<_>>(), registered, "{second}");
        assert_eq!(registrations.next(), next.map(at), "{second}");
    }
}

#[test]
fn who_was_registered_before_a_restart_has_the_grace_to_come_back() {
    let (begin, grace) = (Instant::now(), Duration::from_secs(10));
    let at = |seconds| begin + Duration::from_secs(seconds);
    let (a, b) = (registration("10.0.0.1"), registration("10.0.0.2"));
    let mut registrations = Registrations::restored(vec![a.clone(), b.clone()], begin, grace);
    assert!(!registrations.see(&BTreeSet::new(), at(1), grace));
    assert!(!registrations.see(&BTreeSet::from([a.clone()]), at(9), grace));
    assert_eq!(
        (registrations.registered(), registrations.next()),
        (vec![a.clone(), b], Some(at(10)))
    );
    assert!(registrations.see(&BTreeSet::from([a.clone()]), at(10), grace));
    assert_eq!((registrations.registered(), registrations.next()), (vec![a], None));
}

#[test]
fn what_is_written_down_is_read_again_and_what_is_none_of_it_says_nothing() {
    let state = tempfile::tempdir().unwrap();
    let (kept, registered) = Kept::open(state.path()).unwrap();
    assert_eq!(registered, []);
    let both = [registration("10.0.0.1"), registration("fd00::1")];
    kept.keep(&both);
    assert_eq!(Kept::open(state.path()).unwrap().1, both);
    crate::ca::write_file(&state.path().join("registered.json"), b"[{}]").unwrap();
    assert_eq!(Kept::open(state.path()).unwrap().1, []);
}

#[test]
fn a_workload_is_what_its_group_says_and_only_of_its_service_account() {
    let mut documents = Documents::default();
    assert_eq!(documents.read("f.yaml", MESH), []);
    let entry = registration("10.0.0.1").entry(&documents).unwrap();
    assert_eq!((&*entry.meta.name, &**entry.spec.address), ("pay-10.0.0.1", "10.0.0.1"));
    let labels: Vec<_> = entry
        .spec
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(labels, ["app=pay", "version=v1"]);
    for other in [
        Registration {
            account: "thief".into(),
            ..registration("10.0.0.1")
        },
        Registration {
            namespace: "other".into(),
            ..registration("10.0.0.1")
        },
        Registration {
            group: "other".into(),
            ..registration("10.0.0.1")
        },
    ] {
        assert!(other.entry(&documents).is_none(), "{other:?}");
    }
}

/// Each field means something, or is named.
#[test]
fn every_field_of_a_group_is_read_or_named() {
    for (from, to, said) in [
        (
            "  template",
            "  probe: {httpGet: {port: 1}}\n  template",
            "probe: known Istio field, not served",
        ),
        (
            "{serviceAccount",
            "{address: 10.0.0.1, serviceAccount",
            "a template has no address",
        ),
        (
            "{serviceAccount",
            "{network: n, serviceAccount",
            "network: known Istio field",
        ),
        (
            "{labels: {app: pay, v",
            "{annotations: {a: b}, labels: {app: pay, v",
            "",
        ),
        ("  template", "  templates: {}\n  template", "unknown field"),
        ("  template:", "  other:", "template is required"),
    ] {
        let found = Documents::default().read("f.yaml", &MESH.replacen(from, to, 1));
        match said {
            "" => assert_eq!(found, []),
            said => assert!(
                found.iter().any(|one| one.to_string().contains(said)),
                "{said}: {found:?}"
            ),
        }
    }
}

/// Waits until the caller knows so many endpoints of the service, and gives their addresses.
async fn endpoints(link: &Link, number: usize) -> Vec<String> {
    let bell = Arc::new(Notify::new());
    let ring = Arc::clone(&bell);
    let _told = link.snapshots().on_change(move || ring.notify_one());
    let found = async {
        loop {
            let snapshot = link.snapshots().load_full();
            let cluster = snapshot.cluster(&"outbound|80||pay.shop.svc.cluster.local".into());
            if let Some(Ok(cluster)) = cluster
                && cluster.endpoints.len() == number
            {
                return cluster.endpoints.iter().map(|one| one.address.to_string()).collect();
            }
            bell.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_comes_is_called_and_one_that_went_is_not() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), MESH).unwrap();
    let plane = ControlPlane::builder(folder.path()).registration_grace(Duration::from_millis(200));
    let plane = plane.start().await.unwrap();
    let caller = XdsClient::start(plane.bootstrap("shop", "web").unwrap()).unwrap();
    let link = caller.link();
    let _wanted = link.interest().watch("pay");
    let join = |account: &str, address: &str| {
        let address = Some(address.parse().unwrap());
        let bootstrap = plane
            .enrolment()
            .registering("shop", account, Lifetime::default(), ("pay", address));
        let client = XdsClient::start(bootstrap.unwrap()).unwrap();
        let link = client.link();
        // As a server asks for what it is to be.
        let wanted = link.interest().watch("pay");
        (client, link, wanted)
    };
    // Another's certificate makes nobody a member.
    let thief = join("thief", "10.9.9.9");
    let first = join("payer", "10.0.0.1");
    let _second = join("payer", "10.0.0.2");
    assert_eq!(endpoints(&link, 2).await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    drop(first);
    assert_eq!(endpoints(&link, 1).await, ["10.0.0.2:8080"]);
    drop(thief);
    plane.shutdown().await;
}

/// Neither for who was connected all the time nor for who connects before the workloads do. One that does not come back leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_takes_nobody_out_whose_stream_returns() {
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("a.yaml"), MESH).unwrap();
    let start = async |address: SocketAddr| {
        let builder = ControlPlane::builder(folder.path()).state(state.path().join("state"));
        builder.listen(address).start().await.unwrap()
    };
    let plane = start(([127, 0, 0, 1], 0).into()).await;
    let address = plane.address();
    let caller = XdsClient::start(plane.bootstrap("shop", "web").unwrap()).unwrap();
    let link = caller.link();
    let _wanted = link.interest().watch("pay");
    let join = |address: &str| {
        let address = Some(address.parse().unwrap());
        let enrolment = plane.enrolment();
        let bootstrap = enrolment.registering("shop", "payer", Lifetime::default(), ("pay", address));
        let client = XdsClient::start(bootstrap.unwrap()).unwrap();
        let wanted = client.link().interest().watch("pay");
        (client, wanted)
    };
    let _stays = join("10.0.0.1");
    let goes = join("10.0.0.2");
    let both = ["10.0.0.1:8080", "10.0.0.2:8080"];
    assert_eq!(endpoints(&link, 2).await, both);
    let lost = Arc::new(AtomicBool::new(false));
    let (seen, is_lost) = (link.clone(), Arc::clone(&lost));
    let _told = link.snapshots().on_change(move || {
        let snapshot = seen.snapshots().load_full();
        let cluster = snapshot.cluster(&"outbound|80||pay.shop.svc.cluster.local".into());
        let stays = |one: &mesh_core::config::Endpoint| one.address.to_string() == both[0];
        let is_there = matches!(cluster, Some(Ok(cluster)) if cluster.endpoints.iter().any(stays));
        is_lost.fetch_or(!is_there, Ordering::Relaxed);
    });
    plane.shutdown().await;
    drop(goes);
    let plane = start(address).await;
    let newcomer = XdsClient::start(plane.bootstrap("shop", "other").unwrap()).unwrap();
    let newcomer_link = newcomer.link();
    let _wanted_too = newcomer_link.interest().watch("pay");
    assert_eq!(endpoints(&newcomer_link, 2).await, both);
    assert_eq!(endpoints(&link, 1).await, both[..1]);
    assert!(!lost.load(Ordering::Relaxed), "it was taken out, if for a moment");
    plane.shutdown().await;
}
