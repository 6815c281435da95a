//! What goes into certificates, encoded by hand where rcgen would refuse what a verifier must refuse.

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
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

pub(super) fn date(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds as i64).expect("a test's date is in range")
}
