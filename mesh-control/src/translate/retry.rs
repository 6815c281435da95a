//! `timeout` and `retries` of a route to the core's policies.

use std::time::Duration;

use mesh_core::config::{Backoff, RetryOn, RetryPolicy};

use super::Findings;
use crate::diagnostic::{Code, Severity};
use crate::istio::{At, Meta, Retries};

/// Istio refuses a `perTryTimeout` and a `backoff` below this.
const SHORTEST: Duration = Duration::from_millis(1);

/// The longest a call may take; `0s` turns the limit off, as nothing written does.
pub(super) fn timeout(timeout: Option<&At<Duration>>) -> Option<Duration> {
    timeout.map(|at| at.value).filter(|timeout| !timeout.is_zero())
}

/// Istio's default when nothing is written; what is written replaces it field by field and counts as explicit.
pub(super) fn policy(meta: &Meta, retries: Option<&Retries>, findings: &mut Findings) -> RetryPolicy {
    // Istio lets its proxies say which try a request is.
    let default = RetryPolicy {
        announce_attempts: true,
        ..RetryPolicy::default()
    };
    let Some(retries) = retries else { return default };
    let attempts = retries.attempts.as_ref().map_or(0, |at| at.value);
    if attempts == 0 {
        if retries.per_try_timeout.is_some() || retries.retry_on.is_some() || retries.backoff.is_some() {
            let message = "attempts is 0, which turns retries off, but other fields are set";
            findings.say(meta, Severity::Error, Code::Schema, &retries.place, message);
        }
        return RetryPolicy {
            explicit: true,
            announce_attempts: true,
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
    let (on, statuses) = words.map_or_else(|| (default.on, Vec::new()), |list| conditions(meta, list, findings));
    RetryPolicy {
        retries: attempts,
        on,
        statuses: statuses.into(),
        per_try_timeout: timeout(retries.per_try_timeout.as_ref()),
        backoff: backoff.unwrap_or(default.backoff),
        explicit: true,
        ..default
    }
}

/// Reads Istio's list, in which a number is an HTTP status to try again.
fn conditions(meta: &Meta, list: &At<String>, findings: &mut Findings) -> (RetryOn, Vec<u16>) {
    let (mut on, mut statuses) = (RetryOn::NONE, Vec::new());
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match (RetryOn::from_word(word), word.parse::<u16>()) {
            (Some(one), _) => on = on | one,
            (None, Ok(code)) if (100..600).contains(&code) => {
                on = on | RetryOn::RETRIABLE_STATUS_CODES;
                statuses.push(code);
            }
            _ => {
                let message = format!("{word:?} is not a retry condition");
                findings.say(meta, Severity::Error, Code::Schema, &list.place, message);
            }
        }
    }
    (on, statuses)
}
