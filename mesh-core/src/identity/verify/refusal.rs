//! Why a peer was refused, in words that fit a metric label and in a sentence that fits a log.
//!
//! rustls carries it: refusals it has a name for travel as that name, so that the alert tells the peer as much as TLS can
//! say (`certificate_expired`, `unknown_ca`), the others inside [`CertificateError::Other`]. [`Refusal::from_error`] reads
//! both back.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError, PeerIncompatible};

use super::super::{InvalidSpiffeId, SpiffeId, TrustDomain};

/// Why a handshake was refused. Nothing in it is text that a peer could choose freely: ids passed the grammar first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer does not speak TLS 1.3.
    TlsVersion,
    /// The two ends have no application protocol in common.
    NoCommonProtocol,
    /// The client sent no certificate.
    NoCertificate,
    /// More than [`MAX_CHAIN_CERTIFICATES`](super::MAX_CHAIN_CERTIFICATES).
    ChainTooLong,
    /// More than [`MAX_CHAIN_BYTES`](super::MAX_CHAIN_BYTES).
    ChainTooLarge,
    /// A path could not be found within webpki's budget.
    ChainTooComplex,
    /// Not X.509, or a name or date in it is malformed.
    BadEncoding,
    /// Not X.509 version 3.
    CertificateVersion,
    /// The leaf's key is RSA of less than 2048 bits.
    WeakKey,
    /// The leaf has no alternative names.
    NoSan,
    /// The leaf has alternative names, but none is a URI.
    NoUriSan,
    /// The leaf has more than one URI name.
    TwoUriSans,
    /// The leaf's URI name is not a SPIFFE id.
    Id(InvalidSpiffeId),
    /// The leaf's SPIFFE id has no path: it names the trust domain, not a workload.
    RootPath,
    /// The leaf is a CA.
    CaLeaf,
    /// The leaf has no key usage.
    NoKeyUsage,
    /// The leaf's key usage is not critical.
    KeyUsageNotCritical,
    /// The leaf's key may not sign handshakes.
    NoDigitalSignature,
    /// The leaf's key may sign certificates.
    KeyCertSign,
    /// The leaf's key may sign revocation lists.
    CrlSign,
    /// The leaf has extended key usages, without serverAuth among them.
    NoServerAuth,
    /// The leaf has extended key usages, without clientAuth among them.
    NoClientAuth,
    /// No roots are known for the leaf's trust domain.
    ForeignTrustDomain(TrustDomain),
    /// The leaf's trust domain is known to have no roots: nothing of it is trusted.
    NoRoots(TrustDomain),
    /// No path leads to a root of the leaf's trust domain. A false signature says no more than that: another CA of the same
    /// name, as after a rotation that went wrong, looks no different from a forgery.
    UnknownIssuer,
    /// A certificate on the path has expired.
    Expired,
    /// A certificate on the path is not valid yet.
    NotYetValid,
    /// The peer does not hold the key of the certificate it shows.
    BadSignature,
    /// A signature on the path is of a kind that is not trusted, such as SHA-1.
    SignatureAlgorithm,
    /// A critical extension is not understood.
    CriticalExtension,
    /// A name constraint refuses the path. URI constraints refuse every path.
    NameConstraint,
    /// A signer's path length is exceeded.
    PathLength,
    /// A signer on the path is no CA.
    SignerNotCa,
    /// A signer's key usage does not allow signing certificates.
    SignerKeyUsage,
    /// A signer's SPIFFE id has a path, or is another trust domain's.
    SignerId,
    /// A signer may not sign for this purpose.
    Purpose,
    /// Nobody is expected at this destination, so nobody is accepted.
    NothingExpected,
    /// The peer is who its certificate says, but not whom the destination may show.
    WrongIdentity(SpiffeId),
    /// The destination may show it, but the application pinned others: see [`Pins`](crate::identity::Pins).
    NotPinned(SpiffeId),
    /// The server's certificate is good for none of the names that it is to have.
    WrongName,
    /// The peer's chain is refused by a rule that has no name here.
    Unspecified,
}

