//! From an address to a gRPC channel: dial, TLS, HTTP/2.
//!
//! Dialling and the handshake happen here and not inside tonic, so that what went wrong is known by name ("connecting to
//! 127.0.0.1:1: connection refused") and both share one deadline. A channel is one connection: when it breaks, whoever uses
//! it makes another, with the pauses and the credentials that are right by then.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_core::identity::{Identity, tls};
use rustls::pki_types::ServerName;
use rustls::time_provider::TimeProvider;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::bootstrap::{Credentials, Roots, ServerUri};
use crate::connector::{Connector, Io};
use crate::pem;

/// The longest that dialling and both handshakes may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle connection is asked whether it lives, and how long it may take to say so. Without it a control plane
/// that vanished behind a firewall would be listened to for hours.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no channel.
#[derive(Debug)]
pub(crate) enum ConnectError {
    Dial(io::Error),
    Tls(io::Error),
    Roots(pem::PemError),
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
            Self::Roots(error) => write!(f, "roots: {error}"),
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

/// Connects to a control plane, showing `identity` if the credentials are TLS and there is one.
pub(crate) async fn connect(
    connector: &Connector,
    uri: &ServerUri,
    credentials: &Credentials,
    identity: Option<&Identity>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Channel, ConnectError> {
    let connecting = async {
        let io = connector.dial(uri.clone()).await.map_err(ConnectError::Dial)?;
        let io = match credentials {
            Credentials::Insecure => io,
            Credentials::Tls(roots) => secure(io, uri, roots, identity, clock).await?,
        };
        http2(io, uri).await
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or(Err(ConnectError::TimedOut))
}

async fn secure(
    io: Io,
    uri: &ServerUri,
    roots: &Roots,
    identity: Option<&Identity>,
    clock: &Arc<dyn TimeProvider>,
) -> Result<Io, ConnectError> {
    let roots = match roots {
        Roots::Inline(text) => pem::certificates(text.as_bytes()),
        Roots::File(path) => pem::read(path).await.and_then(|bytes| pem::certificates(&bytes)),
    };
    let roots = roots.map_err(ConnectError::Roots)?;
    let config = tls::pinned_client_config(&roots, identity, Arc::clone(clock), &[b"h2"]);
    let config = config.map_err(ConnectError::Config)?;
    let name = ServerName::try_from(uri.host().to_owned()).map_err(|_| ConnectError::Name)?;
    let stream = TlsConnector::from(config).connect(name, io).await;
    Ok(Box::new(stream.map_err(ConnectError::Tls)?))
}

async fn http2(io: Io, uri: &ServerUri) -> Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("http://{uri}")).map_err(ConnectError::Http2)?;
    // tonic asks its connector again when a connection breaks; this one has nothing more to give.
    let once = Arc::new(Mutex::new(Some(io)));
    let take = tower::service_fn(move |_| {
        let io = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        std::future::ready(io.map(TokioIo::new).ok_or_else(gone))
    });
    endpoint
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(take)
        .await
        .map_err(ConnectError::Http2)
}
