//! The roots of other trust domains, from files: SPIFFE bundles or PEM (`x_mesh.trust_bundles`).
//!
//! Whatever gives the workload its identity knows the roots of its own domain, and SPIRE's agent those of others. For the rest
//! somebody puts files there: as a bundle endpoint is fetched into a mounted folder. They are read before the first identity is
//! published, so that nobody of a known domain is refused for coming early, and every minute after that. A file that cannot be
//! used changes nothing, and neither does one that goes back: bundles count their changes, and an old one brings back roots
//! that were taken out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mesh_core::identity::{Identity, InvalidBundle, TrustBundle, TrustDomain};
use rustls::pki_types::CertificateDer;

use super::Outlet;
use super::bundle_map::{self, InvalidBundleMap};
use crate::connect::Chain;
use crate::pem::{self, PemError};

/// How often the files are read again.
const INTERVAL: Duration = Duration::from_secs(60);

/// The files, and what they last said.
pub(super) struct Federation {
    files: BTreeMap<TrustDomain, PathBuf>,
    known: Mutex<BTreeMap<TrustDomain, Bundle>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Bundle {
    /// How often it has changed; PEM does not tell.
    sequence: Option<u64>,
    roots: Vec<CertificateDer<'static>>,
}

impl Federation {
    pub(super) fn new(files: BTreeMap<TrustDomain, PathBuf>) -> Self {
        Self {
            files,
            known: Mutex::default(),
        }
    }

    /// Reads the files: whether anything has changed.
    pub(super) async fn read(&self, outlet: &Outlet) -> bool {
        let mut has_changed = false;
        for (domain, path) in &self.files {
            match self.renew(domain, path).await {
                Ok(changed) => has_changed |= changed,
                Err(error) => {
                    tracing::warn!(%domain, path = %path.display(), reason = %error, "a trust bundle could not be read");
                    outlet.tally.count(outlet.event, "bundle_failed");
                }
            }
        }
        has_changed
    }

    async fn renew(&self, domain: &TrustDomain, path: &Path) -> Result<bool, BundleError> {
        let bytes = pem::read(path).await.map_err(BundleError::File)?;
        let bundle = Bundle::parse(&bytes)?;
        // What is no certificate is found here and not where it would spoil the whole identity.
        TrustBundle::new(domain.clone(), bundle.roots.clone()).map_err(BundleError::Roots)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(domain) {
            Some(last) if *last == bundle => return Ok(false),
            Some(Bundle {
                sequence: Some(last), ..
            }) if bundle.sequence.is_some_and(|next| next < *last) => {
                return Err(BundleError::Older(*last));
            }
            _ => {}
        }
        known.insert(domain.clone(), bundle);
        Ok(true)
    }

    /// `identity`, and the roots of the domains that it knows nothing of.
    pub(super) fn extend(&self, identity: Identity) -> Identity {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bundle = identity.bundle().clone();
        let mut others = known
            .iter()
            .filter(|(domain, _)| !bundle_has(identity.bundle(), domain));
        let extended = others.try_fold(bundle.clone(), |bundle, (domain, told)| {
            bundle.with_domain(domain.clone(), told.roots.clone())
        });
        match extended {
            Ok(extended) => bundle = extended,
            Err(error) => tracing::error!(%error, "a root that was read is none"),
        }
        match bundle == *identity.bundle() {
            true => identity,
            false => Identity::new(identity.svid().clone(), bundle),
        }
    }
}

fn bundle_has(bundle: &TrustBundle, domain: &TrustDomain) -> bool {
    bundle.domains().any(|known| known == domain)
}

/// Reads the files again and again, and publishes the identity anew when one has changed.
pub(super) async fn watch(outlet: &Outlet) -> Infallible {
    if outlet.federation.files.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        if outlet.federation.read(outlet).await {
            outlet.republish();
        }
    }
}

impl Bundle {
    fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let is_json = bytes.trim_ascii_start().first() == Some(&b'{');
        let (sequence, roots) = match is_json {
            true => bundle_map::bundle(bytes).map_err(BundleError::Json)?,
            false => (None, pem::certificates(bytes).map_err(BundleError::File)?),
        };
        Ok(Self { sequence, roots })
    }
}

/// Why a file is not used.
enum BundleError {
    File(PemError),
    Json(InvalidBundleMap),
    Roots(InvalidBundle),
    Older(u64),
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "{error}"),
            Self::Json(error) => write!(f, "SPIFFE bundle: {error}"),
            Self::Roots(error) => write!(f, "{}", Chain(error)),
            Self::Older(last) => write!(f, "it is older than sequence {last}, which was read before"),
        }
    }
}
