//! ID-1, ID-2: certificates and roots that are exchanged while calls are made. The files are laid out as Kubernetes mounts a secret:
//! names that point into `..data`, which points into a folder of one version and is swapped by a rename. Real files, a real control
//! plane that says who is admitted, real calls over mutual TLS from one member to two.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use examples::load::{Client, Tally};
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_control::{MIN_LEAF_LIFETIME, RotationPhase, RotationStep, rotate_root};
use mesh_core::Link;
use mesh_core::config::ExpectedPeers;
use mesh_core::identity::tls;
use mesh_core::testing::TestCa;
use mesh_xds::{Bootstrap, XdsClient};
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use serde_json::json;
use tempfile::TempDir;
use tests::{Backend, CHECKOUT, Mesh, PATIENCE, PAYMENT, admitted, listener, routes, soon, workloads};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

const TARGET: &str = "xds:///payment-service";

/// A secret as Kubernetes mounts it.
pub(crate) struct Secret {
    folder: TempDir,
    id: &'static str,
    version: usize,
}

impl Secret {
    pub(crate) fn new(id: &'static str) -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["chain.pem", "key.pem", "roots.pem"] {
            symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
        }
        Self { folder, id, version: 0 }
    }

    /// Swaps in a leaf of `signer` and the roots of `trusted`.
    pub(crate) fn swap(&mut self, signer: &TestCa, trusted: &[&TestCa]) -> Vec<u8> {
        let pem = |label: &str, der: &[u8]| {
            let text = STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        let issued = signer.leaf(self.id).issue();
        let roots: String = trusted.iter().map(|ca| pem("CERTIFICATE", &ca.root())).collect();
        self.version += 1;
        let (name, root) = (format!("..{}", self.version), self.folder.path());
        std::fs::create_dir(root.join(&name)).unwrap();
        for (file, text) in [
            ("chain.pem", pem("CERTIFICATE", &issued.chain[0])),
            ("key.pem", pem("PRIVATE KEY", issued.key.secret_der())),
            ("roots.pem", roots),
        ] {
            std::fs::write(root.join(&name).join(file), text).unwrap();
        }
        symlink(&name, root.join("..next")).unwrap();
        std::fs::rename(root.join("..next"), root.join("..data")).unwrap();
        // Who read the version before has long done so; the one before that is nobody's.
        if let Some(old) = self.version.checked_sub(2).filter(|old| *old > 0) {
            std::fs::remove_dir_all(root.join(format!("..{old}"))).unwrap();
        }
        issued.chain[0].to_vec()
    }

    pub(crate) fn bootstrap(&self, mesh: &Mesh, account: &str) -> Bootstrap {
        let at = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let plain = mesh.control().plaintext_bootstrap("default", account).unwrap();
        let mut file: serde_json::Value = serde_json::from_str(&plain.to_json()).unwrap();
        file["server_listener_resource_name_template"] = json!(mesh_control::SERVER_LISTENERS);
        file["certificate_providers"] = json!({"default": {"plugin_name": "file_watcher", "config": {
            "certificate_file": at("chain.pem"),
            "private_key_file": at("key.pem"),
            "ca_certificate_file": at("roots.pem"),
            "refresh_interval": "0.02s",
        }}});
        Bootstrap::from_json(&file.to_string()).unwrap()
    }
}

/// One member that calls and two that are called, with their secrets.
struct Rig {
    checkout: Secret,
    payment: Secret,
    caller: XdsClient,
    servers: Vec<XdsClient>,
    backends: Vec<Backend>,
    client: Client,
    calls: Arc<Tally>,
    load: JoinHandle<()>,
    mesh: Mesh,
}

