//! A root: a self-signed P-256 key for the trust domain, in memory or in a file of the state directory. There is one, and while it is being
//! replaced by another there are two (`rotation`).
//!
//! The certificate follows the X509-SVID profile of a signer: a CA of path length 0 that may sign certificates and lists, and
//! whose name is the trust domain's SPIFFE id without a path. It carries no name constraints: webpki does not apply URI
//! constraints and refuses whole chains that have them, so they would lock out peers and protect nobody.

use std::path::Path;

use mesh_core::identity::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::common::{BACKDATED, date, random_serial};
use super::error::Kind;
use super::{CaError, files};

/// Ten years, as Istio's own self-signed root.
const LIFETIME_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// The file of a state directory's first root: the key and the certificate together, so that they can never be of two roots.
pub(super) const FILE: &str = "root.pem";

/// The private key of the mesh and its certificate. There is no `Debug` and no way to read the key.
pub(super) struct Root {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pem: String,
    /// The first second it is valid.
    pub(super) not_before: u64,
    /// The last second it is valid.
    pub(super) not_after: u64,
}

impl Root {
    /// A new root that lives in memory only.
    pub(super) fn create(domain: &TrustDomain, now: UnixTime) -> Result<Self, CaError> {
        let (key, pem) = generate(domain, now)?;
        Self::assemble(key, pem, Path::new(FILE), domain, now)
    }

    /// The root in a file, made if there is none. Two processes that race for it end up with the same one.
    pub(super) fn open(path: &Path, domain: &TrustDomain, now: UnixTime) -> Result<Self, CaError> {
        let path = path.to_owned();
        if files::read(&path)?.is_none() {
            let (key, pem) = generate(domain, now)?;
            let text = Zeroizing::new(key.serialize_pem());
            let both = Zeroizing::new([text.as_bytes(), pem.as_bytes()].concat());
            files::create(&path, &both)?;
        }
        let malformed = |why| Kind::Malformed {
            path: path.clone(),
            why,
        };
        let text = files::read(&path)?.ok_or_else(|| malformed("vanished while it was read"))?;
        let key = KeyPair::from_pem(&text).map_err(|_| malformed("holds no usable private key"))?;
        let start = text
            .find("-----BEGIN CERTIFICATE-----")
            .ok_or_else(|| malformed("holds no certificate"))?;
        Self::assemble(key, text[start..].to_owned(), &path, domain, now)
    }

    /// A certificate of the key of `other` by this one, in PEM: whoever knows only this root finds a way to what the other signs.
    pub(super) fn vouch_for(&self, other: &Self, domain: &TrustDomain, now: UnixTime) -> Result<String, CaError> {
        let mut params = profile(domain, now, self.not_after.min(other.not_after))?;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(other.issuer.key(), &self.issuer);
        Ok(certificate.map_err(Kind::Sign)?.pem())
    }

    fn assemble(key: KeyPair, pem: String, path: &Path, domain: &TrustDomain, now: UnixTime) -> Result<Self, CaError> {
        let malformed = |why| Kind::Malformed {
            path: path.to_owned(),
            why,
        };
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| malformed("holds no certificate"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| malformed("holds no certificate"))?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(malformed("the key is not the certificate's").into());
        }
        let names = parsed.subject_alternative_name().ok().flatten();
        let uri = names.and_then(|names| match names.value.general_names[..] {
            [GeneralName::URI(uri)] => Some(uri.to_owned()),
            _ => None,
        });
        if uri.as_deref() != Some(&*format!("spiffe://{domain}")) {
            return Err(Kind::TrustDomain {
                path: path.to_owned(),
                found: uri.unwrap_or_default(),
            }
            .into());
        }
        let validity = parsed.validity();
        let not_after = u64::try_from(validity.not_after.timestamp()).unwrap_or(0);
        let not_before = u64::try_from(validity.not_before.timestamp()).unwrap_or(u64::MAX);
        if !(not_before..=not_after).contains(&now.as_secs()) {
            return Err(Kind::Expired.into());
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(Kind::Sign)?;
        Ok(Self {
            issuer,
            certificate,
            pem,
            not_before,
            not_after,
        })
    }
}

fn generate(domain: &TrustDomain, now: UnixTime) -> Result<(KeyPair, String), CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Kind::Sign)?;
    let params = profile(domain, now, now.as_secs() + LIFETIME_SECONDS)?;
    let certificate = params.self_signed(&key).map_err(Kind::Sign)?;
    Ok((key, certificate.pem()))
}

fn profile(domain: &TrustDomain, now: UnixTime, not_after: u64) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.not_before = date(now.as_secs().saturating_sub(BACKDATED.as_secs()))?;
    params.not_after = date(not_after)?;
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, domain.as_str());
    let uri = format!("spiffe://{domain}").try_into().map_err(Kind::Sign)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}
