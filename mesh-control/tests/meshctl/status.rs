//! `meshctl status` against a running control plane: the library's part, and the program.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use mesh_control::roster::{Clients, refusing};
use mesh_control::{ControlPlane, noted_plaintext};
use mesh_core::Link;
use mesh_core::config::Cluster;
use mesh_core::report::standard::End;
use mesh_xds::XdsClient;
use mesh_xds::csds::fetch;
use mesh_xds::server::Acknowledged;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;

const SOON: Duration = Duration::from_secs(20);

/// A copy of the example folder, and a control plane of it with its state on disk.
async fn control_plane() -> (ControlPlane, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/istio");
    for entry in fs::read_dir(examples).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
    let control_plane = builder.state(folder.path().join("state")).start().await.unwrap();
    (control_plane, folder)
}

/// Waits until a client's four types are answered.
async fn settled(control_plane: &ControlPlane, clients: usize) {
    let mut changes = control_plane.client_changes();
    let settled = || {
        let clients_now = control_plane.clients();
        let answered = clients_now.iter().flat_map(|client| &client.subscriptions);
        let answered = answered.filter(|one| one.acknowledged != Acknowledged::Waiting).count();
        answered == 4 * clients
    };
    let wait = changes.wait_for(|_| settled());
    tokio::time::timeout(SOON, wait).await.unwrap().unwrap();
}

/// Waits until a client knows the clusters of both versions.
async fn versions(link: &Link) -> [Arc<Cluster>; 2] {
    let bell = Arc::new(Notify::new());
    let ring = Arc::clone(&bell);
    let _told = link.snapshots().on_change(move || ring.notify_one());
    let found = async {
        loop {
            let snapshot = link.snapshots().load_full();
            let all = || snapshot.clusters().values().filter_map(|cluster| cluster.as_ref().ok());
            let of = |subset: &str| all().find(|cluster| cluster.name.as_str().contains(subset)).cloned();
            if let (Some(v1), Some(v2)) = (of("|v1|"), of("|v2|")) {
                return [v1, v2];
            }
            bell.notified().await;
        }
    };
    tokio::time::timeout(SOON, found).await.unwrap()
}

/// Calls are counted by hand at the shares that the weights say, as a client counts them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shift_is_watched_until_the_traffic_follows() {
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/istio");
    for entry in fs::read_dir(examples).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let state = folder.path().join("state");
    let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
    let builder = builder.admin(([127, 0, 0, 1], 0).into()).state(&state);
    let control_plane = builder.load_interval(Duration::from_millis(100)).start().await.unwrap();
    let client = XdsClient::start(control_plane.bootstrap("default", "checkout").unwrap()).unwrap();
    let link = client.link();
    let _wanted = link.interest().watch("payment-service");
    settled(&control_plane, 1).await;
    let clusters = versions(&link).await;
    let counted = clusters.map(|cluster| {
        let calls = link
            .loads()
            .calls(&cluster.name, cluster.load_reporting.as_ref().unwrap());
        calls.ask(true);
        calls
    });
    // Until somebody has seen what was wanted: 3 of 10 go to v2.
    let counting = tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_millis(5));
        for call in 0u64.. {
            beat.tick().await;
            let at = usize::from(call % 10 < 3);
            counted[at].count(End::grpc(0), Duration::from_millis(1), true);
        }
    });
    let (dir, state) = (folder.path().display().to_string(), state.display().to_string());
    let shift = async |weights: [&str; 2], limit: &str| {
        let arguments = [
            "shift",
            "payment-service",
            weights[0],
            weights[1],
            "--dir",
            &dir,
            "--watch",
            "--watch-for",
            limit,
            "--state",
            &state,
        ];
        program(&arguments).await
    };
    let followed = shift(["v1=70", "v2=30"], "20s").await;
    let shown = String::from_utf8_lossy(&followed.stdout).into_owned();
    assert_eq!(followed.status.code(), Some(0), "{followed:?}");
    assert!(
        shown.contains("% (wanted 70)") && shown.contains("% (wanted 30)"),
        "{shown}"
    );
    let last = last_line(&followed);
    assert_eq!((&last["follows"], &last["changed"]), (&true.into(), &true.into()));
    assert!(last["calls"].as_u64().unwrap() >= 20, "{last}");
    let other = shift(["v1=100", "v2=0"], "2s").await;
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    assert_ne!(last_line(&other)["follows"], true);
    counting.abort();
    control_plane.shutdown().await;
    // Nobody is there any more.
    assert_eq!(shift(["v1=50", "v2=50"], "1s").await.status.code(), Some(1));
}

async fn meshctl(arguments: &[&str]) -> Output {
    let arguments: Vec<&str> = std::iter::once("status").chain(arguments.iter().copied()).collect();
    program(&arguments).await
}

async fn program(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args(arguments);
    // It gives up by itself when it is not answered.
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}

