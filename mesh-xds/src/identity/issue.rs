//! One certificate: a key made here, a request signed with it, and the CA's answer turned into an identity.

use std::fmt;

use mesh_core::identity::{Identity, InvalidBundle, InvalidSvid, SpiffeId, Svid, TrustBundle};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize as _;

use crate::connect::{Chain, ConnectError};
use crate::pem::{self, PemError};

/// A private key and the request made with it. The key never leaves the process; it has no `Debug`, and its encoded bytes are wiped when it
/// is dropped.
pub(super) struct Applicant {
    key: KeyPair,
    csr: String,
}

impl Applicant {
    /// Makes a P-256 key and a request for `id`.
    pub(super) fn new(id: &SpiffeId) -> Result<Self, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssueError::Request)?;
        let mut params = CertificateParams::default();
        // SPIFFE identities are URIs; a subject would only be one more thing to disagree with.
        params.distinguished_name = DistinguishedName::new();
        let uri = id.as_str().try_into().map_err(IssueError::Request)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let csr = params.serialize_request(&key).and_then(|request| request.pem());
        Ok(Self {
            csr: csr.map_err(IssueError::Request)?,
            key,
        })
    }

    /// The request, in PEM.
    pub(super) fn csr(&self) -> &str {
        &self.csr
    }

    /// Makes an identity of a CA's answer: PEM certificates, the leaf first and the root last. Roots that were trusted
    /// until now stay for one more term, so that peers with certificates of the old one are not cut off at a rotation.
    pub(super) fn accept(
        &self,
        id: &SpiffeId,
        answer: &[String],
        trusted: &[CertificateDer<'static>],
    ) -> Result<(Identity, Vec<CertificateDer<'static>>), IssueError> {
        let [chain @ .., root] = answer else {
            return Err(IssueError::Short(answer.len()));
        };
        if chain.is_empty() {
            return Err(IssueError::Short(answer.len()));
        }
        let chain = pem::certificates(chain.concat().as_bytes()).map_err(IssueError::Pem)?;
        let roots = pem::certificates(root.as_bytes()).map_err(IssueError::Pem)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let svid = Svid::new(chain, key).map_err(IssueError::Svid)?;
        if svid.id() != id {
            return Err(IssueError::Another(svid.id().clone()));
        }
        let mut all = roots.clone();
        all.extend(trusted.iter().filter(|old| !roots.contains(old)).cloned());
        let bundle = TrustBundle::new(id.trust_domain().clone(), all).map_err(IssueError::Bundle)?;
        Ok((Identity::new(svid, bundle), roots))
    }
}

impl Drop for Applicant {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) enum IssueError {
    Request(rcgen::Error),
    Token(PemError),
    TokenText,
    ClusterText,
    Connect(ConnectError),
    Refused(tonic::Status),
    TimedOut,
    Short(usize),
    Pem(PemError),
    Svid(InvalidSvid),
    Another(SpiffeId),
    Bundle(InvalidBundle),
    Ended,
}

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => write!(f, "the certificate request could not be made: {error}"),
            Self::Token(error) => write!(f, "the join token could not be read: {error}"),
            Self::TokenText => f.write_str("the join token is not fit for a header"),
            Self::ClusterText => f.write_str("the cluster's id is not fit for a header"),
            Self::Connect(error) => write!(f, "connecting to the CA: {error}"),
            Self::Refused(status) => write!(f, "the CA answered {:?}: {}", status.code(), status.message()),
            Self::TimedOut => f.write_str("the CA did not answer in time"),
            Self::Short(count) => write!(
                f,
                "the CA's answer has {count} certificates where it needs a leaf and a root"
            ),
            Self::Pem(error) => write!(f, "the CA's answer: {error}"),
            Self::Svid(error) => write!(f, "the CA's answer: {}", Chain(error)),
            Self::Another(id) => write!(f, "the CA's answer names another: {id}"),
            Self::Bundle(error) => write!(f, "the CA's roots: {}", Chain(error)),
            Self::Ended => f.write_str("the CA's certificate has ended already by the clock of this machine"),
        }
    }
}
