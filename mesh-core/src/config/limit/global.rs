//! A limit that somebody else keeps, for many servers together (Envoy `RateLimit`, `envoy.filters.http.ratelimit`).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::super::HeaderEdits;
use super::Describing;

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GlobalFilter {
    /// Its name. Unique in its chain.
    pub name: Box<str>,
    /// What it asks; `None`: nothing.
    pub limit: Option<Arc<GlobalRateLimit>>,
    /// It stands behind the filters that ask who may.
    pub after_guards: bool,
}

/// Asks a rate limit service about each request that is described by something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GlobalRateLimit {
    /// Whose descriptors they are, to the service.
    pub domain: Box<str>,
    /// Who is asked: the name of a cluster, or an address.
    pub service: Box<str>,
    /// Which descriptions are sent: those of this stage.
    pub stage: u32,
    /// What requests are described by; where there is anything, what routes say of that is not looked at.
    pub describing: Vec<Describing>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Without an answer the request goes no further; else it does (Envoy `failure_mode_deny`).
    pub deny_on_failure: bool,
    /// What who is limited is answered. One that is no error is 429 (Envoy).
    pub status: StatusCode,
    /// What is answered where there is no answer and that denies.
    pub status_on_error: StatusCode,
    /// What a gRPC caller who is limited is told: RESOURCE_EXHAUSTED, and not what `status` means to gRPC.
    pub resource_exhausted: bool,
    /// Answers say what is left, as `x-ratelimit-*` (draft-polli-ratelimit-headers-03).
    pub quota_headers: bool,
    /// Who is limited is told so by `x-envoy-ratelimited`.
    pub tells: bool,
    /// Put into that answer. Only values that are the same for all requests are put in.
    pub response_headers: HeaderEdits,
}

impl GlobalRateLimit {
    /// How long an answer may take where nothing is said (Envoy).
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);

    /// Asks `service` about descriptors of `domain`, and lets pass where it does not answer.
    pub fn new(domain: impl Into<Box<str>>, service: impl Into<Box<str>>) -> Self {
        Self {
            domain: domain.into(),
            service: service.into(),
            stage: 0,
            describing: Vec::new(),
            timeout: Self::DEFAULT_TIMEOUT,
            deny_on_failure: false,
            status: StatusCode::TOO_MANY_REQUESTS,
            status_on_error: StatusCode::INTERNAL_SERVER_ERROR,
            resource_exhausted: false,
            quota_headers: false,
            tells: true,
            response_headers: HeaderEdits::default(),
        }
    }
}
