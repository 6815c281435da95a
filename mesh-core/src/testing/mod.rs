//! A certificate authority for tests, which makes good leaves and every kind of bad one, and a wall clock that is set by hand.
//!
//! Behind the feature `testing`, so that the tests of every crate share it. Not the mesh's CA, which is in mesh-control and
//! refuses to make most of what this one makes.

mod ca;
mod clock;
mod encoding;
mod issuer;
mod leaf;

pub use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
pub use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};

pub use ca::{SignerForm, TestCa};
pub use clock::SettableClock;
pub use encoding::WeakSignature;
pub use issuer::TestIssuer;
pub use leaf::{Issued, Leaf, Name};

/// 2020-01-01, when what is made here becomes valid unless told otherwise.
pub const NOT_BEFORE_SECONDS: u64 = 1_577_836_800;
/// 2100-01-01, when it expires.
pub const NOT_AFTER_SECONDS: u64 = 4_102_444_800;
