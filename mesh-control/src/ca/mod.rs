//! The certificate authority: it proves who its callers are, and gives each a certificate for that name and no other.
//!
//! ```text
//! service (gRPC) ── who is calling? a join token, somebody else's, or a certificate ── token, review, denied, proven, limit
//!        └──────── what key? the request's own, proven ── csr ── issue (the leaf) ── root (the only private key)
//! ```
//!
//! The name in a certificate comes from the authenticated caller alone. A request that asks for another name is refused, not
//! corrected: a workload that is confused about who it is should hear of it. This is the only module that knows the private
//! key of the mesh (ARCHITECTURE.md, invariant 4).

mod audit;
mod common;
mod csr;
mod denied;
mod error;
mod files;
mod issue;
mod keys;
mod limit;
mod offline;
mod proto;
mod proven;
mod public;
mod records;
mod renewals;
mod review;
mod root;
mod rotation;
mod service;
#[cfg(test)]
mod tests;
mod token;

pub use error::CaError;
pub use issue::{DEFAULT_LEAF_LIFETIME, MAX_LEAF_LIFETIME, MIN_LEAF_LIFETIME};
pub use offline::IssuedCertificate;
pub use proven::DEFAULT_MAX_RENEWAL;
pub use public::mesh_roots;
pub use review::{ReviewRefusal, ServiceAccountTokens};
pub use rotation::{Acknowledged, RotationPhase, RotationRefusal, RotationStatus, RotationStep};
pub use token::{JoinToken, Lifetime, MAX_SINGLE_USE_LIFETIME};

pub(crate) use files::{lock_directory, make_directory, read_up_to as read_file, write as write_file};
pub(crate) use issue::{Authority, issued_at, shown};
pub(crate) use review::Reviewer;
pub(crate) use service::CertificateService;
