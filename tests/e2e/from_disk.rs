//! CP-2: a process that starts while the control plane is down, and has a copy of the last configuration on disk. A real control
//! plane, real files, real calls over mutual TLS; the certificates are files too, since a CA that is down issues none.

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use examples::load::{Client, Tally};
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_control::ControlPlane;
use mesh_core::testing::TestCa;
use mesh_xds::client::Report;
use mesh_xds::{Bootstrap, ResourceKind, XdsClient};
use serde_json::json;
use tempfile::TempDir;
use tests::{Backend, CHECKOUT, Mesh, PATIENCE, PAYMENT, routes, soon, workloads};

const TARGET: &str = "xds:///payment-service";

/// The caller's bootstrap: the control plane's plaintext port, certificates and the copy in `folder`.
fn bootstrap(mesh: &Mesh, ca: &TestCa, folder: &Path) -> Bootstrap {
    let pem = |label: &str, der: &[u8]| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let issued = ca.leaf(CHECKOUT).issue();
    let chain: String = issued.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let plain = mesh.control().plaintext_bootstrap("default", "checkout").unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&plain.to_json()).unwrap();
    file["certificate_providers"] = json!({"default": {"plugin_name": "file_watcher", "config": {
        "certificate_file": write("chain.pem", chain),
        "private_key_file": write("key.pem", pem("PRIVATE KEY", issued.key.secret_der())),
        "ca_certificate_file": write("roots.pem", pem("CERTIFICATE", &ca.root())),
    }}});
    file["x_mesh"]["cache_directory"] = json!(folder.join("copies"));
    Bootstrap::from_json(&file.to_string()).unwrap()
}

/// A client of the target, ready to call.
async fn client(xds: &XdsClient) -> Client {
    let channel = Channel::new(&xds.link(), TARGET);
    soon("the target's configuration", channel.ready()).await;
    PaymentClient::new(channel)
}

/// Twenty calls, none of which may fail; which version answered how many.
async fn calls(client: &Client) -> (u64, u64) {
    let tally = Tally::default();
    soon("the calls", tally.run(client, 20, 4)).await;
    let counts = tally.counts();
    assert_eq!((counts.ok, counts.failed), (20, 0), "{:?}", counts.errors);
    (counts.of("v1"), counts.of("v2"))
}

fn is_from_disk(report: &Report) -> bool {
    report.disk.as_ref().is_some_and(|disk| disk.serving.is_some())
}

fn is_kept(report: &Report) -> bool {
    let disk = report.disk.as_ref().unwrap();
    !is_from_disk(report) && disk.is_current && disk.written.is_some()
}

/// The control plane again, at its old place.
async fn again(mesh: &mut Mesh, address: SocketAddr) {
    let control = ControlPlane::builder(mesh.path("")).plaintext(address).start().await;
    mesh.control = Some(control.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cp_2_a_process_that_starts_without_a_control_plane_calls_from_disk() {
    let (ca, folder) = (TestCa::new("cluster.local"), TempDir::new().unwrap());
    let (v1, v2) = (Backend::serve(&ca, "v1").await, Backend::serve(&ca, "v2").await);
    let workloads = workloads(v1.address, v2.address);
    let mut mesh = Mesh::start(&[("workloads.yaml", &workloads), ("routes.yaml", &routes(100, 0))]).await;
    let address = mesh.control().plaintext_address().unwrap();
    let bootstrap = bootstrap(&mesh, &ca, folder.path());

    // The first process hears everything, and ends.
    let first = XdsClient::start(bootstrap.clone()).unwrap();
    assert_eq!(calls(&client(&first).await).await, (20, 0));
    first.status().until(PATIENCE, is_kept).await.unwrap();
    drop(first);
    mesh.stop_control().await;

    // The second starts with nobody there, calls all the same, and says what it calls by.
    let second = XdsClient::start(bootstrap.clone()).unwrap();
    let caller = client(&second).await;
    assert_eq!(calls(&caller).await, (20, 0));
    let report = second.status().until(PATIENCE, is_from_disk).await.unwrap();
    assert!(report.disk.as_ref().unwrap().serving.unwrap().written.is_some());
    assert!(!report.connection.in_use && report.connection.responses == 0);
    assert!(
        report
            .resources
            .values()
            .all(|row| row.is_from_disk && row.accepted.is_some())
    );

    // The control plane is back, and has other routes: in effect for the channel that was there, and on disk.
    mesh.save("routes.yaml", &routes(0, 100));
    again(&mut mesh, address).await;
    second.status().until(PATIENCE, is_kept).await.unwrap();
    second.status().applied(PATIENCE).await.unwrap();
    assert_eq!(calls(&caller).await, (0, 20));
    let report = second.status().report();
    let told = report
        .resources
        .values()
        .filter(|row| row.kind == ResourceKind::Cluster);
    let from_disk: Vec<bool> = told.map(|row| row.is_from_disk).collect();
    assert!(!from_disk.is_empty() && !from_disk.contains(&true));
    drop((second, caller));
    mesh.stop_control().await;
    let third = XdsClient::start(bootstrap).unwrap();
    assert_eq!(calls(&client(&third).await).await, (0, 20));

    // The copy is of names, and of nobody's key.
    let copies = std::fs::read_dir(folder.path().join("copies")).unwrap();
    let copies: Vec<_> = copies.map(|file| file.unwrap().path()).collect();
    let text = String::from_utf8_lossy(&std::fs::read(&copies[0]).unwrap()).into_owned();
    assert!(copies.len() == 1 && text.contains(PAYMENT) && !text.contains("PRIVATE KEY"));
}