impl Refusal {
    /// What `error`, the end of a handshake on this side, says about the peer. `None` when it is about something else: an
    /// alert the peer sent, a broken record, a closed connection.
    pub fn from_error(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(error) => Some(Self::from_certificate_error(error)),
            Error::NoCertificatesPresented => Some(&Self::NoCertificate),
            Error::NoApplicationProtocol => Some(&Self::NoCommonProtocol),
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::ServerDoesNotSupportTls12Or13,
            ) => Some(&Self::TlsVersion),
            _ => None,
        }
    }

    fn from_certificate_error(error: &CertificateError) -> &Self {
        match error {
            CertificateError::Other(OtherError(inner)) => inner.downcast_ref().unwrap_or(&Self::Unspecified),
            CertificateError::BadEncoding => &Self::BadEncoding,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => &Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => &Self::NotYetValid,
            CertificateError::UnknownIssuer => &Self::UnknownIssuer,
            CertificateError::BadSignature => &Self::BadSignature,
            CertificateError::UnhandledCriticalExtension => &Self::CriticalExtension,
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => &Self::SignatureAlgorithm,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => &Self::WrongName,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => &Self::Purpose,
            _ => &Self::Unspecified,
        }
    }

    /// A stable lower-case word, fit for a metric label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::TlsVersion => "tls_version",
            Self::NoCommonProtocol => "no_common_protocol",
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong => "chain_too_long",
            Self::ChainTooLarge => "chain_too_large",
            Self::ChainTooComplex => "chain_too_complex",
            Self::BadEncoding => "bad_encoding",
            Self::CertificateVersion => "certificate_version",
            Self::WeakKey => "weak_key",
            Self::NoSan => "no_san",
            Self::NoUriSan => "no_uri_san",
            Self::TwoUriSans => "two_uri_sans",
            Self::Id(rule) => rule.as_str(),
            Self::RootPath => "root_path",
            Self::CaLeaf => "ca_leaf",
            Self::NoKeyUsage => "no_key_usage",
            Self::KeyUsageNotCritical => "key_usage_not_critical",
            Self::NoDigitalSignature => "no_digital_signature",
            Self::KeyCertSign => "key_cert_sign",
            Self::CrlSign => "crl_sign",
            Self::NoServerAuth => "no_server_auth",
            Self::NoClientAuth => "no_client_auth",
            Self::ForeignTrustDomain(_) => "foreign_trust_domain",
            Self::NoRoots(_) => "no_roots",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::BadSignature => "bad_signature",
            Self::SignatureAlgorithm => "signature_algorithm",
            Self::CriticalExtension => "critical_extension",
            Self::NameConstraint => "name_constraint",
            Self::PathLength => "path_length",
            Self::SignerNotCa => "signer_not_ca",
            Self::SignerKeyUsage => "signer_key_usage",
            Self::SignerId => "signer_id",
            Self::Purpose => "purpose",
            Self::NothingExpected => "nothing_expected",
            Self::WrongIdentity(_) => "wrong_identity",
            Self::NotPinned(_) => "not_pinned",
            Self::WrongName => "wrong_name",
            Self::Unspecified => "unspecified",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Id(rule) => return write!(f, "the certificate's URI name is not a SPIFFE id: {rule}"),
            Self::ForeignTrustDomain(domain) => return write!(f, "no roots are known for trust domain {domain}"),
            Self::NoRoots(domain) => return write!(f, "trust domain {domain} has no roots: nothing of it is trusted"),
            Self::WrongIdentity(id) => return write!(f, "{id} is not an identity that this destination may show"),
            Self::NotPinned(id) => return write!(f, "{id} is not among the peers that this process was pinned to"),
            Self::TlsVersion => "the peer does not speak TLS 1.3",
            Self::NoCommonProtocol => "no application protocol in common",
            Self::NoCertificate => "the peer sent no certificate",
            Self::ChainTooLong => "the peer sent more than 4 certificates",
            Self::ChainTooLarge => "the peer sent more than 64 KiB of certificates",
            Self::ChainTooComplex => "no path to a root was found within the budget for it",
            Self::BadEncoding => "the certificate is malformed",
            Self::CertificateVersion => "the certificate is not X.509 version 3",
            Self::WeakKey => "the certificate's key is RSA of less than 2048 bits",
            Self::NoSan => "the certificate has no alternative name",
            Self::NoUriSan => "the certificate has no URI name",
            Self::TwoUriSans => "the certificate has more than one URI name",
            Self::RootPath => "the certificate's SPIFFE id names a trust domain, not a workload",
            Self::CaLeaf => "the certificate is a CA's",
            Self::NoKeyUsage => "the certificate has no key usage",
            Self::KeyUsageNotCritical => "the certificate's key usage is not critical",
            Self::NoDigitalSignature => "the certificate's key usage lacks digitalSignature",
            Self::KeyCertSign => "the certificate's key may sign certificates",
            Self::CrlSign => "the certificate's key may sign revocation lists",
            Self::NoServerAuth => "the certificate's extended key usage lacks serverAuth",
            Self::NoClientAuth => "the certificate's extended key usage lacks clientAuth",
            Self::UnknownIssuer => "the certificate was not signed by a root of its trust domain",
            Self::Expired => "the certificate, or one above it, has expired",
            Self::NotYetValid => "the certificate, or one above it, is not valid yet",
            Self::BadSignature => "the peer does not hold the key of the certificate it shows",
            Self::SignatureAlgorithm => "a signature on the certificate's path is of a kind that is not trusted",
            Self::CriticalExtension => "a critical extension is not understood",
            Self::NameConstraint => "a name constraint refuses the certificate; URI constraints refuse all",
            Self::PathLength => "a signer's path length is exceeded",
            Self::SignerNotCa => "a signer of the certificate is no CA",
            Self::SignerKeyUsage => "a signer's key usage does not allow signing certificates",
            Self::SignerId => "a signer's SPIFFE id has a path, or is another trust domain's",
            Self::Purpose => "a signer of the certificate may not sign for this purpose",
            Self::NothingExpected => "no identity is expected at this destination, so none is accepted",
            Self::WrongName => "the certificate is good for none of the names that the server is to have",
            Self::Unspecified => "the certificate breaks a rule that has no name here",
        };
        f.write_str(text)
    }
}

