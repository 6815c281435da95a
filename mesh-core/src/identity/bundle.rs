//! Whom a workload trusts: roots, each for the names of its own domain.
//!
//! Kept per domain and never pooled: with one pool, whoever holds the roots of a federated domain could name our workloads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, TrustAnchor};

use super::TrustDomain;

/// The roots of each trust domain. A domain's roots vouch for its own workloads and nobody else's (gRFC A87).
///
/// A domain with no roots is known and trusted for nothing (SPIFFE Trust Domain and Bundle 4).
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    domains: BTreeMap<TrustDomain, Roots>,
}

#[derive(Clone)]
struct Roots {
    certificates: Arc<[CertificateDer<'static>]>,
    anchors: Arc<[TrustAnchor<'static>]>,
}

impl TrustBundle {
    /// A bundle of one domain.
    ///
    /// # Errors
    ///
    /// When a root is not a certificate.
    pub fn new(domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, InvalidBundle> {
        let empty = Self {
            domains: BTreeMap::new(),
        };
        empty.with_domain(domain, roots)
    }

    /// Adds a federated domain, or replaces the roots of a known one.
    ///
    /// # Errors
    ///
    /// When a root is not a certificate.
    pub fn with_domain(
        mut self,
        domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, InvalidBundle> {
        let anchors = roots
            .iter()
            .map(|root| webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|_| InvalidBundle { domain: domain.clone() })?;
        let roots = Roots {
            certificates: roots.into(),
            anchors,
        };
        self.domains.insert(domain, roots);
        Ok(self)
    }

    /// The domains it knows, in order.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.keys()
    }

    /// The roots of `domain`; none for a domain it does not know.
    pub fn roots(&self, domain: &TrustDomain) -> &[CertificateDer<'static>] {
        self.domains.get(domain).map_or(&[], |roots| &roots.certificates)
    }

    /// What chains of `domain` must end in, or `None` when the domain is unknown.
    pub(super) fn anchors(&self, domain: &TrustDomain) -> Option<&[TrustAnchor<'static>]> {
        self.domains.get(domain).map(|roots| &*roots.anchors)
    }
}

/// Two are the same that have the same certificates.
impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certificates, &other.certificates) || self.certificates == other.certificates
    }
}

impl Eq for Roots {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self
            .domains
            .iter()
            .map(|(domain, roots)| (domain, roots.certificates.len()));
        f.debug_map().entries(counts).finish()
    }
}

/// A root that is not a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidBundle {
    domain: TrustDomain,
}

impl fmt::Display for InvalidBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a root of trust domain {} is not a certificate", self.domain)
    }
}

impl std::error::Error for InvalidBundle {}
