//! The form of a leaf: what X509-SVID sections 2, 4 and 5.2 ask of the certificate itself, whoever signed it.
//!
//! Strict where the standard leaves a choice: a missing or non-critical key usage is the issuer's fault (X509-SVID 4.3) that
//! a verifier may overlook, and this one does not. SPIRE, Istio and this mesh's CA set it; a certificate from a bare
//! `openssl x509 -req` has none.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::super::SpiffeId;
use super::Refusal;

/// The least bits of an RSA key (NIST SP 800-131A). Signatures of a shorter one are not accepted anyway; said here, the reason
/// is the key and not a signature.
const MIN_RSA_BITS: usize = 2048;

/// What a leaf of good form says. Read from a chain that a verifier of this module accepted, it is who the peer is; read
/// from any other certificate it proves nothing.
#[derive(Clone, Debug)]
pub struct Leaf {
    id: SpiffeId,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Leaf {
    /// Reads a leaf.
    ///
    /// # Errors
    ///
    /// The first rule of X509-SVID that it breaks.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, Refusal> {
        let certificate = parse(der)?;
        if certificate.version() != X509Version::V3 {
            return Err(Refusal::CertificateVersion);
        }
        check_key(&certificate)?;
        let id = id(&certificate)?;
        check_not_ca(&certificate)?;
        // On a leaf they have no meaning (RFC 5280 4.2.1.10), and what has none is not what an issuer meant.
        match certificate.name_constraints() {
            Ok(None) => {}
            Ok(Some(_)) => return Err(Refusal::NameConstraint),
            Err(_) => return Err(Refusal::BadEncoding),
        }
        check_key_usage(&certificate)?;
        check_extended_key_usage(&certificate)?;
        Ok(Self {
            id,
            not_before: unix_time(certificate.validity().not_before)?,
            not_after: unix_time(certificate.validity().not_after)?,
        })
    }

    /// Whom it names.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The first second of its validity.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// The last second of its validity.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }
}

/// The last second of a certificate's validity.
pub(super) fn not_after(der: &CertificateDer<'_>) -> Result<UnixTime, Refusal> {
    unix_time(parse(der)?.validity().not_after)
}

/// Parses one certificate with nothing after it.
pub(in crate::identity) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refusal::BadEncoding),
    }
}

/// The URI names of a certificate, or `None` when it has no alternative names at all.
pub(super) fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Option<Vec<&'a str>>, Refusal> {
    let Some(names) = certificate
        .subject_alternative_name()
        .map_err(|_| Refusal::BadEncoding)?
    else {
        return Ok(None);
    };
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // A name that one parser skips and another reads is how a certificate comes to mean two things.
            GeneralName::Invalid(..) => return Err(Refusal::BadEncoding),
            _ => {}
        }
    }
    Ok(Some(uris))
}

fn check_key(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < MIN_RSA_BITS => Err(Refusal::WeakKey),
        _ => Ok(()),
    }
}

fn id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let uris = uris(certificate)?.ok_or(Refusal::NoSan)?;
    let [uri] = uris[..] else {
        return Err(if uris.is_empty() {
            Refusal::NoUriSan
        } else {
            Refusal::TwoUriSans
        });
    };
    let id = SpiffeId::parse(uri).map_err(Refusal::Id)?;
    if id.path().is_empty() {
        return Err(Refusal::RootPath);
    }
    Ok(id)
}

fn check_not_ca(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => Err(Refusal::CaLeaf),
        Ok(_) => Ok(()),
        Err(_) => Err(Refusal::BadEncoding),
    }
}

fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    let usage = certificate.key_usage().map_err(|_| Refusal::BadEncoding)?;
    let usage = usage.ok_or(Refusal::NoKeyUsage)?;
    if usage.value.key_cert_sign() {
        Err(Refusal::KeyCertSign)
    } else if usage.value.crl_sign() {
        Err(Refusal::CrlSign)
    } else if !usage.value.digital_signature() {
        Err(Refusal::NoDigitalSignature)
    } else if !usage.critical {
        Err(Refusal::KeyUsageNotCritical)
    } else {
        Ok(())
    }
}

fn check_extended_key_usage(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    let usage = certificate.extended_key_usage().map_err(|_| Refusal::BadEncoding)?;
    match usage {
        Some(usage) if !usage.value.server_auth => Err(Refusal::NoServerAuth),
        Some(usage) if !usage.value.client_auth => Err(Refusal::NoClientAuth),
        _ => Ok(()),
    }
}

/// Dates before 1970 are as good as no date: nothing that old is valid, and rustls counts from there.
fn unix_time(time: ASN1Time) -> Result<UnixTime, Refusal> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| Refusal::BadEncoding)?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}
