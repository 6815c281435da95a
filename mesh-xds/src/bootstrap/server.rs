//! Which control planes there are, how the way to each is secured, and what is shown to it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::file::{CredsEntry, JwtTokenFileConfig, TlsConfig, XdsServer};
use super::json::Json;
use super::{BootstrapError, ServerFeatures, ServerUri};

/// How often files are read again when nothing is said (gRFC A65, grpc-go).
const DEFAULT_REFRESH: Duration = Duration::from_secs(600);
/// More often than this is a busy loop.
const MIN_REFRESH: Duration = Duration::from_millis(100);

/// One control plane. Equal ones may share a stream (gRFC A47): they differ in nothing that the other end could tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Where it is.
    pub uri: ServerUri,
    /// How the way to it is secured.
    pub credentials: Credentials,
    /// What every call to it carries besides.
    pub call_credentials: Vec<CallCredentials>,
    /// What it can do, or is trusted with.
    pub features: ServerFeatures,
}

/// How a channel to the control plane is secured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// In the clear (`insecure`).
    Insecure,
    /// TLS (`tls`, gRFC A65).
    Tls(TlsCredentials),
}

impl Credentials {
    /// Whether the workload's own identity is shown, where a certificate provider gives it one: over TLS, unless the
    /// bootstrap names another certificate to show.
    pub fn shows_identity(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.certificate.is_none())
    }
}

/// What TLS with a control plane needs. Files are read at each connection; one that cannot be read then is taken as it last
/// was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsCredentials {
    /// What the server is judged by.
    pub roots: Roots,
    /// What is shown to it instead of the workload's identity.
    pub certificate: Option<CertificateFiles>,
    /// How often other clients read the files again. This one reads them at every connection, which is when they count.
    /// Default: 600 s.
    pub refresh_interval: Duration,
}

impl From<Roots> for TlsCredentials {
    fn from(roots: Roots) -> Self {
        Self {
            roots,
            certificate: None,
            refresh_interval: DEFAULT_REFRESH,
        }
    }
}

/// A certificate and its key, in files. It need not be a SPIFFE certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, leaf first, in PEM.
    pub certificate: PathBuf,
    /// The leaf's private key, in PEM.
    pub private_key: PathBuf,
}

/// Where the roots are that a server is judged by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Roots {
    /// PEM certificates.
    Inline(String),
    /// A file of them.
    File(PathBuf),
    /// Those of the system, for a `tls` that names none (gRFC A65): the store of the platform, or what the environment's
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Whoever has a certificate for the control plane's name from any public
    /// authority is believed then; a mesh that has an authority of its own names its root.
    System,
}

/// What is sent with every call, beside how the channel is secured (gRFC A97).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallCredentials {
    /// `authorization: Bearer TOKEN` with the JWT that this file holds (`jwt_token_file`).
    JwtTokenFile(PathBuf),
}

/// Every server of a list, in order of priority (gRFC A71). `list` is the path of the list.
pub(super) fn all(list: &str, entries: &[XdsServer]) -> Result<Vec<Server>, BootstrapError> {
    let at = |index| format!("{list}[{index}]");
    let servers = entries.iter().enumerate();
    servers.map(|(index, entry)| server(&at(index), entry)).collect()
}

fn server(at: &str, entry: &XdsServer) -> Result<Server, BootstrapError> {
    let uri = ServerUri::parse(&entry.server_uri);
    let uri = uri.map_err(|error| BootstrapError::at(format!("{at}.server_uri"), error))?;
    let credentials = credentials(&format!("{at}.channel_creds"), &entry.channel_creds)?;
    let is_private = credentials != Credentials::Insecure || uri.socket_path().is_some();
    Ok(Server {
        call_credentials: call_credentials(&format!("{at}.call_creds"), &entry.call_creds, is_private)?,
        uri,
        credentials,
        features: ServerFeatures::known(&entry.server_features),
    })
}

