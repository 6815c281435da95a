//! Who: names of workloads, the certificates that prove them, and how a peer's are judged.
//!
//! rustls and webpki verify certificates for the web. The SPIFFE standard asks for more, and a mesh for more again: exactly
//! one URI name of a strict grammar, key usages that webpki does not read, a chain to the roots of the name's *own* trust
//! domain, and a peer that is the one expected. [`verify`] adds all of that around them; [`tls`] is the only place that
//! builds rustls configurations, so that no connection exists without it.
//!
//! An [`Identity`] is a value: a certificate chain with its key, and the roots that others are judged by. Renewal publishes a
//! new one through the [`Link`](crate::Link); the next handshake uses it, open connections go on.

mod bundle;
mod credentials;
mod forwarded;
pub(crate) mod hashed;
mod pins;
mod spiffe;
mod svid;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod verify;

pub use bundle::{InvalidBundle, TrustBundle};
pub use credentials::{Credentials, Provided};
pub use forwarded::forwarded_client_cert;
pub use pins::Pins;
pub use spiffe::{InvalidSpiffeId, SpiffeId, TrustDomain};
pub use svid::{ClientCertificate, Identity, InvalidSvid, Svid};