impl Rig {
    /// Everybody has a leaf of `ca` and trusts it alone; calls are being made.
    async fn start(ca: &TestCa) -> Self {
        let ((first, v1), (second, v2)) = (listener().await, listener().await);
        let mesh = Mesh::start(&[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(50, 50))]).await;
        let (mut checkout, mut payment) = (Secret::new(CHECKOUT), Secret::new(PAYMENT));
        checkout.swap(ca, &[ca]);
        payment.swap(ca, &[ca]);
        let (mut servers, mut backends) = (Vec::new(), Vec::new());
        for (listener, version) in [(first, "v1"), (second, "v2")] {
            let server = XdsClient::start(payment.bootstrap(&mesh, "payment")).unwrap();
            let backend = Backend::serve_on(listener, server.link(), version);
            admitted(&server.link(), &backend.address.to_string()).await;
            servers.push(server);
            backends.push(backend);
        }
        let caller = XdsClient::start(checkout.bootstrap(&mesh, "checkout")).unwrap();
        let channel = Channel::new(&caller.link(), TARGET);
        soon("the target's configuration", channel.ready()).await;
        let (calls, client) = (Arc::new(Tally::default()), PaymentClient::new(channel));
        let (counted, mut beside) = (Arc::clone(&calls), client.clone());
        let load = tokio::spawn(async move {
            loop {
                counted.call(&mut beside).await;
            }
        });
        let rig = Self {
            checkout,
            payment,
            caller,
            servers,
            backends,
            client,
            calls,
            load,
            mesh,
        };
        rig.goes_on().await;
        rig
    }

    /// The next leaves and roots for everybody, the servers first; in effect at all when it returns. The servers' leaf.
    async fn swap(&mut self, signer: &TestCa, trusted: &[&TestCa]) -> Vec<u8> {
        let served = self.payment.swap(signer, trusted);
        for server in &self.servers {
            has(&server.link(), &served).await;
        }
        let leaf = self.checkout.swap(signer, trusted);
        has(&self.caller.link(), &leaf).await;
        served
    }

    /// The leaf that each server shows whoever connects now.
    async fn shown(&self, ca: &TestCa) -> Vec<Vec<u8>> {
        let expected = ExpectedPeers::exactly([PAYMENT]);
        let clock = Arc::new(DefaultTimeProvider);
        let config = tls::client_config(&ca.identity(CHECKOUT), &expected, clock, &[b"h2"]).unwrap();
        let mut all = Vec::new();
        for backend in &self.backends {
            let name = ServerName::try_from("payment").unwrap();
            let io = TcpStream::connect(backend.address).await.unwrap();
            let stream = TlsConnector::from(Arc::clone(&config)).connect(name, io).await.unwrap();
            all.push(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec());
        }
        all
    }

    /// A hundred more calls, of which none fails, and none of those beside them.
    async fn goes_on(&self) {
        let mut client = self.client.clone();
        soon("calls", async {
            for _ in 0..100 {
                self.calls.call(&mut client).await;
            }
        })
        .await;
        let counts = self.calls.counts();
        assert_eq!(counts.failed, 0, "{:?}", counts.errors);
    }

    /// Calls until it is so.
    async fn call_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let mut client = self.client.clone();
        let calls = async {
            while !is_so(self) {
                self.calls.call(&mut client).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, calls).await;
        outcome.unwrap_or_else(|_| {
            let counts = self.calls.counts();
            let tallies: Vec<_> = self.servers.iter().map(|server| server.link().tally().all()).collect();
            let caller = self.caller.link().tally().all();
            panic!(
                "waited for {what}: {} ok, {:?}, {caller:?}, {tallies:?}",
                counts.ok, counts.errors
            )
        });
    }

    fn handled(&self) -> u64 {
        self.backends.iter().map(Backend::handled).sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.load.abort();
    }
}

/// Waits until a member has this leaf.
pub(crate) async fn has(link: &Link, leaf: &[u8]) {
    let bell = Arc::new(tokio::sync::Notify::new());
    let ring = Arc::clone(&bell);
    let _subscription = link.identity().on_change(move || ring.notify_one());
    soon("the next certificate", async {
        let is_there = || matches!(&**link.identity().load(), Ok(identity) if &*identity.svid().chain()[0] == leaf);
        while !is_there() {
            bell.notified().await;
        }
    })
    .await;
}

/// From one root to another and back, in the order that loses nobody: trust both, sign with the other, trust it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_2_roots_rotate_in_three_phases_and_back() {
    let (a, b) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let mut rig = Rig::start(&a).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        rig.swap(from, &[from, to]).await;
        rig.goes_on().await;
        rig.swap(to, &[from, to]).await;
        rig.goes_on().await;
        rig.swap(to, &[to]).await;
        rig.goes_on().await;
    }
    let counts = rig.calls.counts();
    assert_eq!(counts.failed, 0, "{:?}", counts.errors);
    println!("id_2: {} calls over six swaps of roots and leaves, 0 failed", counts.ok);
}

/// A leaf of a root that nobody trusts yet: refused with the reason, served again when the order is mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_2_a_leaf_before_its_root_is_refused() {
    let (a, b) = (TestCa::new("cluster.local"), TestCa::new("cluster.local"));
    let mut rig = Rig::start(&a).await;
    let leaf = rig.checkout.swap(&b, &[&a, &b]);
    has(&rig.caller.link(), &leaf).await;
    let refused = |rig: &Rig| -> u64 {
        let of = |server: &XdsClient| server.link().tally().get("handshake_refused", "unknown_issuer");
        rig.servers.iter().map(of).sum()
    };
    rig.call_until("a refusal and failed calls", |rig| {
        refused(rig) > 0 && rig.calls.counts().failed > 0
    })
    .await;
    let leaf = rig.payment.swap(&a, &[&a, &b]);
    for server in &rig.servers {
        has(&server.link(), &leaf).await;
    }
    let served = rig.calls.counts().ok;
    rig.call_until("calls again", |rig| rig.calls.counts().ok >= served + 100)
        .await;
    let counts = rig.calls.counts();
    assert!(
        rig.handled() >= counts.ok && counts.failed == counts.failed_by_mesh,
        "{:?}",
        counts.errors
    );
}

