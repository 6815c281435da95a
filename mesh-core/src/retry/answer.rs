//! What an answer says about another try.
//!
//! Two marks say "do not": gRPC's negative pushback and Envoy's `x-envoy-overloaded`. Both are set on failing answers of a
//! service that retried its own calls already ([`DO_NOT_RETRY`]), because those are what other people's clients and proxies
//! understand: a mark of our own would stop only ourselves.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::RetryOn;

/// After how many milliseconds to come again; negative, or no number: never (gRFC A6).
pub const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// The destination is overloaded: never retried (Envoy).
pub const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
/// The request was turned away by a rate limit: retried only for the word `envoy-ratelimited` (Envoy).
pub const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
/// What a failing answer carries that must not be tried again: for gRPC's clients, and for Envoy.
pub const DO_NOT_RETRY: [(HeaderName, HeaderValue); 2] = [
    (PUSHBACK, HeaderValue::from_static("-1")),
    (OVERLOADED, HeaderValue::from_static("true")),
];

pub(super) enum Told {
    Nothing,
    Never,
    After(Duration),
}

pub(super) fn told(headers: &HeaderMap, on: RetryOn) -> Told {
    // One pass, which hashes nothing: policies that look at good answers ask this of every call's, and nearly all say nothing.
    let mut pushback = None;
    for (name, value) in headers {
        if *name == OVERLOADED || (*name == RATE_LIMITED && !on.contains(RetryOn::ENVOY_RATELIMITED)) {
            return Told::Never;
        }
        if *name == PUSHBACK {
            pushback = pushback.or(Some(value));
        }
    }
    let Some(pushback) = pushback else {
        return Told::Nothing;
    };
    let millis = pushback.to_str().ok().and_then(|text| text.parse::<i32>().ok());
    match millis.and_then(|millis| u64::try_from(millis).ok()) {
        Some(millis) => Told::After(Duration::from_millis(millis)),
        None => Told::Never,
    }
}
