//! The only place that builds rustls configurations, so that all of them are alike where it matters.
//!
//! TLS 1.3 only, with one explicit provider (aws-lc-rs, post-quantum key exchange preferred). No resumption on either side
//! and no early data: a resumed session is not verified again, so it would outlive the certificate or the root it was made
//! under (the class of Go's CVE-2025-68121). Mesh connections are long; what resumption would save is small. No key log,
//! ever.
//!
//! Of the cipher suites of TLS 1.3 AES-128-GCM comes first, as in Go, BoringSSL and Envoy: a record costs ten rounds in place of fourteen,
//! and nothing that is known tells the two apart in what they withstand (RFC 8446 9.1 makes it the one that all must have). The others are
//! offered behind it, and a server takes what the client likes best, so that one without AES in its processor may have ChaCha20.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, ClientConfig, Error, NoKeyLog, RootCertStore, ServerConfig, version};

use super::verify::{ClientVerifier, ServerVerifier, Unverified, WebVerifier};
use super::{ClientCertificate, Identity, Pins};
use crate::config::{Clients, ExpectedPeers, NameMatch};

/// Whether a client must show who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// Yes. What a mesh port asks.
    Required,
    /// No, but if it shows a certificate it must be good: a port that also serves those who have yet to be given one.
    Optional,
}

/// The one provider of cryptography, named explicitly so that no process-wide default can change it.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        // Stable: the others keep their order.
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    });
    &PROVIDER
}

/// A workload's way to another: shows `identity`, accepts only peers that its bundle vouches for and `expected` admits.
///
/// # Errors
///
/// When the provider cannot do TLS 1.3.
pub fn client_config(
    identity: &Identity,
    expected: &ExpectedPeers,
    clock: Arc<dyn TimeProvider>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_within(&Pins::default(), identity, true, expected, clock, alpn)
}

/// As [`client_config`], within what the application pinned. Unless `shows`, the peer is judged all the same and shown nothing.
///
/// # Errors
///
/// As there.
pub fn client_config_within(
    pins: &Pins,
    identity: &Identity,
    shows: bool,
    expected: &ExpectedPeers,
    clock: Arc<dyn TimeProvider>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ServerVerifier::new(identity.bundle().clone(), expected.clone()).pinned(pins.clone());
    let builder = client_builder(clock)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match shows {
        true => builder.with_client_cert_resolver(resolver(identity)),
        false => builder.with_no_client_auth(),
    };
    Ok(finish_client(config, alpn))
}

/// A workload's way to the control plane: an ordinary server name, judged by webpki against `roots` and no others.
///
/// `shown` is what the workload shows, if it has something: its identity, or a certificate of another kind.
///
/// # Errors
///
/// When there is no root, or one is not a certificate.
pub fn pinned_client_config(
    roots: &[CertificateDer<'static>],
    shown: Option<&ClientCertificate>,
    clock: Arc<dyn TimeProvider>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(Kind::Root)?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider()))
        .build()
        .map_err(Kind::Roots)?;
    let builder = client_builder(clock)?.with_webpki_verifier(verifier);
    let config = match shown {
        Some(certificate) => {
            let certified = Arc::clone(certificate.certified());
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    Ok(finish_client(config, alpn))
}

/// A workload's way to a server outside of the mesh: judged by the rules of the web against `roots`, shown `shown`.
///
/// `None` of `roots` asks nothing of the server at all, which only the application itself may have wanted. Of roots that are
/// no certificate the others are used, as long as there is one: systems keep some that nothing here can read.
///
/// # Errors
///
/// When there is no root.
pub fn origination_client_config(
    roots: Option<&[CertificateDer<'static>]>,
    names: &[NameMatch],
    shown: Option<&ClientCertificate>,
    clock: Arc<dyn TimeProvider>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = client_builder(clock)?.dangerous();
    let builder = match roots {
        None => builder.with_custom_certificate_verifier(Arc::new(Unverified)),
        Some(roots) => {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(roots.iter().cloned());
            let verifier = WebVerifier::new(store, names.into()).map_err(Kind::Roots)?;
            builder.with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let config = match shown {
        Some(certificate) => {
            let certified = Arc::clone(certificate.certified());
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    Ok(finish_client(config, alpn))
}

/// A server that shows `identity` and accepts any workload of its bundle's trust domains.
///
/// # Errors
///
/// When the provider cannot do TLS 1.3.
pub fn server_config(
    identity: &Identity,
    client_auth: ClientAuth,
    clock: Arc<dyn TimeProvider>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = ClientVerifier::new(identity.bundle().clone(), client_auth);
    server_config_with(identity, Some(verifier), clock, alpn)
}

/// A server that shows `identity` and accepts `clients` of its bundle's trust domains; `None`: anybody, and asks for no
/// certificate.
///
/// # Errors
///
/// When the provider cannot do TLS 1.3.
pub fn inbound_server_config(
    identity: &Identity,
    clients: Option<&Clients>,
    clock: Arc<dyn TimeProvider>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = clients
        .map(|clients| ClientVerifier::new(identity.bundle().clone(), ClientAuth::Required).admitting(clients.clone()));
    server_config_with(identity, verifier, clock, alpn)
}

fn server_config_with(
    identity: &Identity,
    verifier: Option<ClientVerifier>,
    clock: Arc<dyn TimeProvider>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_details(Arc::clone(provider()), clock)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(Kind::Provider)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver(identity));
    config.alpn_protocols = owned(alpn);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.key_log = Arc::new(NoKeyLog {});
    Ok(Arc::new(config))
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn client_builder(clock: Arc<dyn TimeProvider>) -> Result<ClientBuilder, TlsError> {
    ClientConfig::builder_with_details(Arc::clone(provider()), clock)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| Kind::Provider(error).into())
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = owned(alpn);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.key_log = Arc::new(NoKeyLog {});
    Arc::new(config)
}

fn resolver(identity: &Identity) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(Arc::clone(identity.svid().certified())))
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}

/// A TLS configuration that cannot be built.
#[derive(Debug)]
pub struct TlsError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Provider(Error),
    Root(Error),
    Roots(VerifierBuilderError),
}

impl TlsError {
    /// Whether the roots to judge by are missing or malformed.
    pub fn is_roots(&self) -> bool {
        matches!(self.kind, Kind::Root(_) | Kind::Roots(_))
    }
}

impl From<Kind> for TlsError {
    fn from(kind: Kind) -> Self {
        Self { kind }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Provider(_) => "the cryptography provider cannot do TLS 1.3",
            Kind::Root(_) => "a root is not a certificate",
            Kind::Roots(_) => "there is no root to judge a server by",
        })
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Provider(error) | Kind::Root(error) => Some(error),
            Kind::Roots(error) => Some(error),
        }
    }
}
