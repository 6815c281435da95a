//! The inbound data plane of an in-process service mesh: strict mutual TLS and verified peers for any http service.
//!
//! ```no_run
//! use mesh_core::Link;
//! use mesh_server::{MeshLayer, serve};
//! use tokio::net::TcpListener;
//! use tower::Layer;
//!
//! async fn run(mesh: Link, app: axum::Router) -> std::io::Result<()> {
//!     let app = MeshLayer::new(&mesh).layer(app);
//!     let listener = TcpListener::bind("0.0.0.0:8443").await?;
//!     let stop = async { drop(tokio::signal::ctrl_c().await) };
//!     let drained = serve(listener, &mesh, app).with_graceful_shutdown(stop).await;
//!     println!("{} connections were cut", drained.cut());
//!     Ok(())
//! }
//! ```
//!
//! # One connection
//!
//! `accept` verifies the peer and makes it a [`PeerIdentity`]; the rooms of [`MeshLayer`] follow in the order that
//! `layer.rs` gives and explains; then the user's service, which finds the peer in the request's extensions. Refusals happen
//! at the first step that can tell, and no later step runs.
//!
//! The parts are usable alone: [`Acceptor`] in front of any server loop, the layers around any service, [`serve()`] as a
//! loop for those who have none, `tonic` for those who keep tonic's. [`admin`] is the plaintext port for probes.
//!
//! # Services
//!
//! Anything that is a `tower::Service<http::Request<RequestBody>>`: axum's `Router`, tonic's `Routes`,
//! `tower::service_fn`; hyper's own services through [`FromHyper`].

mod accept;
pub mod admin;
pub mod authenticate;
pub mod authorize;
mod bare;
pub mod canonical;
mod dangerous;
pub mod deadline;
mod ext_authz;
mod layer;
pub mod limit;
mod log_limit;
pub mod orca;
mod outside;
mod refusal;
mod serve;
pub mod show_body;
pub mod telemetry;
#[cfg(test)]
mod tests;
#[cfg(feature = "tonic")]
pub mod tonic;

pub use accept::{Acceptor, ConnectionInfo, HANDSHAKE_TIMEOUT, MAX_HANDSHAKES, MeshStream, PeerIdentity, Refused};
pub use bare::FromHyper;
pub use canonical::ForwardedClientCert;
pub use dangerous::Dangerous;
pub use layer::MeshLayer;
pub use outside::{CallFailed, OutsideCaller};
pub use refusal::{MaybeRefused, ResponseFuture};
pub use serve::{
    BODY_TIMEOUT, DRAIN_SPREAD, DRAIN_TIMEOUT, Drained, HEAD_TIMEOUT, IDLE_TIMEOUT, Listen, MAX_CONNECTIONS,
    MAX_REQUESTS, MAX_STREAMS, RequestBody, Serving, serve,
};
