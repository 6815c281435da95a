//! `timeout` and `retries` of a route to the core's policies.

use std::time::Duration;

use mesh_core::config::{Backoff, RetryOn, RetryPolicy};

use super::Findings;
use crate::diagnostic::{Code, Severity};
use crate::istio::{At, Meta, Retries};

/// Istio refuses a `perTryTimeout` and a `backoff` below this.
const SHORTEST: Duration = Duration::from_millis(1);

/// Envoy's retry words that this version does not act on.
const UNSERVED: [&str; 6] = [
    "reset-before-request",
    "retriable-4xx",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
];

/// The longest a call may take; `0s` turns the limit off, as nothing written does.
pub(super) fn timeout(timeout: Option<&At<Duration>>) -> Option<Duration> {
    timeout.map(|at| at.value).filter(|timeout| !timeout.is_zero())
}

/// Istio's default when nothing is written; what is written replaces it field by field and counts as explicit.
pub(super) fn policy(meta: &Meta, retries: Option<&Retries>, findings: &mut Findings) -> RetryPolicy {
    let default = RetryPolicy::default();
    let Some(retries) = retries else { return default };
    let attempts = retries.attempts.as_ref().map_or(0, |at| at.value);
    if attempts == 0 {
        if retries.per_try_timeout.is_some() || retries.retry_on.is_some() || retries.backoff.is_some() {
            let message = "attempts is 0, which turns retries off, but other fields are set";
            findings.say(meta, Severity::Error, Code::Schema, &retries.place, message);
        }
        return RetryPolicy {
            explicit: true,
            ..RetryPolicy::never()
        };
    }
    for at in [&retries.per_try_timeout, &retries.backoff].into_iter().flatten() {
        if at.value < SHORTEST {
            findings.say(meta, Severity::Error, Code::Schema, &at.place, "must be at least 1ms");
        }
    }
    let words = retries.retry_on.as_ref().filter(|list| !list.trim().is_empty());
    let backoff = retries
        .backoff
        .as_ref()
        .and_then(|base| Backoff::new(base.value, None).ok());
    RetryPolicy {
        retries: attempts,
        on: words.map_or(default.on, |list| conditions(meta, list, findings)),
        per_try_timeout: timeout(retries.per_try_timeout.as_ref()),
        backoff: backoff.unwrap_or(default.backoff),
        explicit: true,
    }
}

fn conditions(meta: &Meta, list: &At<String>, findings: &mut Findings) -> RetryOn {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.fold(RetryOn::NONE, |all, word| {
        if let Some(one) = RetryOn::from_word(word) {
            return all | one;
        }
        let known = UNSERVED.contains(&word) || word.parse::<u16>().is_ok_and(|code| (100..600).contains(&code));
        let (severity, code, message) = if known {
            (
                Severity::Warning,
                Code::NotServed,
                "is not served by this version: it has no effect",
            )
        } else {
            (Severity::Error, Code::Schema, "is not a retry condition")
        };
        findings.say(meta, severity, code, &list.place, format!("{word:?} {message}"));
        all
    })
}
