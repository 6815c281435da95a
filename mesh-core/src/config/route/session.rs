//! Sessions that stay with a host although nothing of it is hashed: the host's address is given to the caller, who brings it
//! back (Envoy `StatefulSession`, gRFCs A55 and A60). [`crate::route::session`] reads and writes it.

use std::time::Duration;

use http::HeaderName;

/// How the calls of a session are kept with one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// Where the caller has the address; `None`: there are no sessions.
    pub state: Option<SessionState>,
    /// Whether a call whose host cannot be called fails instead of going to another (Envoy `strict`). Default: no.
    pub strict: bool,
}

/// Where a caller has the address of its host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// In a cookie (Envoy `CookieBasedSessionState`).
    Cookie(SessionCookie),
    /// In a header, of the request as of the answer (Envoy `HeaderBasedSessionState`).
    Header(HeaderName),
}

/// A cookie that holds the address of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionCookie {
    /// Its name.
    pub name: Box<str>,
    /// How long it lasts, in whole seconds; zero: as long as the caller's own session.
    pub ttl: Duration,
    /// The requests that it is for: those of this path and below it; empty: all (RFC 6265 5.1.4).
    pub path: Box<str>,
    /// What else is said of it when it is given; an empty value is a flag.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}
