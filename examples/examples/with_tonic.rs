//! The mesh in an existing tonic service, and in an existing tonic client.
//!
//! ```text
//! GRPC_XDS_BOOTSTRAP=payment.json  cargo run -p examples --example with_tonic -- 127.0.0.1:50061    # serves there
//! GRPC_XDS_BOOTSTRAP=checkout.json cargo run -p examples --example with_tonic                       # calls once
//! ```
//!
//! Neither the generated code nor the handlers change. The server keeps tonic's own loop; it gets its connections from the
//! mesh instead of from a socket, so that plaintext and strangers never reach it.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Duration;

use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use examples::proto::payment_server::PaymentServer;
use examples::service::Payments;
use mesh_client::Channel;
use mesh_core::Link;
use mesh_server::MeshLayer;
use mesh_xds::{Bootstrap, XdsClient};
use tokio::net::TcpListener;

/// tonic's loop does not end a connection when a certificate behind it expires, so it is told to end each in time (Istio's own
/// connections live as long).
const CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    examples::logs("info");
    let mesh = XdsClient::start(Bootstrap::from_env()?)?.link();
    match std::env::args().nth(1) {
        Some(address) => serve(TcpListener::bind(address).await?, &mesh).await?,
        None => println!("the server saw {}", call(&mesh).await?),
    }
    Ok(())
}

/// The server: a layer, and where connections come from.
pub(crate) async fn serve(listener: TcpListener, mesh: &Link) -> Result<(), Failure> {
    let payments = Payments::new("v1", Duration::ZERO);
    mesh_server::tonic::server()
        .max_connection_age(CONNECTION_AGE)
        .layer(MeshLayer::new(mesh))
        .add_service(PaymentServer::new(payments))
        .serve_with_incoming(mesh_server::tonic::incoming(listener, mesh))
        .await?;
    Ok(())
}

/// The client: a generated client takes a mesh channel where it took tonic's.
pub(crate) async fn call(mesh: &Link) -> Result<String, Failure> {
    let mut payments = PaymentClient::new(Channel::new(mesh, "xds:///payment-service"));
    let reply = payments.charge(ChargeRequest::default()).await?.into_inner();
    Ok(reply.caller)
}