fn last_line(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = text
        .lines()
        .next_back()
        .unwrap_or_else(|| panic!("nothing said: {errors}"));
    serde_json::from_str(line).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_names_each_client_and_says_that_all_is_in_step() {
    let (control_plane, folder) = control_plane().await;
    let joined = XdsClient::start(control_plane.bootstrap("default", "checkout").unwrap()).unwrap();
    let link: Link = joined.link();
    let _wanted = link.interest().watch("payment-service");
    settled(&control_plane, 1).await;

    let address = control_plane.plaintext_address().unwrap().to_string();
    let state = folder.path().join("state");
    assert_eq!(noted_plaintext(&state).as_deref(), Some(address.as_str()));
    let clients = fetch(&address).await.unwrap();
    assert_eq!((clients.len(), refusing(&clients)), (1, 0));
    let table = Clients(&clients).to_string();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NODE ") && lines[0].ends_with("ECDS"), "{table}");
    let row = lines[1];
    assert!(row.starts_with("sidecar~127.0.0.1~checkout.default~"), "{table}");
    assert!(row.contains("spiffe://cluster.local/ns/default/sa/checkout"), "{table}");
    assert_eq!(row.matches("SYNCED").count(), 4, "{table}");

    let state = state.to_str().unwrap();
    let text = meshctl(&["--state", state]).await;
    assert!(text.status.success(), "{text:?}");
    assert!(String::from_utf8_lossy(&text.stdout).contains(row), "{text:?}");
    assert_eq!(last_line(&text), serde_json::json!({ "clients": 1, "refusing": 0 }));
    let json = last_line(&meshctl(&["--server", &address, "-o", "json"]).await);
    let client = &json["clients"][0];
    assert_eq!(client["group"], "default");
    for kind in ["lds", "rds", "cds", "eds"] {
        assert_eq!(client[kind]["status"], "SYNCED", "{json}");
        assert!(
            client[kind]["version"]
                .as_str()
                .is_some_and(|version| !version.is_empty()),
            "{json}"
        );
    }
    control_plane.shutdown().await;
}

/// A client of the plaintext port has no certificate provider, so it refuses the clusters of a mesh with mutual TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_shown_with_its_reason_and_ends_in_code_1() {
    let (control_plane, _folder) = control_plane().await;
    let bootstrap = control_plane.plaintext_bootstrap("default", "anybody").unwrap();
    let client = XdsClient::start(bootstrap).unwrap();
    let link = client.link();
    let _wanted = link.interest().watch("payment-service");
    let refused = client.status().until(SOON, |report| report.rejections > 0);
    refused.await.unwrap();
    let mut changes = control_plane.client_changes();
    let known = || {
        let clients = control_plane.clients();
        let mut all = clients.iter().flat_map(|client| &client.subscriptions);
        all.any(|one| matches!(one.acknowledged, Acknowledged::Refused(_)))
    };
    tokio::time::timeout(SOON, changes.wait_for(|_| known()))
        .await
        .unwrap()
        .unwrap();

    let address = control_plane.plaintext_address().unwrap().to_string();
    let text = meshctl(&["--server", &address]).await;
    assert_eq!(text.status.code(), Some(1), "{text:?}");
    let shown = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        shown.contains("ERROR") && shown.contains("refuses envoy.config.cluster.v3.Cluster"),
        "{shown}"
    );
    assert!(shown.contains("instance_name"), "{shown}");
    assert_eq!(last_line(&text)["refusing"], 1);
    // It never accepted any clusters, and the version that it refuses is said.
    let json = last_line(&meshctl(&["--server", &address, "-o", "json"]).await);
    let clusters = &json["clients"][0]["cds"];
    let refused = clusters["refused"].as_str().unwrap();
    assert_eq!(
        (&clusters["status"], &clusters["version"]),
        (&"ERROR".into(), &"".into())
    );
    assert!(!refused.is_empty(), "{json}");
    let line = format!("refuses envoy.config.cluster.v3.Cluster {refused}: ");
    assert!(shown.contains(&line), "{shown}");
    assert_eq!(json["clients"][0]["lds"]["refused"], Value::Null, "{json}");

    // The same, asked of the workload.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let router = tonic::transport::Server::builder().add_service(mesh_xds::ClientStatusService::new(&client));
    tokio::spawn(router.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let text = meshctl(&["--client", &own]).await;
    assert_eq!(text.status.code(), Some(1), "{text:?}");
    let shown = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        shown.contains("NACKED") && shown.contains("ACKED") && shown.contains("instance_name"),
        "{shown}"
    );
    let json = last_line(&meshctl(&["--client", &own, "-o", "json"]).await);
    let resources = json["clients"][0]["resources"].as_array().unwrap();
    let bad = resources.iter().find(|one| one["state"] == "NACKED").unwrap();
    assert!(
        bad["error"]["details"].as_str().unwrap().contains("instance_name"),
        "{bad}"
    );
    // And by kind: what is refused of one is nothing against the others.
    let config = async |arguments: &[&str]| {
        let arguments: Vec<&str> = std::iter::once("config").chain(arguments.iter().copied()).collect();
        program(&arguments).await
    };
    let clusters = config(&["clusters", &own]).await;
    let shown = String::from_utf8_lossy(&clusters.stdout).into_owned();
    assert_eq!(clusters.status.code(), Some(1), "{shown}");
    assert!(shown.contains("NACKED") && !shown.contains("LDS"), "{shown}");
    let json = last_line(&config(&["listeners", &own, "--name", "payment", "-o", "json"]).await);
    let resources = json["clients"][0]["resources"].as_array().unwrap();
    assert!(!resources.is_empty(), "{json}");
    for one in resources {
        assert_eq!(one["type"], "envoy.config.listener.v3.Listener");
        assert_eq!(one["state"], "ACKED");
    }
    let secrets = config(&["secrets", &own]).await;
    assert_eq!(
        (secrets.status.code(), &last_line(&secrets)["resources"]),
        (Some(0), &0.into())
    );
    control_plane.shutdown().await;
}

#[tokio::test]
async fn a_control_plane_that_is_not_there_is_an_error_in_one_line_of_the_log() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let output = meshctl(&["--server", &nobody.to_string()]).await;
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("cannot read the status from"),
        "{output:?}"
    );
}