/// The first credentials of a supported type (gRFC A27).
fn credentials(at: &str, entries: &[CredsEntry]) -> Result<Credentials, BootstrapError> {
    let mut google = None;
    for (index, entry) in entries.iter().enumerate() {
        match entry.kind.as_str() {
            "insecure" => return Ok(Credentials::Insecure),
            "tls" => return tls(&format!("{at}[{index}].config"), &entry.config).map(Credentials::Tls),
            "google_default" => google = google.or(Some(index)),
            _ => {}
        }
    }
    match google {
        Some(index) => Err(BootstrapError::at(
            format!("{at}[{index}].type"),
            "google_default, the application default credentials of Google Cloud, is not supported: use tls with \
             ca_certificate_file, and call_creds of type jwt_token_file where the server asks for a token; or name one \
             of them after it, for other clients to skip",
        )),
        None => Err(BootstrapError::at(
            at,
            "has no credentials of a supported type (tls, insecure)",
        )),
    }
}

fn tls(at: &str, value: &Value) -> Result<TlsCredentials, BootstrapError> {
    let config: TlsConfig = config(at, value)?;
    Ok(TlsCredentials {
        roots: roots(config.ca_certificate, config.ca_certificate_file).unwrap_or(Roots::System),
        certificate: certificate_files(at, config.certificate_file, config.private_key_file)?,
        refresh_interval: refresh_interval(at, config.refresh_interval.as_deref())?,
    })
}

/// All of a known type (gRFC A97), if what is secret in them stays private on the way.
fn call_credentials(
    at: &str,
    entries: &[CredsEntry],
    is_private: bool,
) -> Result<Vec<CallCredentials>, BootstrapError> {
    let mut all = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if entry.kind != "jwt_token_file" {
            continue;
        }
        if !is_private {
            return Err(BootstrapError::at(
                format!("{at}[{index}]"),
                "a token is never sent in the clear: it needs channel_creds of type tls, or a server_uri of scheme unix",
            ));
        }
        let at = format!("{at}[{index}].config");
        let config: JwtTokenFileConfig = config(&at, &entry.config)?;
        let path = path(config.jwt_token_file);
        let path = path.ok_or_else(|| BootstrapError::at(format!("{at}.jwt_token_file"), "is missing"))?;
        all.push(CallCredentials::JwtTokenFile(path));
    }
    Ok(all)
}

/// Reads the configuration of one kind. Absent is empty.
pub(super) fn config<T: DeserializeOwned>(at: &str, value: &Value) -> Result<T, BootstrapError> {
    let value = match Json::from(value) {
        Json::Null => Json::Object(Vec::new()),
        value => value,
    };
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => at.to_owned(),
            inner => format!("{at}.{inner}"),
        };
        BootstrapError::at(path, error.into_inner())
    })
}

pub(super) fn roots(inline: Option<String>, file: Option<String>) -> Option<Roots> {
    let file = path(file).map(Roots::File);
    inline.map(Roots::Inline).or(file)
}

/// Both or neither (gRFCs A29 and A65).
pub(super) fn certificate_files(
    at: &str,
    certificate: Option<String>,
    private_key: Option<String>,
) -> Result<Option<CertificateFiles>, BootstrapError> {
    let missing = |field: &str, other: &str| {
        let reason = format!("is missing: {other} is of no use without it");
        Err(BootstrapError::at(format!("{at}.{field}"), reason))
    };
    match (path(certificate), path(private_key)) {
        (Some(certificate), Some(private_key)) => Ok(Some(CertificateFiles {
            certificate,
            private_key,
        })),
        (Some(_), None) => missing("private_key_file", "certificate_file"),
        (None, Some(_)) => missing("certificate_file", "private_key_file"),
        (None, None) => Ok(None),
    }
}

pub(super) fn refresh_interval(at: &str, text: Option<&str>) -> Result<Duration, BootstrapError> {
    match text.map(seconds) {
        None => Ok(DEFAULT_REFRESH),
        Some(Some(interval)) => Ok(interval.max(MIN_REFRESH)),
        Some(None) => {
            let reason = "is not a duration such as \"600s\" or \"0.5s\"";
            Err(BootstrapError::at(format!("{at}.refresh_interval"), reason))
        }
    }
}

/// A path that is given and not empty, which would mean the same as absent to gRPC.
pub(super) fn path(text: Option<String>) -> Option<PathBuf> {
    text.filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Reads protobuf's JSON form of a duration.
fn seconds(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| plain)?;
    Duration::try_from_secs_f64(number).ok()
}

impl fmt::Display for CallCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JwtTokenFile(path) => write!(f, "the token in {}", path.display()),
        }
    }
}