/// New leaves for both ends, one after the other for as long as `ID_SECONDS` says: no call fails on the connections that go on, nor on those
/// of a second channel that begins anew each time, and the newest leaf is what the next handshake shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_1_leaves_rotate_under_load() {
    let seconds: u64 = std::env::var("ID_SECONDS").map_or(3, |text| text.parse().unwrap());
    let ca = TestCa::new("cluster.local");
    let mut rig = Rig::start(&ca).await;
    let begin = std::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut rotations = 0;
    while begin.elapsed() < Duration::from_secs(seconds) {
        ticks.tick().await;
        let newest = rig.swap(&ca, &[&ca]).await;
        assert!(
            rig.shown(&ca).await.iter().all(|leaf| *leaf == newest),
            "an old leaf is shown"
        );
        // A process that has just started has no connection yet: its first call is a handshake of the newest with the newest.
        let beginner = XdsClient::start(rig.checkout.bootstrap(&rig.mesh, "checkout")).unwrap();
        let channel = Channel::new(&beginner.link(), TARGET);
        soon("the target's configuration", channel.ready()).await;
        rig.calls.call(&mut PaymentClient::new(channel)).await;
        rotations += 1;
    }
    rig.goes_on().await;
    let counts = rig.calls.counts();
    println!(
        "id_1: {rotations} rotations at both ends, {} calls, {} failed",
        counts.ok, counts.failed
    );
    assert_eq!(counts.failed, 0, "{:?}", counts.errors);
    assert!(rig.handled() >= counts.ok);
}

/// How often the load calls: it lasts for as long as certificates do.
const PACE: Duration = Duration::from_millis(10);
/// Certificates live for a minute and are renewed at half of that.
const PHASE: Duration = Duration::from_secs(150);

/// The CA's own root is replaced while calls are made, as `meshctl` does it: no phase is left before every member has acknowledged it, and
/// no call fails.
#[tokio::test]
async fn id_2_the_cas_own_root_is_replaced_under_load() {
    let state = TempDir::new().unwrap();
    let ((first, v1), (second, v2)) = (listener().await, listener().await);
    let documents = [("workloads.yaml", workloads(v1, v2)), ("routes.yaml", routes(50, 50))];
    let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mesh = Mesh::start_with(&documents, |builder| {
        builder.state(state.path()).leaf_lifetime(MIN_LEAF_LIFETIME)
    })
    .await;
    let ((one, _first), (two, _second)) = (mesh.serve(first, "v1").await, mesh.serve(second, "v2").await);
    let (mut client, caller) = mesh.checkout(TARGET).await;
    let calls = Arc::new(Tally::default());
    let counted = Arc::clone(&calls);
    let load = tokio::spawn(async move {
        loop {
            counted.call(&mut client).await;
            tokio::time::sleep(PACE).await;
        }
    });
    let ask = async |step, force| {
        let state = state.path().to_owned();
        let asked = tokio::task::spawn_blocking(move || rotate_root(&state, step, force));
        asked.await.unwrap().map_err(|refused| refused.to_string())
    };
    let acknowledged = async || {
        let told = async {
            loop {
                let status = ask(None, false).await.unwrap();
                if status.counts.connected >= 3 && status.counts.acknowledged == status.counts.connected {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PHASE, told)
            .await
            .expect("every member acknowledges the phase")
    };
    let before = caller.link().identity().load_full();
    assert_eq!(ask(None, false).await.unwrap().phase, RotationPhase::Stable);
    let begun = ask(Some(RotationStep::Begin), false).await.unwrap();
    let [old, new] = &begun.roots[..] else {
        panic!("{begun:?}")
    };
    let refused = ask(Some(RotationStep::Switch), false).await.unwrap_err();
    assert!(refused.contains("have not acknowledged"), "{refused}");
    assert_eq!(acknowledged().await.phase, RotationPhase::Announced);
    let switched = ask(Some(RotationStep::Switch), false).await.unwrap();
    assert_eq!(switched.roots, [new.clone(), old.clone()]);
    let refused = ask(Some(RotationStep::Finish), false).await.unwrap_err();
    assert!(refused.contains("have not acknowledged"), "{refused}");
    acknowledged().await;
    // Somebody who is not connected may have a certificate of the old root for a day: that is what the force is for here.
    let refused = ask(Some(RotationStep::Finish), false).await.unwrap_err();
    assert!(refused.contains("may be valid until"), "{refused}");
    let finished = ask(Some(RotationStep::Finish), true).await.unwrap();
    assert_eq!(
        (finished.phase, &finished.roots[..]),
        (RotationPhase::Stable, &[new.clone()][..])
    );
    // A member that joins by the new root alone, and calls go on.
    let (mut late, _late) = mesh.checkout(TARGET).await;
    soon("a call", late.charge(examples::proto::ChargeRequest::default()))
        .await
        .unwrap();
    let after = caller.link().identity().load_full();
    let leaf = |standing: &mesh_core::link::Standing| standing.as_ref().unwrap().svid().chain()[0].clone();
    assert_ne!(leaf(&before), leaf(&after));
    load.abort();
    drop(load.await);
    let counts = calls.counts();
    assert_eq!(counts.failed, 0, "{:?}", counts.errors);
    assert!(
        one.handled() > 0 && two.handled() > 0 && counts.ok > 1_000,
        "{}",
        counts.ok
    );
}
