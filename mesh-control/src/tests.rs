//! The whole control plane with the real client of mesh-xds, over loopback.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Link;
use mesh_core::config::{LoadReporting, RouteTree};
use mesh_core::report::Counted;
use mesh_xds::{Bootstrap, Node, ResourceKind, XdsClient};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::{ControlPlane, Enrolment, Lifetime};

const TARGET: &str = "payment-service";

/// A copy of the example folder.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/istio");
    for entry in fs::read_dir(examples).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn set_weights(folder: &TempDir, v1: u32, v2: u32) {
    let path = folder.path().join("30-routes.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text
        .replace("weight: 95", &format!("weight: {v1}"))
        .replace("weight: 5\n", &format!("weight: {v2}\n"));
    fs::write(path, text).unwrap();
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("{what} within 20 s"))
}

/// Waits until the routes of the target are as wished.
async fn routes(link: &Link, wished: impl Fn(&RouteTree) -> bool) {
    let bell = Arc::new(Notify::new());
    let ring = Arc::clone(&bell);
    let _told = link.snapshots().on_change(move || ring.notify_one());
    within("the routes", async {
        loop {
            if let Some(Ok(tree)) = link.snapshots().load_full().target(TARGET)
                && wished(tree)
            {
                return;
            }
            bell.notified().await;
        }
    })
    .await;
}

async fn identity(link: &Link) -> String {
    let bell = Arc::new(Notify::new());
    let ring = Arc::clone(&bell);
    let _told = link.identity().on_change(move || ring.notify_one());
    within("an identity", async {
        loop {
            if let Ok(identity) = &*link.identity().load_full() {
                return identity.id().to_string();
            }
            bell.notified().await;
        }
    })
    .await
}

fn shares(tree: &RouteTree) -> Vec<u32> {
    let split = tree.virtual_hosts[0].routes[0].split().unwrap();
    split.clusters().iter().map(|share| share.weight.0).collect()
}

fn client(bootstrap: Bootstrap) -> Link {
    XdsClient::start(bootstrap).unwrap().link()
}

#[tokio::test]
async fn a_workload_joins_hears_routes_and_hears_of_a_change() {
    let folder = folder();
    let control_plane = ControlPlane::builder(folder.path()).start().await.unwrap();
    assert_eq!(control_plane.status().diagnostics.len(), 0);
    let link = client(control_plane.bootstrap("default", "checkout").unwrap());
    let _wanted = link.interest().watch(TARGET);
    assert_eq!(identity(&link).await, "spiffe://cluster.local/ns/default/sa/checkout");
    routes(&link, |tree| shares(tree) == [95, 5]).await;
    set_weights(&folder, 100, 0);
    routes(&link, |tree| shares(tree) == [100]).await;
    assert_eq!(control_plane.tally().get("certificate_issued", "join_token"), 1);
    within("shutdown", control_plane.shutdown()).await;
    let snapshot = link.snapshots().load_full();
    assert!(snapshot.target(TARGET).unwrap().is_ok(), "a client keeps what it has");
}

/// Counts a call as the data plane would, in the first cluster that the target's routes name.
fn count_a_call(link: &Link) -> Counted {
    let snapshot = link.snapshots().load_full();
    let tree = snapshot.target(TARGET).unwrap().as_ref().unwrap();
    let cluster = snapshot
        .cluster(tree.clusters().next().unwrap())
        .unwrap()
        .as_ref()
        .unwrap();
    let reporting = cluster
        .load_reporting
        .as_ref()
        .expect("our clients are asked to report");
    let load = link
        .loads()
        .load(&cluster.name, reporting, &cluster.endpoints[0].locality);
    Counted::begin(load, true)
}

