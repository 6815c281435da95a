//! What the page of the control plane says of a canary is what its caller and its servers counted themselves: over real calls, mutual
//! TLS and streams, asked over HTTP as a browser asks.

use std::net::SocketAddr;
use std::time::Duration;

use examples::proto::ChargeRequest;
use serde_json::Value;
use tests::{Mesh, listener, routes, soon, workloads};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CALLS: u64 = 2_000;

async fn asked(address: SocketAddr) -> Value {
    let mut io = TcpStream::connect(address).await.unwrap();
    let request = b"GET /api/v1/mesh HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    io.write_all(request).await.unwrap();
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn see_the_page_says_what_was_called_and_how_it_ended() {
    let ((first, one), (second, two)) = (listener().await, listener().await);
    let documents = [("workloads.yaml", workloads(one, two)), ("routes.yaml", routes(90, 10))];
    let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mesh = Mesh::start_with(&documents, |builder| {
        let builder = builder.admin(([127, 0, 0, 1], 0).into());
        builder.load_interval(Duration::from_millis(100))
    })
    .await;
    let (v1, _member1) = mesh.serve(first, "v1").await;
    let (v2, _member2) = mesh.serve(second, "v2").await;
    let (client, _checkout) = mesh.checkout("xds:///payment-service").await;
    v2.payments.fail(1.0);
    let [mut by_v1, mut failed] = [0_u64; 2];
    for _ in 0..CALLS {
        match client.clone().charge(ChargeRequest::default()).await {
            Ok(_) => by_v1 += 1,
            Err(_) => failed += 1,
        }
    }
    assert_eq!((by_v1 + failed, by_v1), (CALLS, v1.handled()));
    assert_eq!(failed, v2.handled());

    let address = mesh.control().admin_address().expect("it has a page");
    let mut changes = mesh.control().loads().changes();
    let answer = soon("the reports of all calls", async {
        loop {
            changes.mark_unchanged();
            let answer = asked(address).await;
            if answer["totals"]["calls"]["total"] == CALLS && answer["totals"]["in_progress"] == 0 {
                return answer;
            }
            changes.changed().await.unwrap();
        }
    })
    .await;
    let edges = answer["edges"].as_array().unwrap();
    let edge = edges
        .iter()
        .find(|edge| edge["id"] == "default/checkout>default/payment")
        .unwrap();
    let total =
        |numbers: &Value| ["calls", "failed", "secured", "tries"].map(|key| numbers[key]["total"].as_u64().unwrap());
    // One caller, so nothing else was counted; failed calls of a handler are not tried again.
    assert_eq!(total(&edge["numbers"]), [CALLS, failed, CALLS, CALLS]);
    let of = |name: &str| {
        let clusters = edge["clusters"].as_array().unwrap();
        clusters.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(total(&of("v1")["numbers"]), [by_v1, 0, by_v1, by_v1]);
    assert_eq!(total(&of("v2")["numbers"]), [failed, failed, failed, failed]);
    let configured = ["v1", "v2"].map(|name| of(name)["configured"].as_f64());
    assert_eq!(configured, [Some(0.9), Some(0.1)]);
    let failures = of("v2")["failures"].as_array().unwrap().clone();
    let calls: u64 = failures.iter().map(|one| one["calls"].as_u64().unwrap()).sum();
    assert!(
        calls == failed && failures.iter().all(|one| one["protocol"] == "grpc"),
        "{failures:?}"
    );
    // Nobody who is connected refuses what was published.
    let clients = answer["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 3);
    let resources = clients
        .iter()
        .flat_map(|client| client["resources"].as_array().unwrap());
    assert!(
        resources.clone().count() > 3 && resources.clone().all(|one| one["state"] != "refused"),
        "{clients:?}"
    );
}
