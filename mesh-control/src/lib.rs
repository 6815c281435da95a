//! The control plane of an in-process service mesh: Istio's YAML in, xDS out, and a certificate authority.
//!
//! ```text
//! folder ─ source ─ istio ─ translate ─ publish ─ mesh_xds::server ─ ADS        (routes, clusters, endpoints)
//!                  (parse)   (pure)                                   CA ─ ca   (certificates)
//! ```
//!
//! It is a library, so that tests and examples embed what runs in production, and the program `meshctl`. It is the one crate
//! with secrets: an application that links the data plane does not link this.
//!
//! Configuration fails static: what cannot be read, does not fit the schema or contradicts itself is told with file, line and
//! field, and the last good configuration stays. Security fails closed: what would loosen the mesh and is not served is an
//! error, never ignored.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_control::ControlPlane;
//!
//! let control_plane = ControlPlane::builder("examples/istio").start().await?;
//! let bootstrap = control_plane.bootstrap("default", "payment")?;
//! # drop(bootstrap);
//! control_plane.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod ca;
pub mod certificate;
mod control_plane;
pub mod diagnostic;
mod emptied;
mod enrol;
pub mod explain;
pub mod istio;
mod jwks;
mod page;
pub mod precheck;
mod publish;
mod registration;
pub mod roster;
mod rotation;
mod serve;
pub mod shift;
mod source;
#[cfg(test)]
mod tests;
pub mod translate;

pub use ca::{
    Acknowledged, CaError, DEFAULT_LEAF_LIFETIME, DEFAULT_MAX_RENEWAL, IssuedCertificate, JoinToken, Lifetime,
    MAX_LEAF_LIFETIME, MAX_SINGLE_USE_LIFETIME, MIN_LEAF_LIFETIME, ReviewRefusal, RotationPhase, RotationRefusal,
    RotationStatus, RotationStep, ServiceAccountTokens, mesh_roots,
};
pub use control_plane::{ControlPlane, ControlPlaneBuilder, Dangerous, StartError};
pub use enrol::{EnrolError, Enrolment, noted_admin, noted_plaintext};
pub use jwks::{JwksConnector, JwksSource, JwksUri};
pub use publish::{Status, analyze};
pub use rotation::RootRotation;
#[cfg(unix)]
pub use rotation::rotate_root;
pub use source::{MAX_FILES, Reading};

/// How the listener of a server is called, `%s` for the address that it listens on (gRFC A36; the name that gRPC's documents give
/// it). Bootstraps made here say so.
pub const SERVER_LISTENERS: &str = "grpc/server?xds.resource.listening_address=%s";

/// Replaces a file by one that only its owner may read: mode 0600, written whole or not at all.
///
/// # Errors
///
/// When the file system refuses.
pub fn write_secret(path: &std::path::Path, bytes: &[u8]) -> Result<(), CaError> {
    ca::write_file(path, bytes)
}