#[tokio::test]
async fn load_is_reported_over_both_ports_by_those_who_may() {
    let folder = folder();
    let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
    let builder = builder.load_interval(Duration::from_millis(100));
    let control_plane = builder.start().await.unwrap();
    let bootstraps = [
        control_plane.bootstrap("default", "checkout").unwrap(),
        control_plane.plaintext_bootstrap("default", "anybody").unwrap(),
    ];
    let links = bootstraps.map(client);
    let _wanted = links.each_ref().map(|link| link.interest().watch(TARGET));
    for link in &links {
        routes(link, |tree| shares(tree) == [95, 5]).await;
    }
    // A client without an identity cannot call what asks for one, so it counts something of its own.
    let other = links[1]
        .loads()
        .load(&"c".into(), &LoadReporting::of("c"), &Arc::default());
    let _calls = [count_a_call(&links[0]), Counted::begin(other, true)];
    let loads = control_plane.loads();
    let mut changes = loads.changes();
    let told = || {
        let clients = loads.snapshot();
        let in_progress = clients.iter().flat_map(|client| &client.clusters);
        clients.len() == 2 && in_progress.map(|one| one.total.counts().in_progress).sum::<u64>() == 2
    };
    within("both reports", changes.wait_for(|_| told())).await.unwrap();
    let clients = loads.snapshot();
    let of = |account: &str| {
        let named =
            |client: &&mesh_xds::server::ClientLoad| client.node.metadata_text("SERVICE_ACCOUNT") == Some(account);
        clients
            .iter()
            .find(named)
            .unwrap()
            .peer
            .as_ref()
            .map(ToString::to_string)
    };
    assert_eq!(
        of("checkout").as_deref(),
        Some("spiffe://cluster.local/ns/default/sa/checkout")
    );
    assert_eq!(of("anybody"), None);
    within("shutdown", control_plane.shutdown()).await;
}

#[tokio::test]
async fn the_plaintext_port_serves_a_client_without_an_identity() {
    let folder = folder();
    let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
    let control_plane = builder.start().await.unwrap();
    let link = client(control_plane.plaintext_bootstrap("default", "anybody").unwrap());
    let _wanted = link.interest().watch(TARGET);
    routes(&link, |tree| shares(tree) == [95, 5]).await;
}

#[tokio::test]
async fn bad_yaml_keeps_the_last_good_and_names_file_line_and_field() {
    let folder = folder();
    let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
    let control_plane = builder.start().await.unwrap();
    let link = client(control_plane.plaintext_bootstrap("default", "anybody").unwrap());
    let _wanted = link.interest().watch(TARGET);
    routes(&link, |tree| shares(tree) == [95, 5]).await;
    let path = folder.path().join("30-routes.yaml");
    let good = fs::read_to_string(&path).unwrap();
    let mut status = control_plane.status_changes();
    let cases = [
        ("  http:", "  http: [", "30-routes.yaml:"),
        (
            "  hosts:",
            "  hots:",
            "30-routes.yaml:23:3: error[IST0106]: VirtualService default/payment-service: spec.hots:",
        ),
        (
            "subset: v2\n",
            "subset: v3\n",
            "spec.http[0].route[1].destination.subset:",
        ),
        (
            "weight: 95",
            "weight: 0",
            "spec.http[0].route[0].weight: the weights sum to 0",
        ),
    ];
    for (from, to, expected) in cases {
        let bad = good.replace(from, to).replace(
            "weight: 5\n",
            if to == "weight: 0" {
                "weight: 0\n"
            } else {
                "weight: 5\n"
            },
        );
        fs::write(&path, bad).unwrap();
        let told = |status: &crate::Status| {
            status
                .diagnostics
                .iter()
                .any(|finding| finding.to_string().contains(expected))
        };
        within(expected, status.wait_for(|status| status.is_rejected() && told(status)))
            .await
            .unwrap();
    }
    let snapshot = link.snapshots().load_full();
    assert_eq!(shares(snapshot.target(TARGET).unwrap().as_ref().unwrap()), [95, 5]);
    fs::write(&path, good.replace("weight: 95", "weight: 50")).unwrap();
    routes(&link, |tree| shares(tree) == [50, 5]).await;
}

