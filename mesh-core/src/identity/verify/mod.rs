//! The verifiers that stand where rustls would put webpki's: a peer's chain becomes a verified SPIFFE id, or a [`Refusal`].
//!
//! webpki alone accepts leaves that SPIFFE refuses: two URI names, no name, a name of another trust domain, a key that may
//! sign certificates. It reads no key usage and knows no URI names. So a chain is judged in this order, and the first rule
//! it breaks is the answer:
//!
//! 1. size: [`MAX_CHAIN_CERTIFICATES`], [`MAX_CHAIN_BYTES`];
//! 2. the leaf's form (X509-SVID 2, 4, 5.2), in `leaf.rs`;
//! 3. the leaf's trust domain picks the roots, and only those (gRFC A87): a federated domain never vouches for another;
//! 4. the path to them (RFC 5280, by webpki) at the time rustls was given, then its signers' key usage and names;
//! 5. on the client, that the id is one the destination may show. An empty expectation refuses everybody; gRPC and Envoy
//!    accept everybody then, which turns a missing list into a silent hole;
//! 6. on the client, that the application's own [`Pins`] admit it, whatever the control plane expects.
//!
//! Revocation is by short lifetimes. A chain with a URI name constraint is refused whole, because webpki does not apply them.

pub(super) mod chain;
mod leaf;
mod refusal;
mod web;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::KeyUsage;

pub use chain::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
pub use leaf::Leaf;
pub(super) use leaf::parse;
pub use refusal::Refusal;
pub(super) use web::Unverified;
pub use web::WebVerifier;

use super::tls::{ClientAuth, provider};
use super::{Pins, SpiffeId, TrustBundle};
use crate::config::{Clients, ExpectedPeers};

/// Reads the id of a certificate that one of the verifiers below has accepted. It judges the leaf's form only: on a
/// certificate of any other origin the answer proves nothing.
///
/// # Errors
///
/// The first rule of X509-SVID that the leaf breaks.
pub fn leaf_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Refusal> {
    Leaf::read(leaf).map(|leaf| leaf.id().clone())
}

/// The last second of a certificate's validity, whoever made it and whatever it is for.
///
/// # Errors
///
/// When it is not a certificate.
pub fn not_after(certificate: &CertificateDer<'_>) -> Result<UnixTime, Refusal> {
    leaf::not_after(certificate)
}

/// How a client judges a server. The server name of the connection plays no part: the id does.
#[derive(Debug)]
pub struct ServerVerifier {
    bundle: TrustBundle,
    expected: ExpectedPeers,
    pins: Pins,
}

impl ServerVerifier {
    /// Accepts servers that `bundle` vouches for and `expected` admits.
    pub fn new(bundle: TrustBundle, expected: ExpectedPeers) -> Self {
        Self {
            bundle,
            expected,
            pins: Pins::default(),
        }
    }

    /// And of those, only whom `pins` admit.
    pub fn pinned(self, pins: Pins) -> Self {
        Self { pins, ..self }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.expected.tests().is_empty() {
            return Err(Refusal::NothingExpected.into());
        }
        let id = chain::verify(&self.bundle, end_entity, intermediates, now, KeyUsage::server_auth())?;
        if !self.expected.admits(id.as_str()) {
            return Err(Refusal::WrongIdentity(id).into());
        }
        if !self.pins.admits(&id) {
            return Err(Refusal::NotPinned(id).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Refusal::TlsVersion.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// How a server judges a client: any workload of the bundle's trust domains, unless its listener names some. What it may do is
/// authorization's question.
#[derive(Debug)]
pub struct ClientVerifier {
    bundle: TrustBundle,
    auth: ClientAuth,
    clients: Clients,
}

impl ClientVerifier {
    /// Accepts clients that `bundle` vouches for, and clients without a certificate if `auth` says so.
    pub fn new(bundle: TrustBundle, auth: ClientAuth) -> Self {
        Self {
            bundle,
            auth,
            clients: Clients::Trusted,
        }
    }

    /// And of those, only `clients`.
    #[must_use]
    pub fn admitting(self, clients: Clients) -> Self {
        Self { clients, ..self }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        match self.auth {
            ClientAuth::Required => true,
            ClientAuth::Optional => false,
        }
    }

    // No hints: a workload has one certificate, and the list would tell a stranger whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let id = chain::verify(&self.bundle, end_entity, intermediates, now, KeyUsage::client_auth())?;
        if !self.clients.admit(&id) {
            return Err(Refusal::WrongIdentity(id).into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Refusal::TlsVersion.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
