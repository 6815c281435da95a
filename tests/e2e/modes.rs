//! A workload asks of its clients what `PeerAuthentication` says, and its clients are told the same: from a saved file to both ends
//! of real connections, open ones included.

use std::net::SocketAddr;
use std::time::Duration;

use examples::load::Tally;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::Link;
use tests::{Backend, Mesh, listener, routes, soon, workloads};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A pause between two looks at what cannot be waited for: what a port says to strangers.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// `PeerAuthentication` documents of namespace `default`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: default}}
spec: {spec}
"
    )
}

/// Asks in plaintext, over a connection that is kept.
async fn ask(io: &mut TcpStream) -> bool {
    let mut answer = [0; 8];
    let asked = io.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    asked.is_ok() && io.read_exact(&mut answer).await.is_ok() && answer == *b"HTTP/1.1"
}

/// Whether a port answers plaintext.
async fn answers_plaintext(address: SocketAddr) -> bool {
    let mut io = TcpStream::connect(address).await.unwrap();
    ask(&mut io).await
}

async fn until_plaintext_is(answered: bool, address: SocketAddr) {
    let changed = async {
        while answers_plaintext(address).await != answered {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the rule to reach the server", changed).await;
}

/// How many of ten calls are answered.
async fn calls(link: &Link, plaintext: bool) -> u64 {
    let channel = match plaintext {
        true => Channel::builder(link, "payment-service")
            .dangerous()
            .plaintext()
            .build(),
        false => Channel::new(link, "payment-service"),
    };
    let (tally, mut client) = (Tally::default(), PaymentClient::new(channel));
    for _ in 0..10 {
        soon("a call", tally.call(&mut client)).await;
    }
    10 - tally.counts().failed
}

#[tokio::test]
async fn id_6_peer_authentication_holds_at_both_ends_of_open_connections_too() {
    let ((first, v1), (second, v2)) = (listener().await, listener().await);
    let mesh = Mesh::start(&[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(50, 50))]).await;
    let (one, _one) = mesh.serve(first, "v1").await;
    let (two, _two) = mesh.serve(second, "v2").await;
    let (_, checkout) = mesh.checkout("payment-service").await;
    let link = checkout.link();
    let handled = |backend: &Backend| backend.handled();

    // No policy: STRICT.
    assert_eq!(calls(&link, false).await, 10);
    assert_eq!(
        (answers_plaintext(v1).await, answers_plaintext(v2).await),
        (false, false)
    );

    // The namespace takes both, and who is of the mesh keeps to mutual TLS.
    mesh.save("peers.yaml", &policy("all", "{mtls: {mode: PERMISSIVE}}"));
    until_plaintext_is(true, v1).await;
    until_plaintext_is(true, v2).await;
    assert_eq!(calls(&link, false).await, 10);
    let mut open = TcpStream::connect(v2).await.unwrap();
    assert!(ask(&mut open).await);

    // A workload asks for more, and a port of the other for less: the plaintext connection to the one is ended, and only a client
    // whose code allows plaintext reaches the other.
    let narrower = [
        policy("all", "{mtls: {mode: PERMISSIVE}}"),
        policy("v2", "{selector: {matchLabels: {version: v2}}, mtls: {mode: STRICT}}"),
        policy(
            "v1",
            &format!(
                "{{selector: {{matchLabels: {{version: v1}}}}, portLevelMtls: {{{}: {{mode: DISABLE}}}}}}",
                v1.port()
            ),
        ),
    ]
    .concat();
    mesh.save("peers.yaml", &narrower);
    let mut rest = Vec::new();
    let _ = soon("the end of the open connection", open.read_to_end(&mut rest)).await;
    until_plaintext_is(false, v2).await;
    assert!(two.link.tally().get("connection_revoked", "plaintext") >= 1);
    assert!(answers_plaintext(v1).await);
    let told = async {
        while calls(&link, false).await == 10 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the rule to reach the client", told).await;
    let before = (handled(&one), handled(&two));
    assert_eq!(calls(&link, true).await, 10);
    assert!(handled(&one) > before.0 && handled(&two) > before.1);

    // A document that cannot be read changes nothing.
    let broken = narrower.replace("DISABLE", "DISABLED");
    mesh.save("peers.yaml", &broken);
    mesh.until_read(mesh_control::Status::is_rejected).await;
    assert_eq!(
        (answers_plaintext(v1).await, answers_plaintext(v2).await),
        (true, false)
    );

    // What says nothing inherits, and where nobody says anything it is STRICT, everywhere.
    mesh.save("peers.yaml", &policy("all", "{mtls: {mode: UNSET}}"));
    until_plaintext_is(false, v1).await;
    let told = async {
        while calls(&link, false).await != 10 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the rule to reach the client", told).await;
    assert!(!answers_plaintext(v2).await);
}

/// A compromised or mistaken configuration does not open a server whose code asks for mutual TLS.
#[tokio::test]
async fn id_5_a_floor_in_code_is_under_peer_authentication() {
    let ((first, v1), (_, v2)) = (listener().await, listener().await);
    let mesh = Mesh::start(&[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(100, 0))]).await;
    mesh.save("peers.yaml", &policy("all", "{mtls: {mode: PERMISSIVE}}"));
    let xds = mesh.join("payment");
    tests::identity(&xds.link()).await;
    let payments = examples::service::Payments::new("v1", Duration::ZERO);
    let service = tower::Layer::layer(
        &mesh_server::MeshLayer::new(&xds.link()),
        payments.clone().into_service(),
    );
    let serving = mesh_server::serve(first, &xds.link(), service).require_mutual_tls();
    tokio::spawn(async move { serving.await.cut() });
    let (_, checkout) = mesh.checkout("payment-service").await;
    let link = checkout.link();
    let served = async {
        while calls(&link, false).await != 10 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the server's configuration", served).await;
    assert!(!answers_plaintext(v1).await);
    assert!(xds.link().tally().get("handshake_refused", "plaintext") >= 1);
}