#[tokio::test]
async fn a_single_use_token_lets_one_in_and_a_reusable_one_many() {
    let folder = folder();
    let state = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::builder(folder.path())
        .state(state.path())
        .start()
        .await
        .unwrap();
    let once = control_plane.bootstrap("default", "checkout").unwrap();
    identity(&client(once.clone())).await;
    let late = client(once);
    within("a refusal", async {
        while control_plane.tally().get("certificate_refused", "bad_token") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(late.identity().load_full().is_err());
    let many = Lifetime::Reusable(Duration::from_secs(60));
    let reusable = control_plane
        .enrolment()
        .bootstrap("default", "checkout", many)
        .unwrap();
    for _ in 0..2 {
        identity(&client(reusable.clone())).await;
    }
}

#[tokio::test]
async fn the_plaintext_port_binds_nothing_but_loopback() {
    let folder = folder();
    let builder = ControlPlane::builder(folder.path()).plaintext(([0, 0, 0, 0], 0).into());
    assert!(builder.start().await.unwrap_err().is_not_loopback());
}

/// A client of the control plane's TLS port that gets its identity from `ca`, or has none.
fn client_with_identity_of(control_plane: &ControlPlane, ca: Option<&ControlPlane>, node: Node) -> XdsClient {
    let enrolment = control_plane.enrolment();
    let mut builder = Bootstrap::builder(node).tls(enrolment.server(), &enrolment.root_pem());
    if let Some(ca) = ca.map(ControlPlane::enrolment) {
        let token = ca.issue_token("default", "checkout", Lifetime::default()).unwrap();
        let (server, roots) = (ca.server(), ca.root_pem());
        builder = builder.mesh_ca(server, &roots, "cluster.local", "default", "checkout", token.expose());
    }
    XdsClient::start(builder.build().unwrap()).unwrap()
}

async fn refused(client: &XdsClient, because: &str) {
    let _wanted = client.link().interest().watch(TARGET);
    let told = |report: &mesh_xds::client::Report| {
        let error = report.connection.last_error.as_deref();
        error.is_some_and(|error| error.contains(because))
    };
    client.status().until(Duration::from_secs(20), told).await.unwrap();
    assert!(client.link().snapshots().load().target(TARGET).is_none());
}

#[tokio::test]
async fn the_tls_port_serves_ads_to_nobody_without_a_certificate_of_this_mesh() {
    let folder = folder();
    let control_plane = ControlPlane::builder(folder.path()).start().await.unwrap();
    let stranger = client_with_identity_of(&control_plane, None, Node::default());
    refused(&stranger, "show the certificate of a workload").await;
    // The same trust domain, another root.
    let elsewhere = ControlPlane::builder(folder.path()).start().await.unwrap();
    let foreign = client_with_identity_of(&control_plane, Some(&elsewhere), Node::default());
    identity(&foreign.link()).await;
    let _wanted = foreign.link().interest().watch(TARGET);
    within("a refused handshake", async {
        while control_plane.tally().get("handshake_refused", "tls") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(foreign.link().snapshots().load().target(TARGET).is_none());
}

#[tokio::test]
async fn a_node_that_claims_to_be_somebody_else_is_refused() {
    let folder = folder();
    let control_plane = ControlPlane::builder(folder.path()).start().await.unwrap();
    let liar = crate::enrol::node("istio-system", "checkout");
    let client = client_with_identity_of(&control_plane, Some(&control_plane), liar);
    identity(&client.link()).await;
    refused(&client, "claims to be somebody else").await;
}

#[tokio::test]
async fn a_client_of_a_namespace_that_no_document_names_sees_what_is_exported() {
    let folder = folder();
    let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
    let control_plane = builder.start().await.unwrap();
    let client = XdsClient::start(control_plane.plaintext_bootstrap("strangers", "anybody").unwrap()).unwrap();
    let full = "payment-service.default:50051";
    let _wanted = client.link().interest().watch(full);
    let heard = |report: &mesh_xds::client::Report| {
        report
            .resource(ResourceKind::Listener, full)
            .is_some_and(|listener| listener.accepted.is_some())
    };
    client.status().until(Duration::from_secs(20), heard).await.unwrap();
    assert!(control_plane.status().versions("strangers").is_some());
}

/// A public service in a namespace that nothing else is in.
const LATE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: own, namespace: late}
spec:
  hosts: [own]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http}]
  endpoints: [{address: 127.0.0.1}]
";

#[tokio::test]
async fn a_client_whose_namespace_is_named_later_or_no_more_is_told_so() {
    let folder = folder();
    let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
    let control_plane = builder.start().await.unwrap();
    let client = XdsClient::start(control_plane.plaintext_bootstrap("late", "anybody").unwrap()).unwrap();
    let (full, short) = ("payment-service.default:50051", "own");
    let _wanted = (
        client.link().interest().watch(full),
        client.link().interest().watch(short),
    );
    let heard = |name: &'static str, there: bool| {
        move |report: &mesh_xds::client::Report| {
            let listener = report.resource(ResourceKind::Listener, name);
            listener.is_some_and(|listener| listener.accepted.is_some()) == there
        }
    };
    let limit = Duration::from_secs(20);
    client.status().until(limit, heard(full, true)).await.unwrap();
    // Short names are of the own namespace, so this one is there only in the group of its own.
    fs::write(folder.path().join("90-late.yaml"), LATE).unwrap();
    client.status().until(limit, heard(short, true)).await.unwrap();
    assert!(heard(full, true)(&client.status().report()));
    fs::remove_file(folder.path().join("90-late.yaml")).unwrap();
    within("the old group", async {
        let mut clients = control_plane.client_changes();
        let told_as_unnamed = || {
            let clients = control_plane.clients();
            !clients.is_empty() && clients.iter().all(|client| client.group.is_empty())
        };
        while !told_as_unnamed() {
            clients.changed().await.unwrap();
        }
    })
    .await;
}

