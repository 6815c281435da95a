//! The answer, of a real control plane whose clients count by hand: every number is known.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Link;
use mesh_core::config::Cluster;
use mesh_core::report::Counted;
use mesh_core::report::standard::{End, Flags};
use mesh_xds::XdsClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ControlPlane;

const SOON: Duration = Duration::from_secs(20);
const TARGET: &str = "payment-service";
const API: &str = "/api/v1/mesh";
/// A localhost port that the system chooses.
const ANY: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

async fn plane() -> (ControlPlane, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/istio");
    for entry in fs::read_dir(examples).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let builder = ControlPlane::builder(folder.path())
        .plaintext(ANY.into())
        .admin(ANY.into());
    let plane = builder.load_interval(Duration::from_millis(100)).start().await.unwrap();
    (plane, folder)
}

/// Sends a request as it is written; the head of the answer, and its body.
async fn ask(address: SocketAddr, head: &str) -> (String, String) {
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut text = String::new();
    tokio::time::timeout(SOON, io.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn mesh(plane: &ControlPlane) -> Value {
    let (head, body) = ask(
        plane.admin_address().unwrap(),
        &format!("GET {API} HTTP/1.1\r\nhost: localhost"),
    )
    .await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("application/json"),
        "{head}"
    );
    serde_json::from_str(&body).unwrap()
}

/// Waits until the snapshot of a client has the clusters of both versions.
async fn versions(link: &Link) -> [Arc<Cluster>; 2] {
    let bell = Arc::new(tokio::sync::Notify::new());
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

#[tokio::test]
async fn every_number_is_what_clients_counted() {
    let (plane, _folder) = plane().await;
    let link = XdsClient::start(plane.bootstrap("default", "checkout").unwrap())
        .unwrap()
        .link();
    let _wanted = link.interest().watch(TARGET);
    let clusters = versions(&link).await;
    let reportings = clusters
        .each_ref()
        .map(|cluster| cluster.load_reporting.clone().expect("they are asked for"));
    assert!(reportings.iter().all(mesh_core::config::LoadReporting::asks_for_calls));
    let calls = [0, 1].map(|at| link.loads().calls(&clusters[at].name, &reportings[at]));
    calls.iter().for_each(|calls| calls.ask(true));
    let tries = |at: usize, number: usize| {
        let load = link
            .loads()
            .load(&clusters[at].name, &reportings[at], &clusters[at].endpoints[0].locality);
        for _ in 0..number {
            let mut one = Counted::begin(Arc::clone(&load), false);
            one.saw_headers(http::StatusCode::OK, None, &http::HeaderMap::new());
        }
    };
    // v1: 90 good calls over mutual TLS. v2: 6 good ones, 4 failed, one of which met nobody and was tried three times.
    for _ in 0..90 {
        calls[0].count(End::grpc(0), Duration::from_millis(3), true);
    }
    tries(0, 90);
    for _ in 0..6 {
        calls[1].count(End::grpc(0), Duration::from_millis(20), true);
    }
    for _ in 0..3 {
        calls[1].count(End::grpc(13), Duration::from_millis(20), true);
    }
    let lost = End {
        flags: Flags::named(["UF", "URX"]),
        ..End::grpc(14)
    };
    calls[1].count(lost, Duration::from_millis(20), false);
    tries(1, 12);
    link.loads()
        .drops(&clusters[1].name, &reportings[1])
        .count_uncategorised();

    let loads = plane.loads().clone();
    let mut changes = loads.changes();
    let told = || {
        let all = loads.snapshot();
        let clusters = all.iter().flat_map(|client| &client.clusters);
        clusters
            .map(|one| one.total.counts().issued + one.total.dropped())
            .sum::<u64>()
            == 103
    };
    tokio::time::timeout(SOON, changes.wait_for(|_| told()))
        .await
        .unwrap()
        .unwrap();
    let mesh = mesh(&plane).await;

    assert_eq!(mesh["interval_ms"], 100);
    assert_eq!(
        mesh["bounds_ms"].as_array().unwrap().len() + 1,
        mesh["totals"]["buckets"].as_array().unwrap().len()
    );
    let [edge] = &mesh["edges"].as_array().unwrap()[..] else {
        panic!("not one edge: {mesh:#}")
    };
    assert_eq!(edge["id"], "default/checkout>default/payment");
    let total = |numbers: &Value| {
        ["calls", "failed", "tries", "dropped", "secured"].map(|key| numbers[key]["total"].as_u64().unwrap())
    };
    assert_eq!(total(&edge["numbers"]), [100, 4, 102, 1, 99]);
    assert_eq!(total(&mesh["totals"]), [100, 4, 102, 1, 99]);
    let [v1, v2] = &edge["clusters"].as_array().unwrap()[..] else {
        panic!("not two versions: {edge:#}")
    };
    assert_eq!((&v1["name"], &v1["configured"]), (&json!("v1"), &json!(0.95)));
    assert_eq!((&v2["name"], &v2["configured"]), (&json!("v2"), &json!(0.05)));
    assert_eq!(total(&v1["numbers"]), [90, 0, 90, 0, 90]);
    assert_eq!(total(&v2["numbers"]), [10, 4, 12, 1, 9]);
    assert_eq!(
        v2["failures"],
        json!([
            { "protocol": "grpc", "code": 13, "flags": "-", "calls": 3 },
            { "protocol": "grpc", "code": 14, "flags": "UF,URX", "calls": 1 },
        ])
    );
    assert_eq!(v2["drops"], json!([{ "category": null, "calls": 1 }]));
    assert_eq!(edge["routes"][0]["shares"][1]["share"], 0.05);

    let service = |id: &str| {
        let all = mesh["services"].as_array().unwrap();
        all.iter()
            .find(|one| one["id"] == id)
            .unwrap_or_else(|| panic!("no {id}: {mesh:#}"))
            .clone()
    };
    let payment = service("default/payment");
    assert_eq!(payment["host"], "payment-service.default.svc.cluster.local");
    assert_eq!(payment["inbound"], edge["numbers"]);
    let endpoints = payment["endpoints"].as_array().unwrap();
    assert!(
        endpoints.contains(&json!({ "version": "v1", "healthy": 1, "all": 1 })),
        "{endpoints:?}"
    );
    assert_eq!(
        (
            &service("default/checkout")["processes"],
            &service("default/checkout")["inbound"]
        ),
        (&json!(1), &Value::Null)
    );
    let [client] = &mesh["clients"].as_array().unwrap()[..] else {
        panic!("not one client: {mesh:#}")
    };
    assert_eq!(client["identity"], "spiffe://cluster.local/ns/default/sa/checkout");
    assert_eq!(edge["clients"], json!([client["stream"]]));
    let kinds: Vec<_> = client["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    assert!(
        ["LDS", "RDS", "CDS", "EDS"].iter().all(|kind| kinds.contains(kind)),
        "{kinds:?}"
    );
    assert_eq!(mesh["configuration"]["accepted"], 1);
    plane.shutdown().await;
}

#[tokio::test]
async fn it_reads_and_answers_nobody_elses_page() {
    let (plane, _folder) = plane().await;
    let address = plane.admin_address().unwrap();
    let (head, body) = ask(address, "GET / HTTP/1.1\r\nhost: localhost:1").await;
    assert!(
        head.starts_with("HTTP/1.1 200") && body.starts_with("<!doctype html>"),
        "{head}"
    );
    let head = head.to_lowercase();
    for expected in [
        "content-security-policy: default-src 'none'; script-src 'self'",
        "x-content-type-options: nosniff",
        "cross-origin-resource-policy: same-origin",
        "cache-control: no-store",
    ] {
        assert!(head.contains(expected), "{expected}: {head}");
    }
    assert!(!head.contains("access-control-allow"), "{head}");
    let length = format!("content-length: {}", body.len());
    let (head, body) = ask(address, "HEAD / HTTP/1.1\r\nhost: 127.0.0.1").await;
    assert!(head.to_lowercase().contains(&length) && body.is_empty(), "{head}");
    for (request, status) in [
        ("GET /assets/main.js HTTP/1.1\r\nhost: [::1]", 200),
        ("GET /nothing HTTP/1.1\r\nhost: localhost", 404),
        ("GET /assets/../main.js HTTP/1.1\r\nhost: localhost", 404),
        ("POST /api/v1/mesh HTTP/1.1\r\nhost: localhost", 405),
        ("DELETE / HTTP/1.1\r\nhost: localhost", 405),
        ("GET /api/v1/mesh HTTP/1.1\r\nhost: rebound.example", 421),
        (
            "GET /api/v1/mesh HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site",
            421,
        ),
        ("GET /api/v1/mesh HTTP/1.1", 421),
    ] {
        let (head, body) = ask(address, request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {head}");
        assert!(status == 200 || !body.contains("services"), "{request}");
    }
    let refused = ControlPlane::builder("/").admin(([0, 0, 0, 0], 0).into()).start().await;
    assert!(refused.unwrap_err().is_not_loopback());
}
