//! A workload's own certificate and key, and what they make together with the roots it judges others by: its identity.
//!
//! Keys never leave this file but as rustls' signing handle: no accessor, no `Debug`, no serde. Everything is parsed when it
//! is made, so that a certificate that peers would refuse is an error at the source and not a riddle in a handshake.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use zeroize::Zeroize;

use super::verify::{Leaf, Refusal, chain};
use super::{SpiffeId, TrustBundle};

/// An X.509-SVID with its private key. Cheap to clone.
#[derive(Clone)]
pub struct Svid {
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// A certificate chain, leaf first, and the leaf's private key. The bytes of `key` are wiped.
    ///
    /// Dates are not judged here: a clock is needed for that, and every handshake does it.
    ///
    /// # Errors
    ///
    /// When the leaf is not one that a peer would accept (the rules of [`verify`](super::verify)), or the key is unusable or
    /// another certificate's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, InvalidSvid> {
        let leaf = chain.first().ok_or(InvalidSvid::Empty).and_then(|leaf| {
            let leaf = Leaf::read(leaf).map_err(InvalidSvid::Leaf)?;
            chain::check_size(chain.iter()).map_err(InvalidSvid::Leaf)?;
            Ok(leaf)
        });
        let certified = certify(chain, key);
        Ok(Self {
            leaf: leaf?,
            certified: certified?,
        })
    }

    /// Whom it names.
    pub fn id(&self) -> &SpiffeId {
        self.leaf.id()
    }

    /// The first second of its validity.
    pub fn not_before(&self) -> UnixTime {
        self.leaf.not_before()
    }

    /// The last second of its validity.
    pub fn not_after(&self) -> UnixTime {
        self.leaf.not_after()
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// What rustls signs with.
    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

/// Any certificate with its private key, to show to a server that is no part of the mesh and judges by rules of its own.
#[derive(Clone)]
pub struct ClientCertificate {
    certified: Arc<CertifiedKey>,
}

impl ClientCertificate {
    /// A certificate chain, leaf first, and the leaf's private key. The bytes of `key` are wiped.
    ///
    /// # Errors
    ///
    /// When there is no certificate, or the key is unusable or another certificate's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, InvalidSvid> {
        let certified = certify(chain, key)?;
        Ok(Self { certified })
    }

    /// What rustls signs with.
    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl From<&Identity> for ClientCertificate {
    fn from(identity: &Identity) -> Self {
        Self {
            certified: Arc::clone(identity.svid().certified()),
        }
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("certificates", &self.certified.cert.len())
            .finish_non_exhaustive()
    }
}

/// The one place where key bytes become a signing handle. They are wiped whatever comes of it.
fn certify(
    chain: Vec<CertificateDer<'static>>,
    mut key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, InvalidSvid> {
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key);
    key.zeroize();
    if chain.is_empty() {
        return Err(InvalidSvid::Empty);
    }
    let certified = CertifiedKey::new(chain, signing.map_err(|_| InvalidSvid::Key)?);
    certified.keys_match().map_err(|_| InvalidSvid::KeyMismatch)?;
    Ok(Arc::new(certified))
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", self.id())
            .field("not_after", &self.not_after().as_secs())
            .finish_non_exhaustive()
    }
}

/// Why a chain and a key are not an SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidSvid {
    /// There is no certificate.
    Empty,
    /// Peers would refuse the chain.
    Leaf(Refusal),
    /// The private key is of a kind that cannot be used.
    Key,
    /// The private key is not the leaf's.
    KeyMismatch,
}

impl fmt::Display for InvalidSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no certificate"),
            Self::Leaf(_) => f.write_str("peers would refuse the certificate"),
            Self::Key => f.write_str("the private key is of a kind that cannot be used"),
            Self::KeyMismatch => f.write_str("the private key is not the certificate's"),
        }
    }
}

impl std::error::Error for InvalidSvid {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Leaf(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// What a workload is and whom it trusts, as of one moment. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    svid: Svid,
    bundle: TrustBundle,
    generation: u64,
}

/// The next generation. Process-wide, because caches of TLS configurations outlive the source of an identity.
static GENERATION: AtomicU64 = AtomicU64::new(1);

impl Identity {
    /// An identity of a new generation.
    pub fn new(svid: Svid, bundle: TrustBundle) -> Self {
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Self {
            inner: Arc::new(Inner {
                svid,
                bundle,
                generation,
            }),
        }
    }

    /// Whom it names.
    pub fn id(&self) -> &SpiffeId {
        self.inner.svid.id()
    }

    /// Its certificate.
    pub fn svid(&self) -> &Svid {
        &self.inner.svid
    }

    /// The roots it judges others by.
    pub fn bundle(&self) -> &TrustBundle {
        &self.inner.bundle
    }

    /// A number that no other construction in this process has: the key of caches of what is made from an identity.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Whether `other` is the same workload that judges others by the same roots: a renewal of it, so that what was agreed
    /// under one holds under the other.
    pub fn is_renewal_of(&self, other: &Self) -> bool {
        self.id() == other.id() && self.bundle() == other.bundle()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", self.id())
            .field("not_after", &self.svid().not_after().as_secs())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}
