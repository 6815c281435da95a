//! Where a server is, in every way that bootstraps write it.
//!
//! gRPC's targets have no scheme or `dns:`, other clients want `http://`, and istio-agent listens on a socket file; one
//! file should serve them all. The scheme chooses the kind of address and never the security: the credentials do that.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// The longest host name (RFC 1035 2.3.4, without the root's dot).
const MAX_HOST_BYTES: usize = 253;
/// By what name TLS and HTTP know a server behind a socket file, as in gRPC.
const SOCKET_HOST: &str = "localhost";

/// A host and a port, or the file of a Unix socket:
///
/// | form | |
/// |---|---|
/// | `host:port`, `[v6]:port` | |
/// | `http://host:port`, `https://host:port` | port 80 and 443 if left out |
/// | `dns:host:port`, `dns:///host:port` | the system's resolver is asked: one that names another (`dns://server/host:port`) is refused |
/// | `ipv4:1.2.3.4:80`, `ipv6:[::1]:80` | one address |
/// | `unix:relative/path`, `unix:/absolute/path`, `unix:///absolute/path` | |
///
/// The scheme says nothing about security: the credentials do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUri(Place);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Tcp { host: Box<str>, port: u16 },
    Socket(PathBuf),
}

impl ServerUri {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// When it has none of the forms above.
    pub fn parse(text: &str) -> Result<Self, InvalidServerUri> {
        place(text)
            .map(Self)
            .map_err(|why| InvalidServerUri { text: text.into(), why })
    }

    /// The name or address without brackets, by which TLS knows the server; `localhost` behind a socket file.
    pub fn host(&self) -> &str {
        match &self.0 {
            Place::Tcp { host, .. } => host,
            Place::Socket(_) => SOCKET_HOST,
        }
    }

    /// The port; 0 for a socket file, which has none.
    pub fn port(&self) -> u16 {
        match &self.0 {
            Place::Tcp { port, .. } => *port,
            Place::Socket(_) => 0,
        }
    }

    /// The socket's file, if it is one.
    pub fn socket_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Tcp { .. } => None,
            Place::Socket(path) => Some(path),
        }
    }

    /// What HTTP calls the server.
    pub(crate) fn http_authority(&self) -> String {
        match &self.0 {
            Place::Tcp { .. } => self.to_string(),
            Place::Socket(_) => SOCKET_HOST.into(),
        }
    }
}

impl fmt::Display for ServerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "{host}:{port}"),
            Place::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn place(text: &str) -> Result<Place, Why> {
    if text.starts_with("unix-abstract:") {
        return Err(Why::Abstract);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(path);
    }
    if let Some(rest) = text.strip_prefix("http://") {
        return tcp(rest.strip_suffix('/').unwrap_or(rest), Some(80));
    }
    if let Some(rest) = text.strip_prefix("https://") {
        return tcp(rest.strip_suffix('/').unwrap_or(rest), Some(443));
    }
    if let Some(rest) = text.strip_prefix("dns:") {
        let endpoint = match rest.strip_prefix("//") {
            Some(rest) => match rest.split_once('/').ok_or(Why::Host)? {
                ("", endpoint) => endpoint,
                _ => return Err(Why::Resolver),
            },
            None => rest,
        };
        return tcp(endpoint, None);
    }
    if let Some(rest) = text.strip_prefix("ipv4:") {
        let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
        host.parse::<Ipv4Addr>().map_err(|_| Why::Address)?;
        return tcp(rest, None);
    }
    if let Some(rest) = text.strip_prefix("ipv6:") {
        return if rest.starts_with('[') {
            tcp(rest, None)
        } else {
            Err(Why::Address)
        };
    }
    match text.contains("://") {
        true => Err(Why::Scheme),
        false => tcp(text, None),
    }
}

fn socket(path: &str) -> Result<Place, Why> {
    // `unix://x/y` would have an authority, which a file has not.
    let path = match path.strip_prefix("//") {
        Some(absolute) if !absolute.starts_with('/') => return Err(Why::Path),
        Some(absolute) => absolute,
        None => path,
    };
    match path.is_empty() || path.ends_with('/') || path.contains('\0') {
        true => Err(Why::Path),
        false => Ok(Place::Socket(path.into())),
    }
}

