//! A failure, told as a gRPC server would tell it.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::error::Error;
use crate::headers::{GRPC_STATUS, find};

/// Longer messages are cut: they end in a header list that the caller's side bounds.
const MAX_MESSAGE_BYTES: usize = 1024;

/// `grpc-status` and `grpc-message` for `error`.
pub(crate) fn trailers(error: &Error, code: u8) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    trailers.insert(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from(u16::from(code)),
    );
    let message = percent_encode(&whole_message(error));
    if let Ok(message) = HeaderValue::from_str(&message) {
        trailers.insert(HeaderName::from_static("grpc-message"), message);
    }
    trailers
}

/// What an HTTP status is worth where a gRPC one is wanted ("HTTP to gRPC Status Code Mapping").
pub(crate) fn code_of_http(status: StatusCode) -> u8 {
    const UNKNOWN: u8 = 2;
    const PERMISSION_DENIED: u8 = 7;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    const UNAUTHENTICATED: u8 = 16;
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// For an answer that ended without saying how, which means `code`.
pub(crate) fn without_status(code: u8) -> HeaderMap {
    let text = "the answer ended without a status";
    HeaderMap::from_iter([
        (
            HeaderName::from_static("grpc-status"),
            HeaderValue::from(u16::from(code)),
        ),
        (HeaderName::from_static("grpc-message"), HeaderValue::from_static(text)),
    ])
}

/// The error and its causes: a status has room for one text, and the cause is what a reader looks for.
fn whole_message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Percent-encoding of `grpc-message` (gRPC over HTTP/2): everything but printable ASCII, and `%`.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if encoded.len() >= MAX_MESSAGE_BYTES {
            break;
        }
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The code in `grpc-status`, if it is there and a number.
pub(crate) fn grpc_status(headers: &HeaderMap<HeaderValue>) -> Option<u8> {
    match find(headers, &GRPC_STATUS)?.as_bytes() {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        text => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_and_bounded() {
        assert_eq!(percent_encode("a b%\n\u{e9}"), "a b%25%0A%C3%A9");
        assert!(percent_encode(&"x".repeat(5_000)).len() <= MAX_MESSAGE_BYTES);
    }
}