impl StdError for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let error = match refusal {
            Refusal::BadEncoding => CertificateError::BadEncoding,
            Refusal::Expired => CertificateError::Expired,
            Refusal::NotYetValid => CertificateError::NotValidYet,
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            Refusal::BadSignature => CertificateError::BadSignature,
            Refusal::CriticalExtension => CertificateError::UnhandledCriticalExtension,
            Refusal::WrongName => CertificateError::NotValidForName,
            Refusal::Purpose => CertificateError::InvalidPurpose,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        Self::InvalidCertificate(error)
    }
}

impl From<webpki::Error> for Refusal {
    fn from(error: webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::BadDer | E::BadDerTime | E::TrailingData(_) | E::MalformedExtensions | E::ExtensionValueInvalid => {
                Self::BadEncoding
            }
            E::UnsupportedCertVersion => Self::CertificateVersion,
            E::CertExpired { .. } | E::InvalidCertValidity => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            E::UnknownIssuer | E::InvalidSignatureForPublicKey => Self::UnknownIssuer,
            E::SignatureAlgorithmMismatch
            | E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::SignatureAlgorithm,
            E::UnsupportedCriticalExtension => Self::CriticalExtension,
            E::NameConstraintViolation | E::MalformedNameConstraint | E::UnsupportedNameType => Self::NameConstraint,
            E::PathLenConstraintViolated => Self::PathLength,
            E::CaUsedAsEndEntity => Self::CaLeaf,
            E::EndEntityUsedAsCa => Self::SignerNotCa,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::Purpose,
            E::MaximumPathDepthExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Self::ChainTooComplex,
            _ => Self::Unspecified,
        }
    }
}
