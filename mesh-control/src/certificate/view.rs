//! A certificate as a person reads it.

use std::fmt;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

/// id-Ed25519 (RFC 8410).
const ED25519: &str = "1.3.101.112";

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// Its alternative names: `URI:`, `DNS:` or `IP:` and the name.
    pub names: Vec<String>,
    /// Its subject, as RFC 4514 writes it; empty in an SVID.
    pub subject: String,
    /// Who signed it, likewise.
    pub issuer: String,
    /// The first second that it is valid (RFC 3339).
    pub not_before: String,
    /// The last.
    pub not_after: String,
    /// The kind of its key, and its bits.
    pub key: String,
    /// Whether it may sign certificates.
    pub is_ca: bool,
    /// What its key may do; `critical` first where it is.
    pub key_usage: Vec<&'static str>,
    /// What it is for.
    pub extended_key_usage: Vec<&'static str>,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// The SHA-256 of all of it, in hexadecimal digits.
    pub sha256: String,
}

impl CertificateView {
    /// Reads one; `None`: it is no X.509 certificate.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            names: names(&certificate),
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: moment(validity.not_before),
            not_after: moment(validity.not_after),
            key: key(&certificate),
            is_ca: certificate
                .basic_constraints()
                .ok()
                .flatten()
                .is_some_and(|constraints| constraints.value.ca),
            key_usage: key_usage(&certificate),
            extended_key_usage: extended_key_usage(&certificate),
            serial: hex(certificate.raw_serial()),
            sha256: hex(digest::digest(&digest::SHA256, der).as_ref()),
        })
    }
}

impl fmt::Display for CertificateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        writeln!(f, "{}", none(&self.names.join(" ")))?;
        writeln!(f, "  subject   {}", none(&self.subject))?;
        writeln!(f, "  issuer    {}", none(&self.issuer))?;
        writeln!(f, "  valid     {} to {}", self.not_before, self.not_after)?;
        let ca = if self.is_ca { ", a CA's" } else { "" };
        writeln!(f, "  key       {}{ca}", self.key)?;
        writeln!(f, "  usage     {}", none(&self.key_usage.join(" ")))?;
        writeln!(f, "  for       {}", none(&self.extended_key_usage.join(" ")))?;
        writeln!(f, "  serial    {}", self.serial)?;
        write!(f, "  sha256    {}", self.sha256)
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::IPAddress([a, b, c, d]) => format!("IP:{a}.{b}.{c}.{d}"),
        GeneralName::IPAddress(bytes) => match <[u8; 16]>::try_from(*bytes) {
            Ok(bytes) => format!("IP:{}", std::net::Ipv6Addr::from(bytes)),
            Err(_) => "IP:?".to_owned(),
        },
        other => format!("{other}"),
    };
    names.map(text).collect()
}

fn key(certificate: &X509Certificate<'_>) -> String {
    let info = certificate.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC {}", point.key_size()),
        _ if info.algorithm.algorithm.to_id_string() == ED25519 => "Ed25519".to_owned(),
        _ => info.algorithm.algorithm.to_id_string(),
    }
}

fn key_usage(certificate: &X509Certificate<'_>) -> Vec<&'static str> {
    let Ok(Some(usage)) = certificate.key_usage() else {
        return Vec::new();
    };
    let has = [
        ("critical", usage.critical),
        ("digitalSignature", usage.value.digital_signature()),
        ("keyEncipherment", usage.value.key_encipherment()),
        ("keyAgreement", usage.value.key_agreement()),
        ("keyCertSign", usage.value.key_cert_sign()),
        ("cRLSign", usage.value.crl_sign()),
    ];
    has.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

fn extended_key_usage(certificate: &X509Certificate<'_>) -> Vec<&'static str> {
    let Ok(Some(usage)) = certificate.extended_key_usage() else {
        return Vec::new();
    };
    let has = [
        ("anything", usage.value.any),
        ("serverAuth", usage.value.server_auth),
        ("clientAuth", usage.value.client_auth),
        ("others", !usage.value.other.is_empty()),
    ];
    has.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

fn moment(time: ASN1Time) -> String {
    let time = OffsetDateTime::from_unix_timestamp(time.timestamp()).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
