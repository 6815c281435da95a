//! What a request asks for in place of its route's policy, by Envoy's headers.
//!
//! Envoy believes them of requests that come from inside. Here the request comes from the application itself, so they are
//! always believed, and they are taken out before it is sent: they are for this mesh, not for the peer's.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::config::RetryOn;

const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const STATUSES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADERS: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");

/// How every one of them begins.
const PREFIX: &str = "x-envoy-";
/// The most codes or names that one header may list: each is compared with every answer.
const MAX_LISTED: usize = 32;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Conditions, added to the policy's (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
    pub on: RetryOn,
    /// Tries after the first (`x-envoy-max-retries`).
    pub retries: Option<u32>,
    /// Codes, added to the policy's (`x-envoy-retriable-status-codes`).
    pub statuses: Vec<u16>,
    /// Headers of the answer, added to the policy's (`x-envoy-retriable-header-names`).
    pub header_names: Vec<HeaderName>,
    /// The limit of the call; zero: none (`x-envoy-upstream-rq-timeout-ms`).
    pub timeout: Option<Duration>,
    /// The limit of a try; zero: none (`x-envoy-upstream-rq-per-try-timeout-ms`).
    pub per_try_timeout: Option<Duration>,
    /// Whether a slow try is raced (`x-envoy-hedge-on-per-try-timeout`).
    pub hedge: Option<bool>,
}

impl Overrides {
    /// Takes them out of a request's headers; `None` when there is none. What cannot be read asks for nothing (Envoy).
    pub fn take(headers: &mut HeaderMap) -> Option<Box<Self>> {
        if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
            return None;
        }
        let mut take = |name: HeaderName| {
            let value = headers.remove(&name)?;
            value.to_str().ok().map(|text| text.trim().to_owned())
        };
        let millis = |text: String| text.parse().ok().map(Duration::from_millis);
        let words = |text: Option<String>| text.map_or(RetryOn::NONE, |text| RetryOn::parse(&text));
        let listed = |text: Option<String>| {
            let text = text.unwrap_or_default();
            let words = text.split(',').map(|word| word.trim().to_owned());
            words.take(MAX_LISTED).collect::<Vec<_>>()
        };
        let overrides = Self {
            on: words(take(RETRY_ON)) | words(take(RETRY_GRPC_ON)),
            retries: take(MAX_RETRIES).and_then(|text| text.parse().ok()),
            statuses: listed(take(STATUSES))
                .iter()
                .filter_map(|word| word.parse().ok())
                .collect(),
            header_names: listed(take(HEADERS))
                .iter()
                .filter_map(|word| word.parse().ok())
                .collect(),
            timeout: take(TIMEOUT).and_then(millis),
            per_try_timeout: take(PER_TRY_TIMEOUT).and_then(millis),
            hedge: take(HEDGE).and_then(|text| match text.as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            }),
        };
        (overrides != Self::default()).then(|| Box::new(overrides))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = http::HeaderValue::from_static(value);
            (HeaderName::from_static(name), value)
        });
        pairs.collect()
    }

    #[test]
    fn every_header_is_read_and_taken_out() {
        let mut headers = of(&[
            ("x-envoy-retry-on", "5xx, retriable-status-codes"),
            ("x-envoy-retry-grpc-on", "internal"),
            ("x-envoy-max-retries", "4"),
            ("x-envoy-retriable-status-codes", "429,x, 425"),
            ("x-envoy-retriable-header-names", "x-again"),
            ("x-envoy-upstream-rq-timeout-ms", "1500"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "0"),
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-attempt-count", "1"),
            ("x-other", "1"),
        ]);
        let overrides = Overrides::take(&mut headers).unwrap();
        let expected = Overrides {
            on: RetryOn::parse("5xx,retriable-status-codes,internal"),
            retries: Some(4),
            statuses: vec![429, 425],
            header_names: vec![HeaderName::from_static("x-again")],
            timeout: Some(Duration::from_millis(1500)),
            per_try_timeout: Some(Duration::ZERO),
            hedge: Some(true),
        };
        assert_eq!(*overrides, expected);
        assert_eq!(headers, of(&[("x-envoy-attempt-count", "1"), ("x-other", "1")]));
    }

    #[test]
    fn what_cannot_be_read_asks_for_nothing() {
        let mut headers = of(&[
            ("x-envoy-max-retries", "-1"),
            ("x-envoy-upstream-rq-timeout-ms", "soon"),
        ]);
        assert_eq!(Overrides::take(&mut headers), None);
        assert!(headers.is_empty());
        assert_eq!(Overrides::take(&mut of(&[("x-other", "1")])), None);
    }
}
