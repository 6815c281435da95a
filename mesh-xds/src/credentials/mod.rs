//! What a process shows to a control plane and judges it by, read from where the bootstrap says.
//!
//! [`Material`] is for the channel: roots, and a certificate that is not the workload's identity. [`CallTokens`] is for the
//! calls on it. Both come from files that somebody else renews, and both outlive connections; the channel itself does not.

mod call;
pub(crate) mod token;

#[cfg(test)]
mod tests;

use std::fmt;

use mesh_core::identity::{ClientCertificate, InvalidSvid};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::bootstrap::{CertificateFiles, Roots, TlsCredentials};
use crate::pem::{self, PemError};

pub(crate) use call::{CallTokens, Credentialed};

/// What TLS with a control plane needs.
#[derive(Clone, Debug)]
pub(crate) struct Material {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// What is shown instead of the workload's identity.
    pub(crate) certificate: Option<ClientCertificate>,
}

impl Material {
    /// Reads the files as they are now, all or nothing.
    pub(crate) async fn read(tls: &TlsCredentials) -> Result<Self, MaterialError> {
        let roots = match &tls.roots {
            Roots::Inline(text) => pem::certificates(text.as_bytes()),
            Roots::File(path) => pem::read(path).await.and_then(|bytes| pem::certificates(&bytes)),
            Roots::System => pem::system_certificates().await,
        };
        let certificate = match &tls.certificate {
            Some(files) => Some(certificate(files).await?),
            None => None,
        };
        Ok(Self {
            roots: roots.map_err(MaterialError::Roots)?,
            certificate,
        })
    }
}

async fn certificate(files: &CertificateFiles) -> Result<ClientCertificate, MaterialError> {
    let chain = pem::read(&files.certificate)
        .await
        .map_err(MaterialError::Certificate)?;
    let key = pem::read(&files.private_key).await.map(Zeroizing::new);
    let key = key.map_err(MaterialError::Key)?;
    let chain = pem::certificates(&chain).map_err(MaterialError::Certificate)?;
    let key = pem::private_key(&key).map_err(MaterialError::Key)?;
    ClientCertificate::new(chain, key).map_err(MaterialError::Pair)
}

/// Why there is no material.
#[derive(Debug)]
pub(crate) enum MaterialError {
    Roots(PemError),
    Certificate(PemError),
    Key(PemError),
    Pair(InvalidSvid),
}

impl fmt::Display for MaterialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots(error) => write!(f, "roots: {error}"),
            Self::Certificate(error) => write!(f, "client certificate: {error}"),
            Self::Key(error) => write!(f, "client key: {error}"),
            Self::Pair(error) => write!(f, "client certificate: {error}"),
        }
    }
}
