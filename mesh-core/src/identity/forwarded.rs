//! `x-forwarded-client-cert`: what Envoy tells a service of the certificate at the other end of its connection, in Envoy's words.
//!
//! Services behind a sidecar read it. Written here from the verified certificate, once for a connection, so that they go on doing so
//! without the sidecar.

use aws_lc_rs::digest;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;

use super::SpiffeId;
use super::verify::Refusal;

/// The most bytes of a subject that is told; a longer one is left empty, as a header of it would be more than many services take.
const MAX_SUBJECT_BYTES: usize = 1024;

/// The element for `peer`, whom `own` has verified: `By=..;Hash=..;Subject="..";URI=..`, as Istio's sidecars have it.
///
/// # Errors
///
/// When `peer` is no certificate with an id, which none that was verified is.
pub fn forwarded_client_cert(own: &SpiffeId, peer: &CertificateDer<'_>) -> Result<HeaderValue, Refusal> {
    let certificate = super::verify::parse(peer)?;
    let id = super::verify::leaf_id(peer)?;
    let hash: String = digest::digest(&digest::SHA256, peer)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Of what an issuer wrote freely nothing may end the quotation or the header.
    let subject = certificate.subject().to_string();
    let is_plain = |byte: u8| matches!(byte, 0x20..=0x7e);
    let subject = match subject.len() <= MAX_SUBJECT_BYTES && subject.bytes().all(is_plain) {
        true => subject.replace('\\', "\\\\").replace('"', "\\\""),
        false => String::new(),
    };
    // The characters of a SPIFFE id need no quotation.
    let text = format!("By={own};Hash={hash};Subject=\"{subject}\";URI={id}");
    HeaderValue::try_from(text).map_err(|_| Refusal::BadEncoding)
}
