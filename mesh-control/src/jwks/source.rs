//! Where somebody's keys are, parsed once.

use std::fmt;

use http::Uri;
use http::uri::Scheme;

/// The longest address, in bytes.
const MAX_URI_BYTES: usize = 2048;
/// Where an issuer says where its keys are (OpenID Connect Discovery 1.0, 4).
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Where somebody's keys are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JwksSource {
    /// At this address (Istio `jwksUri`).
    Uri(JwksUri),
    /// Where this issuer says, when it is asked for its OpenID configuration (Istio, where a rule has neither keys nor an address).
    Issuer {
        /// The issuer, as tokens name it.
        issuer: Box<str>,
        /// Where it is asked.
        configuration: JwksUri,
    },
}

impl JwksSource {
    /// The keys at an address.
    ///
    /// # Errors
    ///
    /// When it is no absolute `https` or `http` URL, has a user in it, or is too long.
    pub fn at(uri: &str) -> Result<Self, &'static str> {
        JwksUri::parse(uri).map(Self::Uri)
    }

    /// The keys of an issuer who tells where they are.
    ///
    /// # Errors
    ///
    /// When the issuer is no such URL.
    pub fn of_issuer(issuer: &str) -> Result<Self, &'static str> {
        // A query would come after the path that is added.
        if issuer.contains(['?', '#']) {
            return Err("an issuer that is asked has no query");
        }
        let configuration = JwksUri::parse(&format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')))?;
        Ok(Self::Issuer {
            issuer: issuer.into(),
            configuration,
        })
    }

    /// What is asked first.
    pub fn uri(&self) -> &JwksUri {
        match self {
            Self::Uri(uri) | Self::Issuer { configuration: uri, .. } => uri,
        }
    }
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri().fmt(f)
    }
}

/// An absolute URL of `https` or `http`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JwksUri {
    secure: bool,
    /// Without the brackets of an IPv6 address.
    host: Box<str>,
    /// As it stands in the URL.
    authority: Box<str>,
    port: u16,
    path: Box<str>,
}

impl JwksUri {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_URI_BYTES {
            return Err("is longer than 2048 bytes");
        }
        let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err("is not a URL of https"),
        };
        let authority = uri.authority().ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("has a user in it");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("has no host");
        }
        let default = if secure { 443 } else { 80 };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            secure,
            host: host.into(),
            authority: authority.as_str().into(),
            port: uri.port_u16().unwrap_or(default),
            path: path.into(),
        })
    }

    /// Whether it is asked over TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether its name is one of this very host: `localhost`, or an address of loopback.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }

    /// Whether it is an address of a private network or of one link, as cloud machines have for what only they may ask.
    pub(crate) fn is_private(&self) -> bool {
        match self.host.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(address)) => address.is_private() || address.is_link_local(),
            Ok(std::net::IpAddr::V6(address)) => address.is_unique_local() || address.is_unicast_link_local(),
            Err(_) => false,
        }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// For the header `host`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for JwksUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}
