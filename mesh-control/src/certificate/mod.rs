//! `meshctl cert show` and `cert verify`: what a chain says, and what peers of the mesh say to it.
//!
//! The judgement is that of `mesh_core::identity::verify`, the very functions that a handshake calls, so a chain that is good here is good
//! there, and a rule has the name that logs and metrics give it. What is read for `show` is read of any certificate and proves nothing.

mod view;

use std::fmt;

use mesh_core::config::{Clients, ExpectedPeers};
use mesh_core::identity::tls::ClientAuth;
use mesh_core::identity::verify::{ClientVerifier, Leaf, Refusal, ServerVerifier};
use mesh_core::identity::{SpiffeId, TrustBundle};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use serde::Serialize;

pub use view::CertificateView;

/// The most bytes of a file of certificates that are read: sixteen times what a peer may send.
pub const MAX_PEM_BYTES: usize = 1024 * 1024;

/// Who judges a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgedBy {
    /// A server, of the client that shows it.
    Server,
    /// A client, of the server that shows it.
    Client,
}

impl fmt::Display for JudgedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "a server",
            Self::Client => "a client",
        })
    }
}

/// A chain that every peer of the mesh believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Believed {
    /// Whom it names.
    pub id: SpiffeId,
    /// The last second that its leaf is valid.
    pub not_after: UnixTime,
}

/// The certificates in a text, in order.
///
/// # Errors
///
/// When there is none, one is broken, or the text is longer than [`MAX_PEM_BYTES`].
pub fn read_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, UnreadablePem> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(UnreadablePem::TooLarge);
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(UnreadablePem::Empty),
        Ok(all) => Ok(all),
        Err(_) => Err(UnreadablePem::Broken),
    }
}

/// Why a text has no certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnreadablePem {
    /// It is longer than [`MAX_PEM_BYTES`].
    TooLarge,
    /// There is none in it.
    Empty,
    /// One in it is no PEM.
    Broken,
}

impl fmt::Display for UnreadablePem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "more than {MAX_PEM_BYTES} bytes are no chain"),
            Self::Empty => f.write_str("holds no certificate in PEM"),
            Self::Broken => f.write_str("holds a certificate that is not PEM"),
        }
    }
}

impl std::error::Error for UnreadablePem {}

/// Whether every peer of a mesh with these roots believes a chain, leaf first, at `now`: as the client's at a server, and as the server's at
/// a client that expects `expected`, or else whom it names.
///
/// # Errors
///
/// The first rule that it breaks, and who would refuse it for that.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    expected: Option<&str>,
    now: UnixTime,
) -> Result<Believed, (JudgedBy, Refusal)> {
    let Some((leaf, signers)) = chain.split_first() else {
        return Err((JudgedBy::Server, Refusal::NoCertificate));
    };
    let refusal =
        |by| move |error: rustls::Error| (by, Refusal::from_error(&error).cloned().unwrap_or(Refusal::Unspecified));
    let server = ClientVerifier::new(bundle.clone(), ClientAuth::Required).admitting(Clients::Trusted);
    server
        .verify_client_cert(leaf, signers, now)
        .map_err(refusal(JudgedBy::Server))?;
    let read = Leaf::read(leaf).map_err(|refusal| (JudgedBy::Client, refusal))?;
    let expected = ExpectedPeers::exactly([expected.unwrap_or_else(|| read.id().as_str())]);
    let client = ServerVerifier::new(bundle.clone(), expected);
    // The name that was asked for plays no part in it.
    let name = ServerName::try_from("mesh").expect("a word is a name");
    client
        .verify_server_cert(leaf, signers, &name, &[], now)
        .map_err(refusal(JudgedBy::Client))?;
    Ok(Believed {
        id: read.id().clone(),
        not_after: read.not_after(),
    })
}

#[cfg(test)]
mod tests;
