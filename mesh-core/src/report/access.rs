//! A line of an access log, as far as both ends of a call write it alike: its names, and what it tells of the request's head.
//!
//! What a peer sent stands in it as printable ASCII and in bounded length, so that nobody writes two lines by one, or fills a disk by a
//! header. Who writes the line is the application's subscriber: this crate writes nothing.

use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::route::RequestHead;

/// The target of a line's event, by which a subscriber knows it.
pub const TARGET: &str = "mesh::access";

/// The most bytes that one value of a line is taken from; of a longer one the beginning is written, and `...`.
pub const MAX_VALUE: usize = 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// How long the other end took, as far as it tells.
pub const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// What a line tells of a request, by Envoy's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessHead {
    /// When it came: UTC, RFC 3339, with milliseconds.
    pub start_time: Box<str>,
    /// Its method.
    pub method: Box<str>,
    /// Its path and query, before any rewrite.
    pub path: Box<str>,
    /// `HTTP/1.1`, `HTTP/2`; of a request to be sent, what its caller made it for.
    pub protocol: &'static str,
    /// Whom it is for.
    pub authority: Box<str>,
    /// The header `user-agent`.
    pub user_agent: Option<Box<str>>,
    /// The header `x-request-id`.
    pub request_id: Option<Box<str>>,
    /// The header `x-forwarded-for`.
    pub x_forwarded_for: Option<Box<str>>,
}

impl AccessHead {
    /// What `head` tells, which came so long after 1970 began.
    pub fn of(head: &RequestHead<'_>, version: Version, came: Duration) -> Self {
        let header = |name| head.headers.get(name).map(header_text);
        Self {
            start_time: timestamp(came).into(),
            method: text(head.method.as_str().as_bytes()),
            path: header(&ORIGINAL_PATH).unwrap_or_else(|| text(head.path_and_query().as_bytes())),
            protocol: protocol(version),
            authority: text(head.authority().as_bytes()),
            user_agent: header(&USER_AGENT),
            request_id: header(&REQUEST_ID),
            x_forwarded_for: header(&FORWARDED_FOR),
        }
    }
}

/// The value of a header as a line shows it.
pub fn header_text(value: &HeaderValue) -> Box<str> {
    text(value.as_bytes())
}

/// The header [`SERVICE_TIME`] of an answer.
pub fn service_time(headers: &HeaderMap) -> Option<Box<str>> {
    headers.get(SERVICE_TIME).map(header_text)
}

/// Bytes of somebody's as a line shows them: what is no printable ASCII is escaped (`\x0a`), and what is too long cut.
pub fn text(bytes: &[u8]) -> Box<str> {
    let mut out = String::with_capacity(bytes.len().min(MAX_VALUE));
    for byte in bytes.iter().take(MAX_VALUE) {
        match byte {
            b' '..=b'~' => out.push(char::from(*byte)),
            other => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let digit = |of: u8| char::from(DIGITS[usize::from(of)]);
                out.extend(['\\', 'x', digit(other >> 4), digit(other & 15)]);
            }
        }
    }
    if bytes.len() > MAX_VALUE {
        out.push_str("...");
    }
    out.into()
}

/// Whole milliseconds, in which Envoy tells of durations.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/3",
    }
}

/// A moment, so long after 1970 began, as `2026-12-01T03:20:07.042Z`.
fn timestamp(since: Duration) -> String {
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day so many days after 1970 began, by eras of 400 years, whose years begin in March (Hinnant, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn moments_are_written_as_envoy_writes_them() {
        for (seconds, millis, written) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.001Z"),
            (1_796_095_207, 42, "2026-12-01T03:20:07.042Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(Duration::new(seconds, millis * 1_000_000)), written);
        }
    }

    #[test]
    fn what_a_peer_sent_is_one_line_of_bounded_length() {
        assert_eq!(&*text(b"a\n\"\x7f\xc3\xa9"), "a\\x0a\"\\x7f\\xc3\\xa9");
        let long = text(&[b'\n'; MAX_VALUE + 1]);
        assert_eq!(long.len(), 4 * MAX_VALUE + 3);
        assert!(long.ends_with("\\x0a..."));
        assert_eq!(text(&[b'a'; MAX_VALUE]).len(), MAX_VALUE);
    }

    #[test]
    fn a_head_is_told_as_it_came() {
        let request = Request::post("/pay?now=1")
            .header("host", "payment")
            .header("x-request-id", "7")
            .header("user-agent", "a")
            .body(())
            .unwrap();
        let head = AccessHead::of(&RequestHead::of(&request, "t"), Version::HTTP_2, Duration::ZERO);
        assert_eq!(
            (&*head.method, &*head.path, head.protocol),
            ("POST", "/pay?now=1", "HTTP/2")
        );
        assert_eq!((&*head.authority, head.request_id.as_deref()), ("payment", Some("7")));
        assert_eq!((head.user_agent.as_deref(), head.x_forwarded_for), (Some("a"), None));
    }
}
