//! The path from a leaf to the roots of its own trust domain.

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::super::tls::provider;
use super::super::{SpiffeId, TrustBundle, TrustDomain};
use super::{Leaf, Refusal, leaf};

/// The most certificates a peer may send: a leaf, two signers and a root sent by mistake. Path building costs the verifier
/// far more than it costs an attacker (RUSTSEC-2023-0053), so the room for it is small.
pub const MAX_CHAIN_CERTIFICATES: usize = 4;

/// The most bytes a peer's chain may have, a hundred times what a usual one has.
pub const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// Judges a chain: rules 1 to 4 of the module's list.
pub(super) fn verify(
    bundle: &TrustBundle,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<SpiffeId, Refusal> {
    check_size(std::iter::once(end_entity).chain(intermediates))?;
    let id = Leaf::read(end_entity)?.id().clone();
    let domain = id.trust_domain();
    let anchors = bundle
        .anchors(domain)
        .ok_or_else(|| Refusal::ForeignTrustDomain(domain.clone()))?;
    if anchors.is_empty() {
        return Err(Refusal::NoRoots(domain.clone()));
    }
    let algorithms = provider().signature_verification_algorithms.all;
    let certificate = EndEntityCert::try_from(end_entity)?;
    let path = certificate.verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None)?;
    check_signers(&path, domain)?;
    Ok(id)
}

/// Refuses a chain that is too long or too large before anything in it is parsed.
pub(in crate::identity) fn check_size<'a, 'b: 'a>(
    chain: impl Iterator<Item = &'a CertificateDer<'b>>,
) -> Result<(), Refusal> {
    let (count, bytes) = chain.fold((0, 0), |(count, bytes), certificate| {
        (count + 1, bytes + certificate.len())
    });
    if count > MAX_CHAIN_CERTIFICATES {
        return Err(Refusal::ChainTooLong);
    }
    if bytes > MAX_CHAIN_BYTES {
        return Err(Refusal::ChainTooLarge);
    }
    Ok(())
}

/// webpki has checked that the signers on the path are CAs of sufficient path length. It reads neither their key usage
/// (RFC 5280 6.1.4 (n)) nor the rule that a signer's SPIFFE id, if it has one, is its trust domain's, without a path
/// (X509-SVID 2).
fn check_signers(path: &VerifiedPath<'_>, domain: &TrustDomain) -> Result<(), Refusal> {
    for signer in path.intermediate_certificates() {
        let der = signer.der();
        let certificate = leaf::parse(&der)?;
        let usage = certificate.key_usage().map_err(|_| Refusal::BadEncoding)?;
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(Refusal::SignerKeyUsage);
        }
        for uri in leaf::uris(&certificate)?.unwrap_or_default() {
            if !uri.starts_with("spiffe:") {
                continue;
            }
            let id = SpiffeId::parse(uri).map_err(|_| Refusal::SignerId)?;
            if !id.path().is_empty() || id.trust_domain() != domain {
                return Err(Refusal::SignerId);
            }
        }
    }
    Ok(())
}
