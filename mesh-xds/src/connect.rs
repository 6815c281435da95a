//! From a server of the bootstrap to a gRPC channel: dial, TLS, HTTP/2, and tokens on every call.
//!
//! Dialling and the handshake happen here and not inside tonic, so that what went wrong is known by name ("connecting to
//! 127.0.0.1:1: connection refused") and both share one deadline. A channel is one connection: when it breaks, whoever uses
//! it makes another, with the pauses and the credentials that are right by then.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_core::Entropy;
use mesh_core::identity::{ClientCertificate, Identity, tls};
use mesh_core::patience::CONNECT_TIMEOUT;
use rustls::pki_types::ServerName;
use rustls::time_provider::TimeProvider;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::bootstrap::{Credentials, Server, ServerUri};
use crate::connector::{Connector, Io};
use crate::credentials::{CallTokens, Credentialed, Material, MaterialError};
use crate::first_word::FirstWord;
use crate::last_word::LastWord;

/// How often an idle connection is asked whether it lives, and how long it may take to say so. Without it a control plane
/// that vanished behind a firewall would be listened to for hours.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no channel.
#[derive(Debug)]
pub(crate) enum ConnectError {
    Dial(io::Error),
    Tls(io::Error),
    Material(MaterialError),
    Config(tls::TlsError),
    Name,
    Http2(tonic::transport::Error),
    TimedOut,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "TLS handshake: {error}"),
            Self::Material(error) => write!(f, "{error}"),
            Self::Config(error) => write!(f, "TLS configuration: {error}"),
            Self::Name => f.write_str("the host is not a name that a certificate could hold"),
            Self::Http2(error) => write!(f, "HTTP/2 handshake: {}", Chain(error)),
            Self::TimedOut => write!(f, "no connection within {} s", CONNECT_TIMEOUT.as_secs()),
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The way to one control plane, to be gone again and again: it keeps what outlives a connection.
#[derive(Debug)]
pub(crate) struct Access {
    server: Server,
    connector: Connector,
    clock: Arc<dyn TimeProvider>,
    tokens: Arc<CallTokens>,
    /// What the files last held.
    material: Option<Material>,
}

impl Access {
    pub(crate) fn new(server: Server, connector: Connector, clock: Arc<dyn TimeProvider>, entropy: &Entropy) -> Self {
        let tokens = CallTokens::new(&server.call_credentials, Arc::clone(&clock), entropy);
        Self {
            server,
            connector,
            clock,
            tokens: Arc::new(tokens),
            material: None,
        }
    }

    /// Whose way it is.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The control plane does not believe the tokens: before they are shown again their files are read, which may have others by now.
    pub(crate) fn doubt_tokens(&self) {
        self.tokens.doubt();
    }

    /// Connects, showing `identity` over TLS unless the bootstrap names another certificate to show.
    pub(crate) async fn connect(&mut self, identity: Option<&Identity>) -> Result<Credentialed, ConnectError> {
        let tokens = Arc::clone(&self.tokens);
        within_limit(async {
            let Self { server, connector, .. } = self;
            let material = match &server.credentials {
                Credentials::Insecure => None,
                Credentials::Tls(tls) => {
                    renew(&mut self.material, Material::read(tls).await, &server.uri)?;
                    self.material.as_ref()
                }
            };
            let name = server.uri.host();
            let channel = open(connector, &server.uri, name, material, identity, &self.clock).await?;
            Ok(Credentialed::new(channel, tokens))
        })
        .await
    }
}

/// Files that are being replaced, or are gone, are no reason to lose a control plane: the last that were read go on
/// (gRFC A65).
fn renew(
    last: &mut Option<Material>,
    read: Result<Material, MaterialError>,
    uri: &ServerUri,
) -> Result<(), ConnectError> {
    match read {
        Ok(material) => *last = Some(material),
        Err(error) if last.is_some() => {
            tracing::warn!(server = %uri, reason = %error, "credentials could not be read again; the last ones are used");
        }
        Err(error) => return Err(ConnectError::Material(error)),
    }
    Ok(())
}

/// Connects once, without call credentials, showing `identity` if the credentials are TLS and there is one.
pub(crate) async fn connect(
    connector: &Connector,
    uri: &ServerUri,
    credentials: &Credentials,
    identity: Option<&Identity>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Channel, ConnectError> {
    connect_to(connector, uri, uri.host(), credentials, identity, clock).await
}

/// As [`connect`], to a server whose certificate is good for `name`.
pub(crate) async fn connect_to(
    connector: &Connector,
    uri: &ServerUri,
    name: &str,
    credentials: &Credentials,
    identity: Option<&Identity>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Channel, ConnectError> {
    within_limit(async {
        let material = match credentials {
            Credentials::Insecure => None,
            Credentials::Tls(tls) => Some(Material::read(tls).await.map_err(ConnectError::Material)?),
        };
        open(connector, uri, name, material.as_ref(), identity, clock).await
    })
    .await
}

async fn within_limit<T>(connecting: impl Future<Output = Result<T, ConnectError>>) -> Result<T, ConnectError> {
    tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or(Err(ConnectError::TimedOut))
}

async fn open(
    connector: &Connector,
    uri: &ServerUri,
    name: &str,
    material: Option<&Material>,
    identity: Option<&Identity>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Channel, ConnectError> {
    let io = connector.dial(uri.clone()).await.map_err(ConnectError::Dial)?;
    let io = match material {
        None => io,
        Some(material) => secure(io, name, material, identity, clock).await?,
    };
    http2(io, uri).await
}

async fn secure(
    io: Io,
    name: &str,
    material: &Material,
    identity: Option<&Identity>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Io, ConnectError> {
    let shown = material
        .certificate
        .clone()
        .or_else(|| identity.map(ClientCertificate::from));
    let config = tls::pinned_client_config(&material.roots, shown.as_ref(), Arc::clone(clock), &[b"h2"]);
    let config = config.map_err(ConnectError::Config)?;
    let name = ServerName::try_from(name.to_owned()).map_err(|_| ConnectError::Name)?;
    let stream = TlsConnector::from(config).connect(name, io).await;
    Ok(Box::new(LastWord(stream.map_err(ConnectError::Tls)?)))
}

async fn http2(io: Io, uri: &ServerUri) -> Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("http://{}", uri.http_authority())).map_err(ConnectError::Http2)?;
    let (io, told) = FirstWord::of(io);
    // tonic asks its connector again when a connection breaks; this one has nothing more to give.
    let once = Arc::new(Mutex::new(Some(io)));
    let take = tower::service_fn(move |_| {
        let io = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        std::future::ready(io.map(TokioIo::new).ok_or_else(gone))
    });
    let channel = endpoint
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(take)
        .await
        .map_err(ConnectError::Http2)?;
    // It has sent its half by now, and waits for nothing. Only who answers is there: else what is asked for would be given up on, and no
    // other control plane asked.
    let _: Result<(), _> = told.await;
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::{Roots, TlsCredentials};

    #[tokio::test]
    async fn files_that_cannot_be_read_again_are_used_as_they_were() {
        let uri = ServerUri::parse("a:1").unwrap();
        let missing = || async { Material::read(&TlsCredentials::from(Roots::File("no/such".into()))).await };
        let mut last = None;
        let error = renew(&mut last, missing().await, &uri).unwrap_err();
        assert!(error.to_string().starts_with("roots: no/such"), "{error}");
        let good = Material {
            roots: Vec::new(),
            certificate: None,
        };
        renew(&mut last, Ok(good), &uri).unwrap();
        renew(&mut last, missing().await, &uri).unwrap();
        assert!(last.is_some());
    }
}
