//! What a handler is told in `x-forwarded-client-cert`, which services read that were behind a sidecar.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::accept::ConnectionInfo;

/// The header (Envoy).
const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What a handler finds in `x-forwarded-client-cert` (Envoy `forward_client_cert_details`). Whatever is chosen, nothing that came in plaintext
/// is there: who has shown no certificate says nothing of certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedClientCert {
    /// Nothing (`SANITIZE`).
    Sanitize,
    /// The peer, verified: `By=<this workload>;Hash=<SHA-256 of its certificate>;Subject="..";URI=<its id>`, and nothing that the
    /// peer says itself (`SANITIZE_SET`).
    #[default]
    SanitizeSet,
    /// That, behind what the peer says (`APPEND_FORWARD`, as Istio's sidecars have it): for services that ask for whom a gateway calls.
    /// All but the last element is the word of whoever is in the last one.
    AppendForward,
}

impl ForwardedClientCert {
    /// What `headers`, which came by `connection`, will have.
    pub(super) fn value(self, headers: &HeaderMap, connection: Option<&ConnectionInfo>) -> Option<HeaderValue> {
        let verified = connection?.forwarded_client_cert()?;
        match self {
            Self::Sanitize => None,
            Self::SanitizeSet => Some(verified.clone()),
            Self::AppendForward => {
                let mut all = Vec::new();
                for said in headers.get_all(XFCC).iter().filter(|said| !said.is_empty()) {
                    all.extend_from_slice(said.as_bytes());
                    all.push(b',');
                }
                all.extend_from_slice(verified.as_bytes());
                // Parts of good values make a good one.
                HeaderValue::from_bytes(&all).ok()
            }
        }
    }

    /// Puts it there.
    pub(super) fn set(headers: &mut HeaderMap, value: Option<HeaderValue>) {
        if let Some(value) = value {
            headers.insert(XFCC, value);
        }
    }
}
