//! The mesh in an existing hyper service, and an HTTP call to it.
//!
//! ```text
//! GRPC_XDS_BOOTSTRAP=payment.json  cargo run -p examples --example with_hyper -- 127.0.0.1:50061    # serves there
//! GRPC_XDS_BOOTSTRAP=checkout.json cargo run -p examples --example with_hyper                       # calls once
//! ```
//!
//! hyper has a `Service` trait of its own; `FromHyper` makes a tower service of it. Whoever also wants to keep an accept loop
//! of their own puts an `mesh_server::Acceptor` between its socket and hyper's `serve_connection`.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use mesh_client::Channel;
use mesh_core::Link;
use mesh_server::{FromHyper, MeshLayer, PeerIdentity, RequestBody};
use mesh_xds::{Bootstrap, XdsClient};
use tokio::net::TcpListener;
use tower::{Layer as _, Service as _};

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

/// The server: hyper's service in the mesh's layer and loop.
pub(crate) async fn serve(listener: TcpListener, mesh: &Link) -> Result<(), Failure> {
    let app = MeshLayer::new(mesh).layer(FromHyper::new(service_fn(answer)));
    let stop = examples::stop_signal()?;
    mesh_server::serve(listener, mesh, app)
        .with_graceful_shutdown(stop)
        .await;
    Ok(())
}

async fn answer(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let caller = request.extensions().get::<PeerIdentity>();
    let caller = caller.map(ToString::to_string).unwrap_or_default();
    Ok(Response::new(Full::from(caller)))
}

/// The client: the same request type that hyper's client takes.
pub(crate) async fn call(mesh: &Link) -> Result<String, Failure> {
    let mut payments = Channel::new(mesh, "xds:///payment-service");
    let request = Request::get("/whoami").body(Empty::<Bytes>::new())?;
    let response = payments.call(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}
