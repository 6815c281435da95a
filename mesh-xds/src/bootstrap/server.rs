//! Where the control plane is and how the way to it is secured.

use std::fmt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::BootstrapError;
use super::file::{TlsConfig, XdsServer};

/// One control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub uri: ServerUri,
    /// How the way to it is secured.
    pub credentials: Credentials,
}

/// How a channel to the control plane is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// In the clear (`insecure`).
    Insecure,
    /// TLS (`tls`, gRFC A65). The workload's identity is shown where a certificate provider gives it one.
    Tls(Roots),
}

/// Where the roots are that a server is judged by. There is no fallback to the system's: a control plane is not a web site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// PEM certificates.
    Inline(String),
    /// A file of them.
    File(PathBuf),
}

/// A host and a port, as `host:port`, `http://host:port`, `https://host:port`, `dns:host:port` or `dns:///host:port`. The
/// scheme says nothing: the credentials do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUri {
    host: String,
    port: u16,
}

impl ServerUri {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// When there is no host or no port, or the scheme is another.
    pub fn parse(text: &str) -> Result<Self, InvalidServerUri> {
        let invalid = || InvalidServerUri(text.into());
        let schemes = ["http://", "https://", "dns:///", "dns:"];
        let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.unwrap_or(text).trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plain = !host.is_empty() && !host.contains([':', '/', '[', ']', ' ']);
        match bracketed {
            Some(address) if !address.is_empty() => Ok(Self {
                host: address.into(),
                port,
            }),
            None if plain => Ok(Self {
                host: host.into(),
                port,
            }),
            _ => Err(invalid()),
        }
    }

    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ServerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A text that names no server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidServerUri(Box<str>);

impl fmt::Display for InvalidServerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a host and a port: {:?}", self.0)
    }
}

impl std::error::Error for InvalidServerUri {}

/// The first server with credentials that are supported; of each server the first such credentials (gRFC A27).
pub(super) fn first_usable(servers: &[XdsServer]) -> Result<Server, BootstrapError> {
    if servers.is_empty() {
        return Err(BootstrapError::at("xds_servers", "is empty"));
    }
    for (index, entry) in servers.iter().enumerate() {
        let at = format!("xds_servers[{index}]");
        let uri = ServerUri::parse(&entry.server_uri)
            .map_err(|error| BootstrapError::at(format!("{at}.server_uri"), error))?;
        for (index, creds) in entry.channel_creds.iter().enumerate() {
            let credentials = match creds.kind.as_str() {
                "insecure" => Credentials::Insecure,
                "tls" => {
                    let at = format!("{at}.channel_creds[{index}].config");
                    let config: TlsConfig = config(&at, &creds.config)?;
                    Credentials::Tls(roots(&at, config.ca_certificate, config.ca_certificate_file)?)
                }
                _ => continue,
            };
            return Ok(Server { uri, credentials });
        }
    }
    let reason = "no server has credentials of a supported type (tls, insecure)";
    Err(BootstrapError::at("xds_servers", reason))
}

/// Reads the configuration of one kind. Absent is empty.
pub(super) fn config<T: DeserializeOwned>(at: &str, value: &Value) -> Result<T, BootstrapError> {
    let empty = Value::Object(serde_json::Map::new());
    let value = if value.is_null() { &empty } else { value };
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => at.to_owned(),
            inner => format!("{at}.{inner}"),
        };
        BootstrapError::at(path, error.into_inner())
    })
}

pub(super) fn roots(at: &str, inline: Option<String>, file: Option<String>) -> Result<Roots, BootstrapError> {
    match (inline, file) {
        (Some(pem), _) => Ok(Roots::Inline(pem)),
        (None, Some(path)) => Ok(Roots::File(path.into())),
        (None, None) => Err(BootstrapError::at(
            at,
            "needs ca_certificate or ca_certificate_file: the system's roots are not trusted with a control plane",
        )),
    }
}
