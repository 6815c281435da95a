//! One form of every request, before anybody looks at it: the router, the policy and the handler see the same.
//!
//! A path or an authority can be spelt in many ways that end at the same handler. A policy that is asked about one spelling
//! while the handler serves another is no policy (CVE-2026-33186, CVE-2021-31920, CVE-2021-39155 and their kind). So a request
//! is brought to one form, once, or refused: what cannot be brought there, or could mean two things, goes no further. The
//! request itself is rewritten, so nobody behind this has another spelling to go by.
//!
//! Paths follow Envoy's order (escaped slashes, then RFC 3986, then runs of slashes) and Istio's names for how much of it is done.
//! One pass and no more: what is escaped twice stays escaped once. Refused besides what Envoy refuses: broken escapes, and
//! segments such as `..;x`, which a server that knows path parameters takes for `..`.
//!
//! Pure: a [`Rewrite`] says what to change and is empty for nearly every request, for which nothing is allocated.

use std::fmt;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

mod authority;
mod context;
mod headers;
mod path;
#[cfg(test)]
mod tests;

pub use headers::{is_spoofable, sanitize};

/// How much of a path's spelling is taken away (Istio `pathNormalization`).
///
/// A path with an escaped NUL, a broken escape or a dot segment with parameters is refused whichever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathNormalization {
    /// RFC 3986: escapes of characters that a segment may have in it as they are (`pchar`) are decoded, the others written in upper case,
    /// `\` becomes `/`, and `.` and `..` segments are resolved (Envoy `normalize_path`; Istio's default, BASE). Envoy leaves escapes such as
    /// `%40` and `%3A` alone, and a handler that decodes them reads what no policy saw.
    Base,
    /// [`Base`](Self::Base), and then runs of slashes become one (Envoy `merge_slashes`).
    MergeSlashes,
    /// First `%2F` and `%5C` become slashes (Envoy `UNESCAPE_AND_FORWARD`), then [`MergeSlashes`](Self::MergeSlashes).
    ///
    /// The default: a handler that decodes a path's parameters, as axum's `Path` does, sees no slash that the policy did not see. A
    /// service whose names hold escaped slashes asks for less.
    #[default]
    DecodeAndMergeSlashes,
}

/// Why a request has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum NotCanonical {
    /// The method is not of upper-case letters, digits and the few signs of a token.
    Method,
    /// CONNECT: nobody behind this tunnels.
    Connect,
    /// The path does not begin with `/`, and is not the `*` of OPTIONS.
    PathForm,
    /// The path holds a NUL, escaped.
    PathNul,
    /// The path holds a `%` that two hexadecimal digits do not follow.
    PathEscape,
    /// The path holds `.` or `..` with parameters, such as `..;x`.
    PathParameters,
    /// Neither an authority nor a host is named.
    AuthorityMissing,
    /// Several hosts are named.
    HostRepeated,
    /// The authority and the host are not the same.
    AuthorityConflict,
    /// The authority names a user.
    AuthorityUserinfo,
    /// The authority is not a host and a port.
    AuthorityForm,
    /// A header that says one thing stands there several times: `content-type`, `authorization`, `content-length`.
    HeaderRepeated,
    /// A header's value begins or ends with a blank: HTTP/1.1 has none there, and over HTTP/2 such a request is malformed (RFC 9113, 8.2.1).
    HeaderBlank,
}

impl NotCanonical {
    /// Every one of them.
    pub const ALL: [Self; 13] = [
        Self::Method,
        Self::Connect,
        Self::PathForm,
        Self::PathNul,
        Self::PathEscape,
        Self::PathParameters,
        Self::AuthorityMissing,
        Self::HostRepeated,
        Self::AuthorityConflict,
        Self::AuthorityUserinfo,
        Self::AuthorityForm,
        Self::HeaderRepeated,
        Self::HeaderBlank,
    ];

    /// A stable lower-case word, fit for a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Connect => "connect",
            Self::PathForm => "path_form",
            Self::PathNul => "path_nul",
            Self::PathEscape => "path_escape",
            Self::PathParameters => "path_parameters",
            Self::AuthorityMissing => "authority_missing",
            Self::HostRepeated => "host_repeated",
            Self::AuthorityConflict => "authority_conflict",
            Self::AuthorityUserinfo => "authority_userinfo",
            Self::AuthorityForm => "authority_form",
            Self::HeaderRepeated => "header_repeated",
            Self::HeaderBlank => "header_blank",
        }
    }

    /// What the sender is told: a sentence without anything of the request in it.
    pub fn message(self) -> &'static str {
        match self {
            Self::Method => "bad request: the method is not an upper-case token",
            Self::Connect => "bad request: CONNECT is not served",
            Self::PathForm => "bad request: the path does not begin with a slash",
            Self::PathNul => "bad request: the path holds a NUL",
            Self::PathEscape => "bad request: the path holds a broken escape",
            Self::PathParameters => "bad request: the path holds a dot segment with parameters",
            Self::AuthorityMissing => "bad request: no host is named",
            Self::HostRepeated => "bad request: several hosts are named",
            Self::AuthorityConflict => "bad request: the authority and the host differ",
            Self::AuthorityUserinfo => "bad request: the authority names a user",
            Self::AuthorityForm => "bad request: the authority is not a host and a port",
            Self::HeaderRepeated => "bad request: a header that says one thing stands there several times",
            Self::HeaderBlank => "bad request: a header's value begins or ends with a blank",
        }
    }
}

