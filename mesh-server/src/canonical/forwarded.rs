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
                // What opens a quotation and does not close it would take what is verified for a part of itself.
                let whole = |said: &&HeaderValue| !said.is_empty() && closes_its_quotes(said.as_bytes());
                for said in headers.get_all(XFCC).iter().filter(whole) {
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

/// Whether every quotation ends (Envoy escapes quotes in them by a backslash).
fn closes_its_quotes(said: &[u8]) -> bool {
    let (mut quoted, mut bytes) = (false, said.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            // One at the end would escape what comes behind it.
            b'\\' if bytes.next().is_none() => return false,
            _ => {}
        }
    }
    !quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_before_is_whole_or_nothing() {
        for whole in [
            r#"URI=spiffe://a/b"#,
            r#"Subject="CN=x,O=\"y\"";URI=a"#,
            r#"Subject="""#,
        ] {
            assert!(closes_its_quotes(whole.as_bytes()), "{whole}");
        }
        for open in [r#"URI=a;Subject=""#, r#"Subject="x\""#, r#"URI=a\"#] {
            assert!(!closes_its_quotes(open.as_bytes()), "{open}");
        }
    }
}
