//! How a server outside of the mesh is judged: a path to the given roots (webpki), and a name.
//!
//! Without names to look for, its certificate must be good for the name it was called by. With some, it must have one of them,
//! and the name it was called by plays no part (Envoy `match_typed_subject_alt_names`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, VerifierBuilderError};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;

use super::super::tls::provider;
use super::{Refusal, chain, leaf};
use crate::config::{NameKind, NameMatch, StringMatch};

/// How a client judges a server outside of the mesh.
#[derive(Debug)]
pub struct WebVerifier {
    roots: Arc<RootCertStore>,
    by_name: Arc<WebPkiServerVerifier>,
    names: Box<[NameMatch]>,
}

impl WebVerifier {
    /// Accepts servers that `roots` vouch for and that have one of `names`; without any, those that are good for the name
    /// they are called by.
    ///
    /// # Errors
    ///
    /// When there is no root.
    pub fn new(roots: RootCertStore, names: Box<[NameMatch]>) -> Result<Self, VerifierBuilderError> {
        let roots = Arc::new(roots);
        let by_name =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider())).build()?;
        Ok(Self { roots, by_name, names })
    }
}

impl ServerCertVerifier for WebVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        chain::check_size(std::iter::once(end_entity).chain(intermediates))?;
        if self.names.is_empty() {
            let verified = self
                .by_name
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            return verified.map_err(of_path);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)
            .map_err(of_path)?;
        match has_one_of(end_entity, &self.names)? {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Refusal::WrongName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Refusal::TlsVersion.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts whoever holds the key of the certificate that is shown. What it is for is said where it is allowed.
#[derive(Debug)]
pub(in crate::identity) struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Refusal::TlsVersion.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A false signature on the path says no more than that the path leads elsewhere ([`Refusal::UnknownIssuer`]).
fn of_path(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => Refusal::UnknownIssuer.into(),
        other => other,
    }
}

fn has_one_of(certificate: &CertificateDer<'_>, wanted: &[NameMatch]) -> Result<bool, Refusal> {
    let certificate = leaf::parse(certificate)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Refusal::BadEncoding)?
        .ok_or(Refusal::NoSan)?;
    let mut found = false;
    for name in &names.value.general_names {
        let (kind, text) = match name {
            GeneralName::DNSName(name) => (NameKind::Dns, (*name).to_owned()),
            GeneralName::URI(uri) => (NameKind::Uri, (*uri).to_owned()),
            GeneralName::RFC822Name(name) => (NameKind::Email, (*name).to_owned()),
            GeneralName::IPAddress(bytes) => (NameKind::Ip, address(bytes)?.to_string()),
            // A name that one parser skips and another reads is how a certificate comes to mean two things.
            GeneralName::Invalid(..) => return Err(Refusal::BadEncoding),
            _ => continue,
        };
        found |= wanted
            .iter()
            .any(|wanted| (wanted.kind == kind || wanted.kind == NameKind::Any) && passes(&wanted.test, kind, &text));
    }
    Ok(found)
}

fn passes(test: &StringMatch, kind: NameKind, name: &str) -> bool {
    match (test, kind, name.strip_prefix("*.")) {
        // A wildcard covers one label, the leftmost and whole (RFC 6125 6.4.3).
        (StringMatch::Exact(wanted), NameKind::Dns, Some(parent)) => wanted
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
        (StringMatch::Exact(wanted), NameKind::Dns, None) => wanted.eq_ignore_ascii_case(name),
        _ => test.is_match(name.as_bytes()),
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, Refusal> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(bytes)
        .map(|bytes| Ipv6Addr::from(bytes).into())
        .map_err(|_| Refusal::BadEncoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_names_pass() {
        let exact = |text: &str| StringMatch::Exact(text.into());
        let cases = [
            (exact("a.example"), NameKind::Dns, "A.example", true),
            (exact("b.a.example"), NameKind::Dns, "*.a.example", true),
            (exact("c.b.a.example"), NameKind::Dns, "*.a.example", false),
            (exact(".a.example"), NameKind::Dns, "*.a.example", false),
            (exact("a.example"), NameKind::Dns, "*.a.example", false),
            (
                StringMatch::Suffix(".a.example".into()),
                NameKind::Dns,
                "b.a.example",
                true,
            ),
            (
                StringMatch::Prefix("spiffe://a/".into()),
                NameKind::Uri,
                "spiffe://a/b",
                true,
            ),
            (exact("spiffe://a/b"), NameKind::Uri, "spiffe://A/b", false),
            (exact("10.0.0.1"), NameKind::Ip, "10.0.0.1", true),
        ];
        for (test, kind, name, expected) in cases {
            assert_eq!(passes(&test, kind, name), expected, "{test:?} {name}");
        }
        assert_eq!(address(&[10, 0, 0, 1]).unwrap().to_string(), "10.0.0.1");
        assert!(address(&[1, 2, 3]).is_err());
    }
}
