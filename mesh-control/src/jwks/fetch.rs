//! One fetch: a GET over HTTP/1.1, on a connection of its own, with no redirect and a bound on all of it.
//!
//! What the other end answers is shown to nobody but as the keys that it is: an error says what kind of failure it was, so that a document
//! that leads to something inside of a network reads nothing there.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_core::config::{InvalidJwks, Jwks};
use mesh_core::identity::tls;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::time_provider::TimeProvider;
use tokio_rustls::TlsConnector;

use super::dial::{Io, JwksConnector};
use super::source::{JwksSource, JwksUri};

/// The most bytes of an answer's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How keys are fetched.
#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) connector: JwksConnector,
    /// Who vouches for issuers; `None`: the system's roots.
    pub(crate) roots: Option<Vec<CertificateDer<'static>>>,
    pub(crate) clock: Arc<dyn TimeProvider>,
    /// Whether plaintext may leave this host.
    pub(crate) plaintext: bool,
}

impl Fetcher {
    pub(super) async fn fetch(&self, source: &JwksSource, timeout: Duration) -> Result<Jwks, FetchError> {
        let fetching = tokio::time::timeout(timeout, self.keys(source));
        fetching.await.unwrap_or(Err(FetchError::TimedOut))
    }

    async fn keys(&self, source: &JwksSource) -> Result<Jwks, FetchError> {
        let text = match source {
            JwksSource::Uri(uri) => self.get(uri).await?,
            JwksSource::Issuer { issuer, configuration } => {
                let configuration = self.get(configuration).await?;
                self.get(&discovered(issuer, &configuration)?).await?
            }
        };
        Jwks::parse(&text).map_err(FetchError::Keys)
    }

    async fn get(&self, uri: &JwksUri) -> Result<String, FetchError> {
        if !(uri.is_secure() || self.plaintext || uri.is_loopback()) {
            return Err(FetchError::Plaintext);
        }
        let io = self
            .connector
            .dial(uri, self.plaintext)
            .await
            .map_err(FetchError::Dial)?;
        let io = match uri.is_secure() {
            true => self.secure(io, uri).await?,
            false => io,
        };
        let mut http = http1::Builder::new();
        http.max_buf_size(MAX_HEAD_BYTES);
        let (mut sender, connection) = http.handshake(TokioIo::new(io)).await.map_err(FetchError::Http)?;
        let request = Request::get(uri.path())
            .header(header::HOST, uri.authority())
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|_| FetchError::Discovery("a URL that cannot be asked"))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(FetchError::Http)?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), Jwks::MAX_BYTES).collect().await;
            let bytes = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => FetchError::TooLarge,
                false => FetchError::Broken,
            })?;
            String::from_utf8(bytes.to_bytes().into()).map_err(|_| FetchError::Broken)
        };
        // The exchange is told of the connection's end; only it says what came.
        let connection = async {
            drop(connection.await);
            std::future::pending().await
        };
        tokio::select! {
            biased;
            text = exchange => text,
            never = connection => never,
        }
    }

    async fn secure(&self, io: Io, uri: &JwksUri) -> Result<Io, FetchError> {
        let roots = match &self.roots {
            Some(roots) => roots.clone(),
            // Each time, so that roots that are replaced are used. Hundreds of files, on some systems.
            None => {
                let loading = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
                loading.map_err(|_| FetchError::Roots)?.certs
            }
        };
        let config = tls::origination_client_config(Some(&roots), &[], None, Arc::clone(&self.clock), &[b"http/1.1"]);
        let config = config.map_err(|_| FetchError::Roots)?;
        let name = ServerName::try_from(uri.host().to_owned()).map_err(|_| FetchError::Roots)?;
        let stream = TlsConnector::from(config).connect(name, io).await;
        Ok(Box::new(stream.map_err(FetchError::Tls)?))
    }
}

/// Where the keys are, by what an issuer says of itself. It must name itself (OpenID Connect Discovery 1.0, 4.3): else one that serves
/// several could be answered for by another.
fn discovered(issuer: &str, configuration: &str) -> Result<JwksUri, FetchError> {
    let bad = FetchError::Discovery;
    let configuration: serde_json::Value =
        serde_json::from_str(configuration).map_err(|_| bad("an answer that is not JSON"))?;
    let text = |name: &str| configuration.get(name).and_then(serde_json::Value::as_str);
    if text("issuer") != Some(issuer) {
        return Err(bad("the configuration of another issuer"));
    }
    let uri = text("jwks_uri").ok_or_else(|| bad("no jwks_uri"))?;
    JwksUri::parse(uri).map_err(|_| bad("a jwks_uri that is no URL of https"))
}

/// Why there are no keys.
#[derive(Debug)]
pub(super) enum FetchError {
    Plaintext,
    Dial(io::Error),
    Roots,
    Tls(io::Error),
    Http(hyper::Error),
    Status(StatusCode),
    TooLarge,
    Broken,
    Discovery(&'static str),
    Keys(InvalidJwks),
    TimedOut,
}

impl FetchError {
    /// A stable lower-case word, fit for a metric label.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Dial(_) => "connect",
            Self::Roots => "roots",
            Self::Tls(_) => "tls",
            Self::Http(_) | Self::Broken => "http",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Discovery(_) => "discovery",
            Self::Keys(_) => "keys",
            Self::TimedOut => "timeout",
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext => f.write_str("http is for loopback alone"),
            Self::Dial(error) => write!(f, "no connection: {error}"),
            Self::Roots => f.write_str("there is no root to judge the server by, or no name to judge it for"),
            Self::Tls(error) => write!(f, "TLS handshake: {error}"),
            Self::Http(error) => write!(f, "HTTP: {error}"),
            Self::Status(status) => write!(f, "it answers {}: only 200 is taken, and no redirect", status.as_u16()),
            Self::TooLarge => write!(f, "its answer is larger than {} KiB", Jwks::MAX_BYTES / 1024),
            Self::Broken => f.write_str("its answer broke off, or is not text"),
            Self::Discovery(what) => write!(f, "the issuer tells {what}"),
            Self::Keys(error) => write!(f, "what it answers {error}"),
            Self::TimedOut => f.write_str("it took too long"),
        }
    }
}
