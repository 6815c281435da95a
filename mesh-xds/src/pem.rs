//! PEM in and out. Files that hold keys and certificates are small; one that is not is not read.

use std::fmt;
use std::io;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;

/// The most bytes a PEM file may have: a bundle of hundreds of roots.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Whether there is a private key in PEM somewhere in a resource. Protobuf carries texts as they are, however deep.
pub(crate) fn shows_key(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    bytes.windows(MARK.len()).any(|part| part == MARK)
}

/// Why there is nothing to be had.
#[derive(Debug)]
pub(crate) enum PemError {
    File(Box<Path>, io::Error),
    TooLong(Box<Path>),
    Syntax(pem::Error),
    NoCertificate,
    /// The system's store, and what it said.
    System(String),
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::TooLong(path) => write!(f, "{}: longer than 1 MiB", path.display()),
            Self::Syntax(error) => write!(f, "not PEM: {error}"),
            Self::NoCertificate => f.write_str("there is no certificate in it"),
            Self::System(why) => write!(f, "the system's store: {why}"),
        }
    }
}

/// Reads a file.
pub(crate) async fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    let unreadable = |error| PemError::File(path.into(), error);
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut bytes = Vec::new();
    let limited = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).await;
    if limited.map_err(unreadable)? as u64 > MAX_FILE_BYTES {
        return Err(PemError::TooLong(path.into()));
    }
    Ok(bytes)
}

/// Every certificate, in order; at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates.map_err(PemError::Syntax)? {
        none if none.is_empty() => Err(PemError::NoCertificate),
        some => Ok(some),
    }
}

/// The system's roots, from the platform's store or where `SSL_CERT_FILE` and `SSL_CERT_DIR` say; at least one. What cannot be
/// read beside those that can is left out, as OpenSSL does it.
pub(crate) async fn system_certificates() -> Result<Vec<CertificateDer<'static>>, PemError> {
    // Hundreds of files, on some systems.
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let loaded = loaded.map_err(|error| PemError::System(error.to_string()))?;
    match (loaded.certs, loaded.errors.first()) {
        (none, Some(error)) if none.is_empty() => Err(PemError::System(error.to_string())),
        (none, None) if none.is_empty() => Err(PemError::NoCertificate),
        (some, _) => Ok(some),
    }
}

/// The first private key.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(PemError::Syntax)
}
