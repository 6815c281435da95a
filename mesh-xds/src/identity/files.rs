//! `file_watcher` (gRFCs A29, A87): a chain, its key and the roots in files that somebody else renews.
//!
//! They are read again on an interval rather than watched, since renewal by symbolic links and mounted secrets escapes
//! watches. The three are taken together or not at all: a set that has changed is read until it is the same twice, and one that is half
//! written is tried again later.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use mesh_core::identity::{Identity, InvalidBundle, InvalidSvid, Svid, TrustBundle, TrustDomain};
use zeroize::Zeroizing;

use super::Outlet;
use super::bundle_map::{self, InvalidBundleMap};
use crate::bootstrap::{CertificateFiles, FileWatcher, TrustFile};
use crate::connect::Chain;
use crate::pem::{self, PemError};

/// How soon files are looked at again while there is no identity at all.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);

/// How often a set that has changed is read until it is the same twice. Whoever writes for longer is waited for until the next look.
const MAX_READS: usize = 5;

/// The files of an identity. Without roots it trusts nobody.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    identity: &'a CertificateFiles,
    trust: Option<&'a TrustFile>,
    refresh_interval: Duration,
}

impl<'a> From<&'a FileWatcher> for Files<'a> {
    fn from(files: &'a FileWatcher) -> Self {
        Self {
            identity: &files.identity,
            trust: Some(&files.trust),
            refresh_interval: files.refresh_interval,
        }
    }
}

impl<'a> Files<'a> {
    /// A certificate alone.
    pub(super) fn half(identity: &'a CertificateFiles, refresh_interval: Duration) -> Self {
        Self {
            identity,
            trust: None,
            refresh_interval,
        }
    }
}

pub(super) async fn supply(files: Files<'_>, outlet: &Outlet) -> Infallible {
    let mut last = None;
    loop {
        match Material::settled(files, last.as_ref()).await {
            Ok(material) if last.as_ref() == Some(&material) => {}
            Ok(material) => match material.identity(files.trust) {
                Ok(identity) => {
                    let begin = identity.svid().not_before();
                    outlet.issued(identity, begin);
                    last = Some(material);
                }
                Err(error) => outlet.failed(&error),
            },
            Err(error) => outlet.failed(&error),
        }
        let interval = match outlet.valid() {
            Some(_) => files.refresh_interval,
            None => files.refresh_interval.min(MISSING_INTERVAL),
        };
        tokio::time::sleep(interval).await;
    }
}

/// Roots alone.
pub(super) struct Trust {
    file: TrustFile,
    refresh_interval: Duration,
}

impl Trust {
    pub(super) fn new(file: TrustFile, refresh_interval: Duration) -> Self {
        Self { file, refresh_interval }
    }

    /// What they are now; those in PEM are of this domain.
    pub(super) async fn read(&self, own: &TrustDomain) -> Result<TrustBundle, FileError> {
        bundle(&self.file, &read(&self.file).await?, own.clone())
    }

    /// How soon to look again, whether or not there are some.
    pub(super) fn interval(&self, are_there: bool) -> Duration {
        match are_there {
            true => self.refresh_interval,
            false => self.refresh_interval.min(MISSING_INTERVAL),
        }
    }
}

/// Whether there is a certificate at all.
pub(super) async fn are_there(files: &FileWatcher) -> bool {
    tokio::fs::try_exists(&files.identity.certificate)
        .await
        .unwrap_or(false)
}

/// The files' bytes.
#[derive(PartialEq, Eq)]
struct Material {
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
    trust: Option<Vec<u8>>,
}

impl Material {
    /// The set as `last` has it, or as it was found twice: what is swapped between two of its files, as Kubernetes swaps a secret,
    /// would give a leaf of one version with the roots of another.
    async fn settled(files: Files<'_>, last: Option<&Self>) -> Result<Self, FileError> {
        let mut found = Self::read(files).await?;
        for _ in 1..MAX_READS {
            if last == Some(&found) {
                return Ok(found);
            }
            let again = Self::read(files).await?;
            if again == found {
                return Ok(found);
            }
            found = again;
        }
        Err(FileError::Changing)
    }

    async fn read(files: Files<'_>) -> Result<Self, FileError> {
        Ok(Self {
            certificate: pem::read(&files.identity.certificate).await.map_err(FileError::Pem)?,
            private_key: Zeroizing::new(pem::read(&files.identity.private_key).await.map_err(FileError::Pem)?),
            trust: match files.trust {
                Some(file) => Some(read(file).await?),
                None => None,
            },
        })
    }

    fn identity(&self, kind: Option<&TrustFile>) -> Result<Identity, FileError> {
        let chain = pem::certificates(&self.certificate).map_err(FileError::Pem)?;
        let key = pem::private_key(&self.private_key).map_err(FileError::Pem)?;
        let svid = Svid::new(chain, key).map_err(FileError::Svid)?;
        let own = svid.id().trust_domain().clone();
        let bundle = match (kind, &self.trust) {
            (Some(kind), Some(bytes)) => bundle(kind, bytes, own)?,
            _ => TrustBundle::new(own, Vec::new()).map_err(FileError::Bundle)?,
        };
        Ok(Identity::new(svid, bundle))
    }
}

async fn read(file: &TrustFile) -> Result<Vec<u8>, FileError> {
    let (TrustFile::Roots(path) | TrustFile::BundleMap(path)) = file;
    pem::read(path).await.map_err(FileError::Pem)
}

/// What the bytes of such a file say. Roots in PEM are those of `own`.
fn bundle(kind: &TrustFile, bytes: &[u8], own: TrustDomain) -> Result<TrustBundle, FileError> {
    match kind {
        TrustFile::Roots(_) => {
            let roots = pem::certificates(bytes).map_err(FileError::Pem)?;
            TrustBundle::new(own, roots).map_err(FileError::Bundle)
        }
        TrustFile::BundleMap(_) => {
            let mut domains = bundle_map::parse(bytes).map_err(FileError::BundleMap)?;
            // A map that does not name the workload's own domain trusts nobody in it.
            let roots = domains.remove(&own).unwrap_or_default();
            let bundle = TrustBundle::new(own, roots).map_err(FileError::Bundle)?;
            let mut domains = domains.into_iter();
            domains
                .try_fold(bundle, |bundle, (domain, roots)| bundle.with_domain(domain, roots))
                .map_err(FileError::Bundle)
        }
    }
}

#[derive(Debug)]
pub(super) enum FileError {
    Changing,
    Pem(PemError),
    Svid(InvalidSvid),
    Bundle(InvalidBundle),
    BundleMap(InvalidBundleMap),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changing => f.write_str("the files are being written"),
            Self::Pem(error) => write!(f, "{error}"),
            Self::Svid(error) => write!(f, "{}", Chain(error)),
            Self::Bundle(error) => write!(f, "{}", Chain(error)),
            Self::BundleMap(error) => write!(f, "SPIFFE bundle map: {error}"),
        }
    }
}
