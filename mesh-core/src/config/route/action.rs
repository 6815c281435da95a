//! What becomes of a request that a route took.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderName, StatusCode};

use super::{HashPolicy, Split, Substitution, TemplateRewrite};
use crate::config::{ClusterName, Fraction};

/// What a route does with what it takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Sends it on.
    Forward(Forward),
    /// Answers it with another place to go to.
    Redirect(Box<Redirect>),
    /// Answers it by itself.
    Respond(DirectResponse),
    /// Fails it, since the route asks for something that is not served here; says for what.
    ///
    /// It keeps its place, so that its calls do not fall through to a later route that was not meant for them.
    Unserved(Box<str>),
}

/// Where a request goes and what is done to it on the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// The clusters it is divided among.
    pub split: Split,
    /// Another authority or path.
    pub rewrite: Option<Box<Rewrite>>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// What of a request is hashed, where the cluster's balancing goes by that.
    pub hash: Arc<[HashPolicy]>,
}

impl From<Split> for Forward {
    fn from(split: Split) -> Self {
        Self {
            split,
            rewrite: None,
            mirrors: Vec::new(),
            hash: Arc::default(),
        }
    }
}

/// What a request's authority and path are changed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rewrite {
    /// The authority.
    pub host: Option<HostRewrite>,
    /// Whether the authority that there was is told in `x-forwarded-host`, where another takes its place.
    pub append_forwarded_host: bool,
    /// The path. What it was is told in `x-envoy-original-path`.
    pub path: Option<PathRewrite>,
}

/// A new authority.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostRewrite {
    /// This one.
    Literal(Authority),
    /// That in this header, if it holds one.
    Header(HeaderName),
    /// What the pattern makes of the path, without its query.
    PathRegex(Substitution),
    /// The name of the endpoint that a try goes to, if it has one (Envoy `auto_host_rewrite`, gRFC A81).
    Endpoint,
}

/// A new path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathRewrite {
    /// This in place of what the route matched: the prefix, or all of a path that was matched wholly.
    Prefix(Box<str>),
    /// What the pattern makes of it.
    Regex(Substitution),
    /// This, with what the template that the route matched by caught. Of a route that matched otherwise it stays as it is.
    Template(TemplateRewrite),
}

/// A copy of the calls that nobody waits for (Envoy `RequestMirrorPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// Where it goes.
    pub cluster: ClusterName,
    /// Of which part of the calls; `None`: of all.
    pub fraction: Option<Fraction>,
    /// Whether `-shadow` is appended to its authority, so that who gets it can tell (Envoy, Istio).
    pub shadow_suffix: bool,
}

/// An answer that sends the caller elsewhere (Envoy `RedirectAction`). What is not said stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// The status: 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// The scheme.
    pub scheme: Option<Box<str>>,
    /// The host, which may have a port.
    pub host: Option<Box<str>>,
    /// The port.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<RedirectPath>,
    /// Whether the query is left out.
    pub strip_query: bool,
}

/// The path of a [`Redirect`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RedirectPath {
    /// This one. A query in it takes the place of the request's.
    Whole(Box<str>),
    /// A rewritten one.
    Rewritten(PathRewrite),
}

/// An answer that no server gave (Envoy `DirectResponseAction`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirectResponse {
    /// The status, from 200 to 599.
    pub status: StatusCode,
    /// The body; empty: none.
    pub body: Bytes,
}

impl DirectResponse {
    /// The most bytes of a body when nothing is said (Envoy `max_direct_response_body_size_bytes`).
    pub const DEFAULT_MAX_BODY_BYTES: usize = 4096;
}
