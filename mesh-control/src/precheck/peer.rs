//! The control plane: whether it can be reached, whether it is who the bootstrap says, and what time it is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Version, header};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_core::identity::tls::origination_client_config;
use mesh_xds::bootstrap::{Credentials, Roots, Server};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Check, Verdict};

/// The longest that all of it may take for one control plane.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a control plane was seen to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Its certificate; `None` in the clear.
    pub certificate: Option<Vec<u8>>,
    /// What it says that the time is.
    pub date: Option<String>,
    /// How long it took to be told.
    pub asked: Duration,
}

/// Connects to a control plane as a workload with this bootstrap does, and asks for nothing. A token is not used up.
///
/// # Errors
///
/// Where it failed and why, in a sentence.
pub async fn meet(server: &Server, clock: Arc<dyn TimeProvider>) -> Result<Met, String> {
    let meeting = tokio::time::timeout(PATIENCE, introduce(server, clock));
    let late = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
    meeting.await.unwrap_or_else(|_| late())
}

async fn introduce(server: &Server, clock: Arc<dyn TimeProvider>) -> Result<Met, String> {
    if server.uri.socket_path().is_some() {
        return Err("is behind a socket file, which is not asked".to_owned());
    }
    let (host, port) = (server.uri.host(), server.uri.port());
    let tcp = TcpStream::connect((host, port)).await;
    let tcp = tcp.map_err(|error| format!("cannot be reached: {error}"))?;
    let tls = match &server.credentials {
        Credentials::Insecure => return ask(tcp, host, None).await,
        Credentials::Tls(tls) => tls,
    };
    let roots = roots(&tls.roots)?;
    let config = origination_client_config(Some(&roots), &[], None, clock, &[b"h2"]);
    let config = config.map_err(|error| format!("the roots of the bootstrap are of no use: {error}"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name for TLS"))?;
    let stream = TlsConnector::from(config).connect(name, tcp).await;
    let stream = stream.map_err(|error| format!("TLS failed: {error}"))?;
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|all| all.first()).map(|one| one.to_vec());
    ask(stream, host, certificate).await
}

fn roots(roots: &Roots) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = match roots {
        Roots::System => return Ok(rustls_native_certs::load_native_certs().certs),
        Roots::Inline(pem) => pem.clone(),
        Roots::File(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("roots {} cannot be read: {error}", path.display()))?,
    };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.map_err(|error| format!("the roots of the bootstrap are no PEM: {error}"))
}

/// Asks for something that there is not: every answer has the date.
async fn ask<I>(io: I, host: &str, certificate: Option<Vec<u8>>) -> Result<Met, String>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("does not speak HTTP/2: {error}");
    let handshake = http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(io));
    let (mut sender, connection) = handshake.await.map_err(failed)?;
    let request = Request::post(format!("http://{host}/mesh.precheck/Time"))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let began = Instant::now();
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        Ok(Met {
            certificate,
            date: date.map(str::to_owned),
            asked: began.elapsed(),
        })
    };
    // The exchange is told of the connection's end; only it says what came.
    let connection = async {
        drop(connection.await);
        std::future::pending().await
    };
    tokio::select! {
        biased;
        met = exchange => met,
        never = connection => never,
    }
}

/// Judges [`meet`].
pub fn peer(server: &str, met: &Result<Met, String>) -> Check {
    const NAME: &str = "control-plane";
    match met {
        Err(why) => Check::new(NAME, Verdict::Error, format!("{server} {why}")),
        Ok(Met { certificate: None, .. }) => Check::new(
            NAME,
            Verdict::Warning,
            format!("{server} answers in the clear: for this machine alone"),
        ),
        Ok(_) => Check::new(
            NAME,
            Verdict::Ok,
            format!("{server} answers, and is whom the bootstrap expects"),
        ),
    }
}
