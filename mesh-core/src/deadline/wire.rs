//! How a time is told to the next hop: `grpc-timeout` (gRPC over HTTP/2) and Envoy's `x-envoy-expected-rq-timeout-ms`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The time that a gRPC caller gives.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The time that an Envoy or a mesh client gives, in milliseconds.
pub const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The specification's bound.
const MAX_DIGITS: usize = 8;
/// The greatest number of so many digits.
const MAX_NUMBER: u64 = 99_999_999;

/// The time in `grpc-timeout`: up to 8 digits and a unit. What is not one gives none.
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    parse_grpc_timeout(headers.get(GRPC_TIMEOUT)?)
}

/// Reads one value of `grpc-timeout`.
pub fn parse_grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Reads one value of `x-envoy-expected-rq-timeout-ms`; zero and what is no number say nothing (Envoy).
pub fn parse_millis(value: &HeaderValue) -> Option<Duration> {
    let millis: u64 = value.to_str().ok()?.parse().ok()?;
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// The two values that tell `left`, in whole milliseconds. Rounded down, and never longer; what is less than one is told as
/// one, since zero means no limit to Envoy.
pub fn whole_millis(left: Duration) -> (HeaderValue, HeaderValue) {
    let millis = left.as_millis().clamp(1, u128::from(u64::MAX)) as u64;
    let (number, unit) = match millis {
        millis if millis <= MAX_NUMBER => (millis, 'm'),
        millis if millis / 1_000 <= MAX_NUMBER => (millis / 1_000, 'S'),
        millis => ((millis / 3_600_000).min(MAX_NUMBER), 'H'),
    };
    let grpc = HeaderValue::try_from(format!("{number}{unit}")).expect("digits and a letter are a header's value");
    (grpc, HeaderValue::from(millis))
}