fn tcp(text: &str, default_port: Option<u16>) -> Result<Place, Why> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(Why::Address)?;
            host.parse::<Ipv6Addr>().map_err(|_| Why::Address)?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(port),
                None if port.is_empty() => None,
                None => return Err(Why::Port),
            };
            (host, port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            // What is left is a name that DNS, TLS and HTTP all take.
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.bytes().all(allowed) {
                return Err(Why::Host);
            }
            (host, port)
        }
    };
    let port = match port {
        // Digits only: `u16` would take a sign as well.
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok(),
        Some(_) => None,
        None => default_port,
    };
    Ok(Place::Tcp {
        host: host.into(),
        port: port.filter(|port| *port != 0).ok_or(Why::Port)?,
    })
}

/// A text that names no server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidServerUri {
    text: Box<str>,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Host,
    Port,
    Address,
    Resolver,
    Path,
    Abstract,
    Scheme,
}

impl fmt::Display for InvalidServerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Why::Host => "it has no host that could be looked up",
            Why::Port => "it needs a port from 1 to 65535",
            Why::Address => "it needs an address, as in ipv4:127.0.0.1:80 or ipv6:[::1]:80",
            Why::Resolver => "a DNS server of its own is not asked here: leave it out, as in dns:///host:port",
            Why::Path => "it needs the path of a file, as in unix:///absolute/path or unix:relative/path",
            Why::Abstract => "sockets without a file (unix-abstract) are not supported; use unix: and a path",
            Why::Scheme => "its scheme is none of http, https, dns, ipv4, ipv6, unix",
        };
        write!(f, "{:?} names no server: {why}", self.text)
    }
}

impl std::error::Error for InvalidServerUri {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_uris_with_and_without_a_scheme() {
        let good = [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("http://127.0.0.1:1", "127.0.0.1:1"),
            ("http://a.b", "a.b:80"),
            ("https://a.b:65535/", "a.b:65535"),
            ("https://a.b", "a.b:443"),
            ("https://[::1]/", "[::1]:443"),
            ("dns:///a.b:2", "a.b:2"),
            ("dns:a:2", "a:2"),
            ("dns:///[::1]:2", "[::1]:2"),
            ("[::1]:3", "[::1]:3"),
            ("ipv4:1.2.3.4:80", "1.2.3.4:80"),
            ("ipv6:[::1]:80", "[::1]:80"),
            ("unix:relative/x", "unix:relative/x"),
            ("unix:/a/x", "unix:/a/x"),
            ("unix:///etc/istio/proxy/XDS", "unix:/etc/istio/proxy/XDS"),
        ];
        for (text, expected) in good {
            let uri = ServerUri::parse(text).unwrap();
            assert_eq!(uri.to_string(), expected, "{text}");
            assert_eq!(ServerUri::parse(expected), Ok(uri), "{text}");
        }
        let socket = ServerUri::parse("unix:///a/x").unwrap();
        assert_eq!(socket.socket_path(), Some(Path::new("/a/x")));
        assert_eq!((socket.host(), socket.port()), ("localhost", 0));
        assert_eq!(socket.http_authority(), "localhost");
        assert_eq!(ServerUri::parse("[::1]:3").unwrap().host(), "::1");
    }

    #[test]
    fn what_names_no_server_says_why() {
        let bad = [
            ("", Why::Host),
            (":1", Why::Host),
            ("a/b:1", Why::Host),
            ("a b:1", Why::Host),
            ("user@a:1", Why::Host),
            ("dns://8.8.8.8", Why::Host),
            ("https://", Why::Host),
            ("http://a:1/path", Why::Port),
            ("http://a/path", Why::Host),
            ("a", Why::Port),
            ("a:", Why::Port),
            ("a:0", Why::Port),
            ("a:+1", Why::Port),
            ("a:65536", Why::Port),
            ("dns:a", Why::Port),
            ("[::1]", Why::Port),
            ("[::1]1", Why::Port),
            ("::1:2", Why::Host),
            ("[]:1", Why::Address),
            ("[::1", Why::Address),
            ("dns://8.8.8.8/a.b:2", Why::Resolver),
            ("ipv4:a:1", Why::Address),
            ("ipv4:1.2.3.4:1,1.2.3.5:1", Why::Address),
            ("ipv6:::1:80", Why::Address),
            ("ipv6:a:80", Why::Address),
            ("unix:", Why::Path),
            ("unix://a/b", Why::Path),
            ("unix:a\0b", Why::Path),
            ("unix:///a/", Why::Path),
            ("unix-abstract:x", Why::Abstract),
            ("xds:///a:1", Why::Scheme),
        ];
        for (text, why) in bad {
            let error = ServerUri::parse(text).unwrap_err();
            assert_eq!(error.why, why, "{text}");
            assert!(error.to_string().starts_with(&format!("{text:?} names no server: ")));
        }
    }
}
