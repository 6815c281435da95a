//! Who outside of the process is asked whether requests may pass, as configured: Envoy's `ext_authz`, which is what Istio's action
//! CUSTOM becomes. Values only: [`crate::ext_authz`] says what is sent and what an answer does.
//!
//! Envoy has the policies of CUSTOM judged by a filter that enforces nothing, and an authorizer asked about what they matched. Here the
//! policies stand with the authorizer that they are for, so that nobody has to guess which filter told which other one what.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::{RbacPolicy, StringMatch};

/// Somebody who is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtAuthz {
    /// The filter's name, by which routes say something else of it.
    pub name: Box<str>,
    /// How many of the chain's filters of requests are asked before.
    pub after: usize,
    /// Asks only where a route says so.
    pub disabled: bool,
    /// About which requests.
    pub about: AskedAbout,
    /// The cluster that is called (Envoy `cluster_name`). [`target`](Self::target) is what that is to a channel.
    pub cluster: Box<str>,
    /// In which protocol.
    pub service: CheckService,
    /// How long it has; never more than [`MAX_TIMEOUT`](Self::MAX_TIMEOUT).
    pub timeout: Duration,
    /// What becomes of requests of which nothing was learnt.
    pub on_failure: OnFailure,
    /// How much of a request's body is sent; `None`: nothing.
    pub body: Option<CheckBody>,
    /// Which of its headers are sent.
    pub headers: SentHeaders,
    /// The server name of the handshake is sent (Envoy `include_tls_session`; gRPC only).
    pub server_name: bool,
    /// What a good token said is sent (Envoy `metadata_context_namespaces`; gRPC only).
    pub claims: bool,
    /// How much of the body of a denial reaches the caller, in bytes.
    pub max_denied_body: usize,
}

/// About which requests somebody is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AskedAbout {
    /// All.
    Everything,
    /// Those that one of these matches (Istio's rules of action CUSTOM; Envoy `filter_enabled_metadata`).
    Matched(Vec<RbacPolicy>),
}

/// In which protocol somebody is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckService {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc(GrpcCheck),
    /// A request like the one that is asked about, without its body; 200 is yes.
    Http(Box<HttpCheck>),
}

/// How somebody is asked by gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GrpcCheck {
    /// The authority of the call; empty: the cluster's ([`ExtAuthz::target`]).
    pub authority: Box<str>,
    /// Sent along (Envoy `initial_metadata`).
    pub metadata: Vec<(HeaderName, HeaderValue)>,
}

/// How somebody is asked by HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// Stands before the path; empty: nothing does.
    pub path_prefix: Box<str>,
    /// Stands in the place of path and query.
    pub path_override: Option<Box<str>>,
    /// Sent along, in the place of what the request has by that name.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Headers of a yes that take the place of the request's.
    pub upstream: Vec<StringMatch>,
    /// Headers of a yes that stand beside the request's.
    pub upstream_append: Vec<StringMatch>,
    /// Headers of a no that the caller gets, beside those that it always gets; `None`: all.
    pub client_on_deny: Option<Vec<StringMatch>>,
    /// Headers of a yes that the caller gets.
    pub client_on_allow: Vec<StringMatch>,
}

/// What becomes of a request of which nothing was learnt: the authorizer is down, slow, busy, or made no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OnFailure {
    /// It passes (Envoy `failure_mode_allow`, Istio `failOpen`). Counted each time.
    pub allow: bool,
    /// One that passes so has `x-envoy-auth-failure-mode-allowed: true`.
    pub tell: bool,
    /// One that does not is answered so (Envoy `status_on_error`).
    pub status: StatusCode,
}

impl Default for OnFailure {
    /// It does not pass: 403 (Envoy).
    fn default() -> Self {
        Self {
            allow: false,
            tell: false,
            status: StatusCode::FORBIDDEN,
        }
    }
}

/// How much of a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckBody {
    /// So many bytes, and never more than [`MAX_BODY_BYTES`](ExtAuthz::MAX_BODY_BYTES).
    pub max_bytes: u32,
    /// Of a longer one its beginning; otherwise a longer one is answered 413, and nobody is asked.
    pub allow_partial: bool,
    /// As bytes (`raw_body`), and not as text (`body`; gRPC only).
    pub as_bytes: bool,
}

/// Which headers of a request are sent. Tests are of names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SentHeaders {
    /// These; `None`: all by gRPC, and by HTTP none (but for `authorization`, which always is).
    pub allowed: Option<Vec<StringMatch>>,
    /// Never these.
    pub disallowed: Vec<StringMatch>,
    /// As they are: several of one name beside each other, and what is no text, too (Envoy `encode_raw_headers`).
    pub raw: bool,
}

impl ExtAuthz {
    /// The most of one chain.
    pub const MAX_PER_CHAIN: usize = 8;
    /// The longest that one may be waited for: a request that is asked about holds a place of its server.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
    /// How long one has that nobody said it of (Envoy).
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);
    /// The most of a body that is read before the handler runs.
    pub const MAX_BODY_BYTES: u32 = 1024 * 1024;
    /// The most of a denial's body that reaches a caller.
    pub const MAX_DENIED_BODY_BYTES: usize = 64 * 1024;

    /// What the cluster is to a channel: Istio's `outbound|port|subset|host` is the listener `host:port`, and any other name is one itself.
    /// Of a subset nothing is left: a listener chooses by its routes.
    pub fn target(&self) -> String {
        let mut parts = self.cluster.split('|');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("outbound"), Some(port), Some(_), Some(host), None) => format!("{host}:{port}"),
            _ => self.cluster.to_string(),
        }
    }
}

/// What a host or a route says of an [`ExtAuthz`] (Envoy `ExtAuthzPerRoute`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckReplaced {
    /// Of which, by its filter's name.
    pub filter: Box<str>,
    /// What.
    pub with: CheckSettings,
}

/// How requests of a route are asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CheckSettings {
    /// Nobody is asked.
    pub disabled: bool,
    /// What the authorizer is told of the route (`context_extensions`), by key.
    pub context: Vec<(Box<str>, Box<str>)>,
    /// How much of their bodies is sent; `None`: what the filter says.
    pub body: Option<Option<CheckBody>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_istios_is_a_listener_and_any_other_is_itself() {
        for (cluster, target) in [
            (
                "outbound|9000||authz.shop.svc.cluster.local",
                "authz.shop.svc.cluster.local:9000",
            ),
            ("outbound|9000|v1|authz.shop", "authz.shop:9000"),
            ("authz", "authz"),
            ("inbound|9000||", "inbound|9000||"),
            ("outbound|9000||a|b", "outbound|9000||a|b"),
        ] {
            let authorizer = ExtAuthz {
                cluster: cluster.into(),
                ..crate::ext_authz::tests::grpc()
            };
            assert_eq!(authorizer.target(), target);
        }
    }
}
