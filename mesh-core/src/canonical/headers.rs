//! Headers: those that may stand there once, and those that a sender has no right to say.

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{NotCanonical, context};

/// What one pass over the headers tells.
pub(super) struct Facts<'a> {
    pub(super) host: Option<&'a HeaderValue>,
    /// Whether [`sanitize`] has something to do.
    pub(super) changes: bool,
}

pub(super) fn facts(headers: &HeaderMap) -> Result<Facts<'_>, NotCanonical> {
    let (mut host, mut cookie, mut changes) = (None, false, false);
    let (mut types, mut credentials, mut lengths) = (0, 0, 0);
    let mut traced = false;
    for (name, value) in headers {
        // The same bytes would mean two things by the version that they came in, and a policy about values sees only one.
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(NotCanonical::HeaderBlank);
        }
        if *name == HOST {
            if host.replace(value).is_some() {
                return Err(NotCanonical::HostRepeated);
            }
        } else if *name == CONTENT_TYPE {
            types += 1;
        } else if *name == AUTHORIZATION {
            credentials += 1;
        } else if *name == CONTENT_LENGTH {
            lengths += 1;
        } else if *name == COOKIE {
            changes |= std::mem::replace(&mut cookie, true);
        } else {
            changes |= is_spoofable(name);
            traced |= context::is_context(name);
        }
    }
    changes |= traced && context::is_unbound(headers);
    match types > 1 || credentials > 1 || lengths > 1 {
        true => Err(NotCanonical::HeaderRepeated),
        false => Ok(Facts { host, changes }),
    }
}

/// Whether a header says something that only whoever is between sender and server may say: where the request came from, whose
/// certificate it came with, what its path once was. There is nobody between here, so whoever sends it made it up (Envoy strips
/// the like from what comes from outside; CVE-2024-45806). Of Envoy's own those stay that a caller in the mesh does say: how long
/// it waits, which try this is, and what it rewrote.
pub fn is_spoofable(name: &HeaderName) -> bool {
    const SAID_BY_CALLERS: [&str; 3] = [
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-attempt-count",
        "x-envoy-original-path",
    ];
    // What proxies and networks say behind `x-`, which crates that look for "the client's address" believe.
    const OF_PROXIES: [&str; 10] = [
        "real-ip",
        "client-ip",
        "cluster-client-ip",
        "originating-ip",
        "remote-ip",
        "forwarded",
        "host",
        "original-host",
        "original-url",
        "rewrite-url",
    ];
    const WITHOUT_X: [&str; 5] = [
        "forwarded",
        "true-client-ip",
        "cf-connecting-ip",
        "fly-client-ip",
        "fastly-client-ip",
    ];
    let name = name.as_str();
    // Cheap for the many that begin with another letter.
    match name.strip_prefix("x-") {
        None => matches!(name.as_bytes().first(), Some(b'f' | b't' | b'c')) && WITHOUT_X.contains(&name),
        Some(rest) => {
            rest.starts_with("forwarded-")
                || rest.starts_with("mesh-")
                || OF_PROXIES.contains(&rest)
                || (rest.starts_with("envoy-") && !SAID_BY_CALLERS.contains(&name))
        }
    }
}

/// Takes out what [`is_spoofable`], holds what names a trace to its length (`context`), and makes one header of several cookies
/// (RFC 9113 section 8.2.3).
pub fn sanitize(headers: &mut HeaderMap) {
    let spoofed: Vec<HeaderName> = headers.keys().filter(|name| is_spoofable(name)).cloned().collect();
    for name in spoofed {
        headers.remove(name);
    }
    context::bound(headers);
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut all: Vec<u8> = Vec::new();
    for cookie in headers.get_all(COOKIE) {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(cookie.as_bytes());
    }
    let joined = HeaderValue::try_from(all).expect("valid values with a valid separator are a valid value");
    headers.insert(COOKIE, joined);
}
