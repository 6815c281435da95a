//! Whom a certificate must name: `match_typed_subject_alt_names` and its deprecated forerunner.
//!
//! gRPC C-core and grpc-js enforce only the deprecated list, Envoy and tonic-xds only the typed one, so control planes write
//! both. Both are honoured here.

use std::collections::HashSet;

use mesh_core::config::{ExpectedPeers, StringMatch};

use super::refuse;
use crate::convention::NOBODY;
use crate::decode::{Fault, Notes, matcher};
use crate::proto::tls::{CertificateValidationContext, subject_alt_name_matcher::SanType};

/// The identities a peer may show. None at all, where nothing is asked, refuses every peer: `ExpectedPeers` says why.
#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
pub(super) fn expected(validation: &CertificateValidationContext, notes: &mut Notes) -> Result<ExpectedPeers, Fault> {
    refused_checks(validation)?;
    let mut typed = Vec::new();
    for (index, san) in validation.match_typed_subject_alt_names.iter().enumerate() {
        let at = |fault: Fault| fault.within(format_args!("match_typed_subject_alt_names[{index}]"));
        let matcher = san
            .matcher
            .as_ref()
            .ok_or_else(|| at(Fault::new("matcher", "is missing")))?;
        let test = matcher::string_match(matcher).map_err(|fault| at(fault.within("matcher")))?;
        if san.san_type == SanType::Uri as i32 {
            typed.push(test);
        } else {
            notes.add("an expected name that is not a URI was left out: peers are known by SPIFFE ids here");
        }
    }
    let mut plain = Vec::new();
    for (index, proto) in validation.match_subject_alt_names.iter().enumerate() {
        let test = matcher::string_match(proto)
            .map_err(|fault| fault.within(format_args!("match_subject_alt_names[{index}]")))?;
        plain.push(test);
    }
    // A list without a URI in it still asks for something, which no peer here can show: it must not count as absent.
    let asks_typed = !validation.match_typed_subject_alt_names.is_empty();
    Ok(ExpectedPeers::new(somebody(agreed(typed, asks_typed, plain)?)))
}

/// Whether any name is asked for.
#[allow(deprecated, reason = "the deprecated list is the one that gRPC enforces")]
pub(super) fn are_named(validation: &CertificateValidationContext) -> bool {
    !validation.match_typed_subject_alt_names.is_empty() || !validation.match_subject_alt_names.is_empty()
}

/// Peers must pass both lists where there are two: a peer that only one of them admits is not one that the control plane
/// meant.
fn agreed(typed: Vec<StringMatch>, asks_typed: bool, plain: Vec<StringMatch>) -> Result<Vec<StringMatch>, Fault> {
    if plain.is_empty() || !asks_typed {
        return Ok(distinct(typed.into_iter().chain(plain)));
    }
    let wanted: HashSet<(u8, &str)> = plain.iter().map(key).collect();
    let both = distinct(typed.into_iter().filter(|test| wanted.contains(&key(test))));
    if both.is_empty() {
        return Err(Fault::new(
            "match_typed_subject_alt_names",
            "has nothing in common with match_subject_alt_names: no peer could pass both",
        ));
    }
    Ok(both)
}

/// Without the identity by which our control plane says "nobody".
fn somebody(mut tests: Vec<StringMatch>) -> Vec<StringMatch> {
    tests.retain(|test| !matches!(test, StringMatch::Exact(text) if **text == *NOBODY));
    tests
}

fn distinct(tests: impl Iterator<Item = StringMatch>) -> Vec<StringMatch> {
    let mut seen: HashSet<(u8, Box<str>)> = HashSet::new();
    let new = |test: &StringMatch| {
        let (kind, text) = key(test);
        seen.insert((kind, text.into()))
    };
    tests.filter(new).collect()
}

/// What makes two tests the same.
fn key(test: &StringMatch) -> (u8, &str) {
    match test {
        StringMatch::Exact(text) => (0, text),
        StringMatch::Prefix(text) => (1, text),
        StringMatch::Suffix(text) => (2, text),
        StringMatch::Contains(text) => (3, text),
        StringMatch::Regex(pattern) => (4, pattern.as_str()),
    }
}

pub(super) fn refused_checks(validation: &CertificateValidationContext) -> Result<(), Fault> {
    let refused = [
        (
            "verify_certificate_spki",
            !validation.verify_certificate_spki.is_empty(),
        ),
        (
            "verify_certificate_hash",
            !validation.verify_certificate_hash.is_empty(),
        ),
        (
            "require_signed_certificate_timestamp",
            validation
                .require_signed_certificate_timestamp
                .as_ref()
                .is_some_and(|flag| flag.value),
        ),
        ("crl", validation.crl.is_some()),
        ("custom_validator_config", validation.custom_validator_config.is_some()),
    ];
    refuse(&refused)
}
