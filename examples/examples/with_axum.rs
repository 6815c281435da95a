//! The mesh in an existing axum service, and an HTTP call to it.
//!
//! ```text
//! GRPC_XDS_BOOTSTRAP=payment.json  cargo run -p examples --example with_axum -- 127.0.0.1:50061    # serves there
//! GRPC_XDS_BOOTSTRAP=checkout.json cargo run -p examples --example with_axum                       # calls once
//! ```
//!
//! A `Router` is an ordinary http service; `mesh_server::serve` takes the place of `axum::serve`. A handler that wants to know
//! who is calling asks for the `PeerIdentity` like for any other extension.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use mesh_client::Channel;
use mesh_core::Link;
use mesh_server::{MeshLayer, PeerIdentity};
use mesh_xds::{Bootstrap, XdsClient};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _};

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

/// The server: a layer around the router, and the mesh's loop.
pub(crate) async fn serve(listener: TcpListener, mesh: &Link) -> Result<(), Failure> {
    // Who may call is for policies to say, and for authorizers that they name (Istio's CUSTOM): this is how those are called.
    let authorizers = mesh.clone();
    let layer = MeshLayer::new(mesh).ext_authz_by(move |target| Channel::new(&authorizers, target));
    let app = layer.layer(Router::new().route("/charges", post(charge)));
    let stop = examples::stop_signal()?;
    mesh_server::serve(listener, mesh, app)
        .with_graceful_shutdown(stop)
        .await;
    Ok(())
}

async fn charge(Extension(caller): Extension<PeerIdentity>) -> String {
    caller.to_string()
}

/// The client: a channel is a tower service of http requests.
pub(crate) async fn call(mesh: &Link) -> Result<String, Failure> {
    let payments = Channel::new(mesh, "xds:///payment-service");
    let request = Request::post("/charges").body(Full::new(Bytes::from_static(b"42")))?;
    let response = payments.oneshot(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}
