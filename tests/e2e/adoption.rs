//! An existing service joins the mesh by a few lines, whatever it is written with: the programs of `examples/examples`, and
//! so the code that the README shows, serve and call over mutual TLS here.

use mesh_core::Link;
use mesh_core::config::{Cluster, Endpoint, Route, Snapshot, Split};
use mesh_core::testing::TestCa;
use tests::{CHECKOUT, PAYMENT, caller, member, mutual, soon};
use tokio::net::TcpListener;

#[allow(dead_code, reason = "a process's main, with its environment")]
#[path = "../../examples/examples/with_axum.rs"]
mod with_axum;
#[allow(dead_code, reason = "a process's main, with its environment")]
#[path = "../../examples/examples/with_hyper.rs"]
mod with_hyper;
#[allow(dead_code, reason = "a process's main, with its environment")]
#[path = "../../examples/examples/with_tonic.rs"]
mod with_tonic;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::test]
async fn tonic_keeps_its_own_loop_and_its_generated_client() {
    assert_eq!(
        whom_the_handler_saw(with_tonic::serve, with_tonic::call).await,
        CHECKOUT
    );
}

#[tokio::test]
async fn an_axum_router_is_served_and_called_over_http() {
    assert_eq!(whom_the_handler_saw(with_axum::serve, with_axum::call).await, CHECKOUT);
}

#[tokio::test]
async fn a_hyper_service_is_served_and_called_over_http() {
    assert_eq!(
        whom_the_handler_saw(with_hyper::serve, with_hyper::call).await,
        CHECKOUT
    );
}

/// What an example's client gets from its server, which answers with the `PeerIdentity` of its caller.
async fn whom_the_handler_saw(
    serve: impl AsyncFnOnce(TcpListener, &Link) -> Result<(), Failure>,
    call: impl AsyncFnOnce(&Link) -> Result<String, Failure>,
) -> String {
    let ca = TestCa::new("cluster.local");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_payment, server) = member(ca.identity(PAYMENT));
    let (checkout, client) = caller(&ca);
    checkout.snapshots.publish(payment_service(Endpoint::new(address)));
    tokio::select! {
        ended = serve(listener, &server) => panic!("the server ended: {ended:?}"),
        saw = soon("the answer", call(&client)) => saw.unwrap(),
    }
}

/// What the documents of `examples/istio` say of the payment service, with one endpoint.
fn payment_service(endpoint: Endpoint) -> Snapshot {
    let builder = Snapshot::builder().route("payment-service", Route::to(Split::all_to("payment")));
    let cluster = Cluster::new("payment", mutual(), vec![endpoint]);
    builder.cluster(cluster).build().expect("the cluster is there")
}