/// A state directory is one control plane's; once that has ended in any way, it is the next one's.
#[tokio::test]
async fn cp_two_control_planes_do_not_share_a_state_directory() {
    let (folder, state) = (folder(), tempfile::tempdir().unwrap());
    let start = || ControlPlane::builder(folder.path()).state(state.path()).start();
    let first = start().await.unwrap();
    let error = start().await.unwrap_err();
    assert!(error.is_state_in_use() && error.is_state(), "{error}");
    assert!(error.to_string().contains("of a control plane that runs"), "{error}");
    // Who only lets workloads in works beside it.
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    Enrolment::open(state.path(), None, None, clock)
        .unwrap()
        .issue_token("default", "checkout", Lifetime::default())
        .unwrap();
    first.shutdown().await;
    drop(start().await.unwrap());
    drop(start().await.unwrap());
}

/// The folder is emptied, as by a mount that failed: what was published stays, also through a restart, unless it is allowed.
#[tokio::test]
async fn cp_an_emptied_folder_changes_nothing() {
    let (folder, state) = (folder(), tempfile::tempdir().unwrap());
    let empty = tempfile::tempdir().unwrap();
    let served = empty.path().join("served");
    fs::rename(folder.path(), &served).unwrap();
    let start = || ControlPlane::builder(&served).state(state.path());
    let control_plane = start().start().await.unwrap();
    let told = control_plane.status().versions("default").cloned();
    assert!(told.is_some());
    fs::rename(&served, empty.path().join("aside")).unwrap();
    fs::create_dir(&served).unwrap();
    let mut status = control_plane.status_changes();
    let emptied = |status: &crate::Status| {
        let mut found = status.diagnostics.iter();
        found.any(|finding| finding.code == crate::diagnostic::Code::Emptied && finding.is_error())
    };
    within("the refusal", status.wait_for(emptied)).await.unwrap();
    assert_eq!(control_plane.status().versions("default").cloned(), told);
    assert_eq!(control_plane.tally().get("configuration", "emptied"), 1);
    control_plane.shutdown().await;
    let restarted = start().start().await.unwrap();
    assert!(emptied(&restarted.status()) && restarted.status().accepted == 0);
    restarted.shutdown().await;
    let allowed = start().dangerous().allow_empty().start().await.unwrap();
    assert_eq!((allowed.status().accepted, allowed.status().is_rejected()), (1, false));
}
