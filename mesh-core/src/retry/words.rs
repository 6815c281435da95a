//! Whether a policy names what happened, by Envoy's definition of each word.

use http::{HeaderMap, StatusCode};

use super::{Rules, TryEnd, answer};
use crate::config::RetryOn;
use crate::route::header_passes_in;

/// No answer came, for whatever reason.
const NO_ANSWER: RetryOn = RetryOn::union([RetryOn::RESET, RetryOn::SERVER_ERROR, RetryOn::GATEWAY_ERROR]);
/// No connection could be made.
const NO_CONNECTION: RetryOn = RetryOn::union([NO_ANSWER, RetryOn::CONNECT_FAILURE, RetryOn::RESET_BEFORE_REQUEST]);
/// The peer says that it did not process the request, or nothing was sent.
const REFUSED: RetryOn = RetryOn::union([NO_ANSWER, RetryOn::REFUSED_STREAM, RetryOn::RESET_BEFORE_REQUEST]);

pub(super) fn named(rules: &Rules<'_>, end: TryEnd, answer: Option<&HeaderMap>) -> bool {
    let on = rules.on();
    match end {
        TryEnd::ConnectFailed => on.intersects(NO_CONNECTION),
        TryEnd::NotProcessed => on.intersects(REFUSED),
        TryEnd::Reset | TryEnd::Lost | TryEnd::PerTryTimeout => on.intersects(NO_ANSWER),
        TryEnd::Answered { status, grpc } => {
            on.intersects(by_status(status))
                || on.intersects(by_grpc(grpc))
                || (on.contains(RetryOn::RETRIABLE_STATUS_CODES) && has_status(rules, status))
                || answer.is_some_and(|headers| by_headers(rules, on, headers))
        }
    }
}

fn by_status(status: StatusCode) -> RetryOn {
    match status.as_u16() {
        502..=504 => RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR,
        500.. => RetryOn::SERVER_ERROR,
        409 => RetryOn::RETRIABLE_4XX,
        _ => RetryOn::NONE,
    }
}

fn by_grpc(status: Option<u8>) -> RetryOn {
    match status {
        Some(1) => RetryOn::CANCELLED,
        Some(4) => RetryOn::DEADLINE_EXCEEDED,
        Some(8) => RetryOn::RESOURCE_EXHAUSTED,
        Some(13) => RetryOn::INTERNAL,
        Some(14) => RetryOn::UNAVAILABLE,
        _ => RetryOn::NONE,
    }
}

fn has_status(rules: &Rules<'_>, status: StatusCode) -> bool {
    let asked = rules.asked.map_or(&[][..], |asked| &asked.statuses);
    rules
        .policy
        .statuses
        .iter()
        .chain(asked)
        .any(|one| *one == status.as_u16())
}

fn by_headers(rules: &Rules<'_>, on: RetryOn, headers: &HeaderMap) -> bool {
    if on.contains(RetryOn::ENVOY_RATELIMITED) && headers.contains_key(answer::RATE_LIMITED) {
        return true;
    }
    let asked = rules.asked.map_or(&[][..], |asked| &asked.header_names);
    on.contains(RetryOn::RETRIABLE_HEADERS)
        && (rules.policy.headers.iter().any(|test| header_passes_in(test, headers))
            || asked.iter().any(|name| headers.contains_key(name)))
}
