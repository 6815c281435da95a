//! What is shown to servers outside of the mesh, and what they are judged by, from where a configuration says that it is.
//!
//! Files are looked at for each handshake, which is rare, and read again when they changed. That needs no task to watch them and
//! escapes none of the ways in which secrets are renewed (mounted volumes, symbolic links). A file that is half-written, or
//! gone, fails that handshake and says so. The bytes of a key are wiped once they were read.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mesh_core::config::{Credential, Roots, TlsOrigination};
use mesh_core::identity::{ClientCertificate, Credentials, Identity, InvalidSvid};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// The most bytes a PEM file may have: a bundle of hundreds of roots.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The variable by which OpenSSL's programs, and many others, are told where the system's roots are.
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";
/// Where systems keep their roots in one file: Debian, Fedora, openSUSE, Alpine and the BSDs.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a configuration's words stood for when they were looked at: while it is the same, so is what is made of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Stamp>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    File(PathBuf, SystemTime, u64),
    Generation(u64),
}

/// Roots, and a certificate to show.
pub(super) struct Material {
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) shown: Option<ClientCertificate>,
}

/// Whoever has what a configuration names.
pub(super) struct Sources<'a> {
    pub(super) credentials: &'a Credentials,
    /// The one that the mode asks for ([`TlsMode::identity`](mesh_core::config::TlsMode::identity)).
    pub(super) identity: Option<&'a Identity>,
}

impl Sources<'_> {
    /// What `tls` stands for now, without reading it.
    pub(super) async fn stamps(&self, tls: &TlsOrigination) -> Result<Stamps, MaterialError> {
        let mut stamps = Vec::new();
        match &tls.roots {
            Roots::System => stamps.push(stamp(&system_roots().await?).await?),
            Roots::File(path) => stamps.push(stamp(path).await?),
            Roots::Named(name) => stamps.push(self.named(name)?),
            Roots::Workload => stamps.push(Stamp::Generation(self.own()?.generation())),
        }
        match &tls.shown {
            None => {}
            Some(Credential::Files { certificate, key }) => {
                stamps.push(stamp(certificate).await?);
                stamps.push(stamp(key).await?);
            }
            Some(Credential::Named(name)) => stamps.push(self.named(name)?),
            Some(Credential::Workload | Credential::Provider(_)) => {
                stamps.push(Stamp::Generation(self.own()?.generation()));
            }
        }
        Ok(Stamps(stamps))
    }

    /// Reads it.
    pub(super) async fn read(&self, tls: &TlsOrigination) -> Result<Material, MaterialError> {
        let roots = match &tls.roots {
            Roots::System => certificates(&system_roots().await?).await?,
            Roots::File(path) => certificates(path).await?,
            Roots::Named(name) => {
                let provided = self.credentials.get(name).and_then(|provided| provided.roots);
                provided
                    .ok_or_else(|| MaterialError::NotProvided(name.clone()))?
                    .to_vec()
            }
            Roots::Workload => {
                let own = self.own()?;
                own.bundle().roots(own.id().trust_domain()).to_vec()
            }
        };
        let shown = match &tls.shown {
            None => None,
            Some(Credential::Files { certificate, key }) => {
                let chain = certificates(certificate).await?;
                let bytes = Zeroizing::new(read(key).await?);
                let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| syntax(key, error))?;
                Some(ClientCertificate::new(chain, key).map_err(MaterialError::Certificate)?)
            }
            Some(Credential::Named(name)) => {
                let provided = self.credentials.get(name).and_then(|provided| provided.certificate);
                Some(provided.ok_or_else(|| MaterialError::NotProvided(name.clone()))?)
            }
            Some(Credential::Workload | Credential::Provider(_)) => Some(ClientCertificate::from(self.own()?)),
        };
        Ok(Material { roots, shown })
    }

    fn named(&self, name: &str) -> Result<Stamp, MaterialError> {
        let provided = self.credentials.get(name);
        let provided = provided.ok_or_else(|| MaterialError::NotProvided(name.into()))?;
        Ok(Stamp::Generation(provided.generation()))
    }

    fn own(&self) -> Result<&Identity, MaterialError> {
        self.identity.ok_or(MaterialError::NoIdentity)
    }
}

async fn system_roots() -> Result<PathBuf, MaterialError> {
    if let Some(path) = std::env::var_os(ROOTS_VARIABLE) {
        return Ok(path.into());
    }
    for path in SYSTEM_ROOTS {
        if tokio::fs::try_exists(path).await.unwrap_or(false) {
            return Ok(path.into());
        }
    }
    Err(MaterialError::NoSystemRoots)
}

async fn stamp(path: &Path) -> Result<Stamp, MaterialError> {
    let of = |metadata: std::fs::Metadata| Ok((metadata.modified()?, metadata.len()));
    let (modified, length) = tokio::fs::metadata(path)
        .await
        .and_then(of)
        .map_err(|error| MaterialError::File(path.into(), error))?;
    if length > MAX_FILE_BYTES {
        return Err(MaterialError::TooLong(path.into()));
    }
    Ok(Stamp::File(path.into(), modified, length))
}

async fn read(path: &Path) -> Result<Vec<u8>, MaterialError> {
    stamp(path).await?;
    tokio::fs::read(path)
        .await
        .map_err(|error| MaterialError::File(path.into(), error))
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let bytes = read(path).await?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all.map_err(|error| syntax(path, error))? {
        none if none.is_empty() => Err(MaterialError::NoCertificate(path.into())),
        some => Ok(some),
    }
}

fn syntax(path: &Path, error: pem::Error) -> MaterialError {
    MaterialError::Syntax(path.into(), error)
}

/// Why what a configuration names is not to be had.
#[derive(Debug)]
pub(crate) enum MaterialError {
    File(Box<Path>, io::Error),
    TooLong(Box<Path>),
    Syntax(Box<Path>, pem::Error),
    NoCertificate(Box<Path>),
    Certificate(InvalidSvid),
    NotProvided(Box<str>),
    NoIdentity,
    NoSystemRoots,
    NoServerName,
}

impl fmt::Display for MaterialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::TooLong(path) => write!(f, "{}: longer than 1 MiB", path.display()),
            Self::Syntax(path, error) => write!(f, "{}: not PEM: {error}", path.display()),
            Self::NoCertificate(path) => write!(f, "{}: there is no certificate in it", path.display()),
            Self::Certificate(error) => write!(f, "the certificate to show: {error}"),
            Self::NotProvided(name) => write!(f, "the application provides no credential {name:?}"),
            Self::NoIdentity => f.write_str("the workload has no identity"),
            Self::NoSystemRoots => write!(
                f,
                "the system's roots were not found: set {ROOTS_VARIABLE}, or name a file"
            ),
            Self::NoServerName => f.write_str("no server name is configured to hold the certificate against"),
        }
    }
}