impl fmt::Display for NotCanonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for NotCanonical {}

/// What has to change about a request for it to be canonical.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    uri: Option<Uri>,
    host: Option<Host>,
    headers: bool,
}

/// What becomes of the header `host`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// It says what the authority says (gRFC A41: the authority is what counts).
    Dropped,
    Replaced(HeaderValue),
}

impl Rewrite {
    /// Looks at the head of a request. What it says of headers other than `host` is done by [`apply`](Self::apply).
    ///
    /// # Errors
    ///
    /// When there is no canonical form.
    pub fn of<B>(request: &Request<B>, paths: PathNormalization) -> Result<Self, NotCanonical> {
        let (uri, headers) = (request.uri(), request.headers());
        method(request.method())?;
        let facts = headers::facts(headers)?;
        let path = match uri.path() {
            // `OPTIONS *` is about the server and not about a path.
            "*" if request.method() == Method::OPTIONS => None,
            path => path::canonical(path, paths)?,
        };
        let (authority, host) = authorities(uri, facts.host, request.version())?;
        let uri = match (path, authority) {
            (None, None) => None,
            (path, authority) => Some(rebuilt(uri, path, authority)?),
        };
        Ok(Self {
            uri,
            host,
            headers: facts.changes,
        })
    }

    /// Whether the request is canonical as it is.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes `request` canonical: its URI, its `host`, its cookies as one header, and without what it has no right to say
    /// ([`is_spoofable`]).
    pub fn apply<B>(self, request: &mut Request<B>) {
        if let Some(uri) = self.uri {
            *request.uri_mut() = uri;
        }
        match self.host {
            None => {}
            Some(Host::Dropped) => {
                request.headers_mut().remove(HOST);
            }
            Some(Host::Replaced(host)) => {
                request.headers_mut().insert(HOST, host);
            }
        }
        if self.headers {
            sanitize(request.headers_mut());
        }
    }
}

/// The new form of a path without its query; `None` where it is canonical as it is. For policies, whose paths no request has if they
/// are not.
///
/// # Errors
///
/// When it has no canonical form.
pub fn canonical_path(path: &str, paths: PathNormalization) -> Result<Option<String>, NotCanonical> {
    path::canonical(path, paths)
}

/// The new form of an authority; `None` where it is canonical as it is. For policies, as [`canonical_path`] is.
///
/// # Errors
///
/// When it has no canonical form.
pub fn canonical_authority(text: &str) -> Result<Option<String>, NotCanonical> {
    authority::canonical(text)
}

/// The authority of a canonical request; empty for one that names none, which none does.
pub fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    if let Some(authority) = uri.authority() {
        return authority.as_str();
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.unwrap_or_default()
}

fn method(method: &Method) -> Result<(), NotCanonical> {
    if *method == Method::CONNECT {
        return Err(NotCanonical::Connect);
    }
    match method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        true => Err(NotCanonical::Method),
        false => Ok(()),
    }
}

/// The authority's new form, where it is not what it was, and what becomes of the host.
fn authorities(
    uri: &Uri,
    host: Option<&HeaderValue>,
    version: Version,
) -> Result<(Option<String>, Option<Host>), NotCanonical> {
    let host = match host {
        None => None,
        Some(host) => {
            let text = host.to_str().map_err(|_| NotCanonical::AuthorityForm)?;
            Some((text, authority::canonical(text)?))
        }
    };
    let Some(own) = uri.authority() else {
        let (_, changed) = host.ok_or(NotCanonical::AuthorityMissing)?;
        let replaced = changed.map(|text| HeaderValue::try_from(text).map(Host::Replaced));
        let replaced = replaced.transpose().map_err(|_| NotCanonical::AuthorityForm)?;
        return Ok((None, replaced));
    };
    let changed = authority::canonical(own.as_str())?;
    let canonical = changed.as_deref().unwrap_or(own.as_str());
    let host = match host {
        None => None,
        Some((text, host)) if host.as_deref().unwrap_or(text) != canonical => {
            return Err(NotCanonical::AuthorityConflict);
        }
        // HTTP/1.1 asks for the header, beside an absolute URI too, and handlers look for it there.
        Some((_, Some(host))) if version < Version::HTTP_2 => {
            let value = HeaderValue::try_from(host).map_err(|_| NotCanonical::AuthorityForm)?;
            Some(Host::Replaced(value))
        }
        Some(_) if version < Version::HTTP_2 => None,
        Some(_) => Some(Host::Dropped),
    };
    Ok((changed, host))
}

fn rebuilt(uri: &Uri, path: Option<String>, authority: Option<String>) -> Result<Uri, NotCanonical> {
    let mut parts = uri.clone().into_parts();
    if let Some(authority) = authority {
        parts.authority = Some(authority.try_into().map_err(|_| NotCanonical::AuthorityForm)?);
    }
    if let Some(mut path) = path {
        if let Some(query) = uri.query() {
            path.push('?');
            path.push_str(query);
        }
        parts.path_and_query = Some(path.try_into().map_err(|_| NotCanonical::PathForm)?);
    }
    Uri::from_parts(parts).map_err(|_| NotCanonical::PathForm)
}
