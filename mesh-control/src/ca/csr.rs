//! What a certificate signing request may say: this is my key, and I can use it. Nothing else in it is used.

use std::fmt;

use mesh_core::identity::SpiffeId;
use rcgen::{
    CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKey,
    PublicKeyData, SanType,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The longest request, in PEM. One with a P-256 key has about 500 bytes.
pub(super) const MAX_BYTES: usize = 8 * 1024;

/// A request whose sender has proven that it holds the private key.
pub(super) struct Request {
    pub(super) key: PublicKey,
    names: Vec<SanType>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    TooLarge,
    Unreadable,
    Unproven,
    KeyType,
    OtherName,
    OtherOwner,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the signing request is longer than 8 KiB",
            Self::Unreadable => "not a PEM signing request, or one with extensions that no workload needs",
            Self::Unproven => "the signing request is not signed by its own key",
            Self::KeyType => {
                "the key must be P-256, P-384 or Ed25519; RSA of 2048 bits or more, where the CA is told to take it"
            }
            Self::OtherOwner => "the key is another workload's",
            Self::OtherName => "the signing request asks for another name than the caller's",
        })
    }
}

impl Request {
    /// Reads a request and checks its proof of possession.
    pub(super) fn read(pem: &str, accepts_rsa: bool) -> Result<Self, Refusal> {
        if pem.len() > MAX_BYTES {
            return Err(Refusal::TooLarge);
        }
        let request = CertificateSigningRequestParams::from_pem(pem).map_err(|error| match error {
            rcgen::Error::InvalidCertificationRequestSignature => Refusal::Unproven,
            _ => Refusal::Unreadable,
        })?;
        check_key(&request.public_key, accepts_rsa)?;
        Ok(Self {
            key: request.public_key,
            names: request.params.subject_alt_names,
        })
    }

    /// Whether the request asks for nothing, or for exactly `id`.
    pub(super) fn check_name(&self, id: &SpiffeId) -> Result<(), Refusal> {
        match &self.names[..] {
            [] => Ok(()),
            [SanType::URI(uri)] if uri.as_str() == id.as_str() => Ok(()),
            _ => Err(Refusal::OtherName),
        }
    }
}

/// The least bits of an RSA key, as the verifiers of this mesh ask.
const MIN_RSA_BITS: usize = 2048;

fn is_good_rsa(key: &PublicKey) -> bool {
    let info = key.subject_public_key_info();
    let parsed = SubjectPublicKeyInfo::from_der(&info);
    let parsed = parsed.as_ref().ok().and_then(|(_, info)| info.parsed().ok());
    matches!(parsed, Some(x509_parser::public_key::PublicKey::RSA(rsa)) if rsa.key_size() >= MIN_RSA_BITS)
}

/// The type is told by the signature's algorithm, so the length is checked too: a P-384 key that signed with SHA-256 would
/// otherwise be written into a certificate as P-256.
fn check_key(key: &PublicKey, accepts_rsa: bool) -> Result<(), Refusal> {
    let types = [
        (&PKCS_ECDSA_P256_SHA256, 65),
        (&PKCS_ECDSA_P384_SHA384, 97),
        (&PKCS_ED25519, 32),
    ];
    let fits = |(algorithm, length): (&rcgen::SignatureAlgorithm, usize)| {
        *key.algorithm() == *algorithm && key.der_bytes().len() == length
    };
    if types.into_iter().any(fits) || (accepts_rsa && is_good_rsa(key)) {
        Ok(())
    } else {
        Err(Refusal::KeyType)
    }
}
