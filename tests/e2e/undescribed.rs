//! A server that no document describes, with neither a service nor a workload of its own, goes by what holds for its namespace.

use std::time::Duration;

use examples::load::{Client, Tally};
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::Link;
use mesh_core::config::Endpoint;
use tests::{Backend, Mesh, all_to, identity, listener, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A pause between two looks: a server does not say what it goes by.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn document(kind: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: {kind}
metadata: {{name: one, namespace: {namespace}}}
spec: {spec}
"
    )
}

/// How many of ten calls are answered.
async fn calls(client: &mut Client) -> u64 {
    let tally = Tally::default();
    for _ in 0..10 {
        soon("a call", tally.call(client)).await;
    }
    10 - tally.counts().failed
}

async fn until(client: &mut Client, answered: u64) {
    let changed = async {
        while calls(client).await != answered {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the rule to reach the server", changed).await;
}

async fn answers_plaintext(backend: &Backend) -> bool {
    let mut io = TcpStream::connect(backend.address).await.unwrap();
    let mut answer = [0; 8];
    let asked = io.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    asked.is_ok() && io.read_exact(&mut answer).await.is_ok() && answer == *b"HTTP/1.1"
}

async fn until_plaintext_is(answered: bool, backend: &Backend) {
    let changed = async {
        while answers_plaintext(backend).await != answered {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the rule to reach the server", changed).await;
}

#[tokio::test]
async fn a_server_without_a_document_goes_by_its_namespace_and_is_strict_without_policies() {
    let mesh = Mesh::start(&[]).await;
    let (listener, _) = listener().await;
    let (backend, _server) = mesh.serve(listener, "v1").await;
    let caller = mesh.join("checkout");
    identity(&caller.link()).await;
    // Nobody tells clients of it either: this one has the address in code.
    let who = caller.link().identity().load().as_ref().clone().unwrap();
    let link = Link::fixed(all_to(Endpoint::new(backend.address)), Some(who));
    let mut client = PaymentClient::new(Channel::new(&link, "payment"));

    // Strict, and open to whoever is of the mesh.
    assert_eq!(calls(&mut client).await, 10);
    assert!(!answers_plaintext(&backend).await);

    // What the namespace says of calls holds for it, and what a selector says too: nobody knows its labels, and it may be the one that is meant.
    const NOBODY: &str = "{}";
    mesh.save("a.yaml", &document("AuthorizationPolicy", "default", NOBODY));
    until(&mut client, 0).await;
    // Another namespace's says nothing of it; the mesh's does.
    mesh.save("a.yaml", &document("AuthorizationPolicy", "elsewhere", NOBODY));
    until(&mut client, 10).await;
    mesh.save("a.yaml", &document("AuthorizationPolicy", "istio-system", NOBODY));
    until(&mut client, 0).await;
    mesh.save("a.yaml", &document("AuthorizationPolicy", "elsewhere", NOBODY));
    until(&mut client, 10).await;
    const SELECTED: &str = "{selector: {matchLabels: {app: payment}}}";
    mesh.save("a.yaml", &document("AuthorizationPolicy", "default", SELECTED));
    until(&mut client, 0).await;
    mesh.save("a.yaml", &document("AuthorizationPolicy", "elsewhere", NOBODY));
    until(&mut client, 10).await;

    // So it is with the modes, the narrower before the wider.
    const PERMISSIVE: &str = "{mtls: {mode: PERMISSIVE}}";
    mesh.save("p.yaml", &document("PeerAuthentication", "istio-system", PERMISSIVE));
    until_plaintext_is(true, &backend).await;
    assert_eq!(calls(&mut client).await, 10);
    let both = [
        document("PeerAuthentication", "istio-system", PERMISSIVE),
        document("PeerAuthentication", "default", "{mtls: {mode: STRICT}}"),
    ];
    mesh.save("p.yaml", &both.concat());
    until_plaintext_is(false, &backend).await;
    assert_eq!(calls(&mut client).await, 10);
}

/// A workload whose document is taken away goes on being closed by the policies that meant it: nothing opens because a document is missing.
#[tokio::test]
async fn az_a_policy_that_closes_outlives_the_document_of_its_workload() {
    let ((first, one), (_unserved, two)) = (listener().await, listener().await);
    let closed = "{selector: {matchLabels: {app: payment}}, action: DENY, rules: [{}]}";
    let mesh = Mesh::start(&[
        ("workloads.yaml", &tests::workloads(one, two)),
        ("a.yaml", &document("AuthorizationPolicy", "default", closed)),
    ])
    .await;
    let (backend, _server) = mesh.serve(first, "v1").await;
    let caller = mesh.join("checkout");
    identity(&caller.link()).await;
    let who = caller.link().identity().load().as_ref().clone().unwrap();
    let link = Link::fixed(all_to(Endpoint::new(backend.address)), Some(who));
    let mut client = PaymentClient::new(Channel::new(&link, "payment"));
    until(&mut client, 0).await;
    let read = mesh.control().status().accepted;
    std::fs::remove_file(mesh.path("workloads.yaml")).unwrap();
    mesh.until_read(|status| status.accepted > read).await;
    // What it goes by from then on is that of no document, which is told by a rule that only it has.
    let other =
        document("AuthorizationPolicy", "default", "{action: AUDIT, rules: [{}]}").replace("name: one", "name: two");
    mesh.save("b.yaml", &other);
    let audited = async {
        while backend.link.tally().get("authorization_audited", "rbac") == 0 {
            assert_eq!(calls(&mut client).await, 0);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the audit to reach the server", audited).await;
    assert_eq!(calls(&mut client).await, 0);
    std::fs::remove_file(mesh.path("a.yaml")).unwrap();
    until(&mut client, 10).await;
}
