//! What goes into certificates, encoded by hand where rcgen would refuse what a verifier must refuse.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
    PublicKeyData, SignatureAlgorithm, SigningKey,
};
use time::OffsetDateTime;

use super::{NOT_AFTER_SECONDS, NOT_BEFORE_SECONDS, Name};

const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
/// An arc nobody understands.
const UNKNOWN_EXTENSION: &[u64] = &[1, 3, 6, 1, 4, 1, 99_999, 1];

pub(super) fn signer_params(uri: &str) -> CertificateParams {
    let mut params = blank_params();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("test CA of {uri}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .custom_extensions
        .extend(alternative_names(&[(Name::Uri, uri.as_bytes().to_vec())]));
    params
}

pub(super) fn blank_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date(NOT_BEFORE_SECONDS);
    params.not_after = date(NOT_AFTER_SECONDS);
    params.use_authority_key_identifier_extension = true;
    params
}

/// Permits URI names of `host` only. rcgen has no URI subtree, so:
/// `NameConstraints { permittedSubtrees [0] { GeneralSubtree { [6] host } } }`.
pub(super) fn uri_constraint(host: &str) -> CustomExtension {
    let subtree = tlv(0x30, &tlv(0x86, host.as_bytes()));
    let mut extension = CustomExtension::from_oid_content(NAME_CONSTRAINTS, tlv(0x30, &tlv(0xa0, &subtree)));
    extension.set_criticality(true);
    extension
}

/// A key usage of digitalSignature: a BIT STRING with its first bit set and seven unused ones.
pub(super) fn digital_signature_not_critical() -> CustomExtension {
    CustomExtension::from_oid_content(KEY_USAGE, vec![0x03, 0x02, 0x07, 0x80])
}

pub(super) fn unknown_critical_extension() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(UNKNOWN_EXTENSION, vec![0x05, 0x00]);
    extension.set_criticality(true);
    extension
}

/// The names byte for byte, whatever they are.
pub(super) fn alternative_names(names: &[(Name, Vec<u8>)]) -> Option<CustomExtension> {
    if names.is_empty() {
        return None;
    }
    let body: Vec<u8> = names.iter().flat_map(|(kind, value)| tlv(*kind as u8, value)).collect();
    Some(CustomExtension::from_oid_content(SUBJECT_ALT_NAME, tlv(0x30, &body)))
}

/// One DER value: tag, length, bytes.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(value);
    out
}

/// A signature of an algorithm that nobody should trust any more.
#[derive(Clone, Copy, Debug)]
pub enum WeakSignature {
    /// `ecdsa-with-SHA1` (1.2.840.10045.4.1)
    EcdsaSha1,
    /// `sha1WithRSAEncryption` (1.2.840.113549.1.1.5)
    RsaSha1,
    /// `md5WithRSAEncryption` (1.2.840.113549.1.1.4)
    RsaMd5,
}

impl WeakSignature {
    /// The `AlgorithmIdentifier`.
    fn identifier(self) -> Vec<u8> {
        let rsa = |last| {
            [
                &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last][..],
                &[0x05, 0],
            ]
            .concat()
        };
        tlv(
            0x30,
            &match self {
                Self::EcdsaSha1 => vec![0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1],
                Self::RsaSha1 => rsa(5),
                Self::RsaMd5 => rsa(4),
            },
        )
    }
}

/// The certificate as version 1 has it, without version and extensions, signed anew.
pub(super) fn version_1(certificate: &[u8], signer: &impl SigningKey) -> Vec<u8> {
    let [tbs, algorithm, _] = parts(certificate).try_into().expect("a certificate has three parts");
    let mut fields = parts(tbs);
    fields.retain(|field| !matches!(field[0], 0xa0 | 0xa3));
    signed(&tlv(0x30, &fields.concat()), algorithm, signer)
}

/// The certificate with the name of another signature algorithm in both of its places, signed anew.
pub(super) fn relabelled(certificate: &[u8], signature: WeakSignature, signer: &impl SigningKey) -> Vec<u8> {
    let identifier = signature.identifier();
    let tbs = parts(certificate)[0];
    let mut fields = parts(tbs);
    // Version, serial, signature (RFC 5280 4.1).
    fields[2] = &identifier;
    signed(&tlv(0x30, &fields.concat()), &identifier, signer)
}

fn signed(tbs: &[u8], algorithm: &[u8], signer: &impl SigningKey) -> Vec<u8> {
    let signature = signer.sign(tbs).expect("a key of a test can sign");
    let bits = tlv(0x03, &[&[0][..], &signature].concat());
    tlv(0x30, &[tbs, algorithm, &bits].concat())
}

/// The values within a DER value.
fn parts(der: &[u8]) -> Vec<&[u8]> {
    let (_, mut rest) = der.split_at(header_length(der));
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (part, others) = rest.split_at(header_length(rest) + content_length(rest));
        parts.push(part);
        rest = others;
    }
    parts
}

fn header_length(der: &[u8]) -> usize {
    match der[1] {
        0..=0x7f => 2,
        long => 2 + usize::from(long & 0x7f),
    }
}

fn content_length(der: &[u8]) -> usize {
    match der[1] {
        short @ 0..=0x7f => short.into(),
        _ => der[2..header_length(der)]
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte)),
    }
}

/// An RSA public key of 1024 bits that nobody has the private half of.
pub(super) struct ShortRsa(Vec<u8>);

impl ShortRsa {
    pub(super) fn new() -> Self {
        // A zero before the first bit keeps an INTEGER positive.
        let modulus = tlv(0x02, &[&[0][..], &[0xc3; 128]].concat());
        Self(tlv(0x30, &[modulus, tlv(0x02, &[1, 0, 1])].concat()))
    }
}

impl PublicKeyData for ShortRsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

pub(super) fn date(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds as i64).expect("a test's date is in range")
}
