//! The question to a rate limit service, and its answer (`envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`).
//!
//! Two small messages over gRPC, written and read here: the messages of Envoy's API belong to whoever speaks to a control plane, and a
//! server that links this links none of them. Fields that nobody here looks at are passed over.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request};
use mesh_core::limit::Quota;

/// The method.
const PATH: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// What a service may say of a request: longer answers are none.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The most headers that it may have put into a request, or into its answer.
const MAX_HEADERS: usize = 32;

/// What a service says.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) over_limit: bool,
    pub(super) response_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) request_headers: Vec<(HeaderName, HeaderValue)>,
    /// Of the descriptor that is nearest to its end.
    pub(super) quota: Option<Quota>,
}

/// The question about a request that is described so.
pub(super) fn question(domain: &str, descriptors: &[Vec<(String, String)>]) -> Request<Bytes> {
    let mut message = BytesMut::new();
    field(&mut message, 1, domain.as_bytes());
    for descriptor in descriptors {
        let mut entries = BytesMut::new();
        for (key, value) in descriptor {
            let mut entry = BytesMut::new();
            field(&mut entry, 1, key.as_bytes());
            field(&mut entry, 2, value.as_bytes());
            field(&mut entries, 1, &entry);
        }
        field(&mut message, 2, &entries);
    }
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.put(message);
    let mut request = Request::new(body.freeze());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(PATH);
    let headers = request.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    request
}

/// Reads the answer's one message; `None`: it is none.
pub(super) fn answer(body: &[u8]) -> Option<Answer> {
    let [0, length @ ..] = body.get(..5)? else {
        return None;
    };
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    let message = body.get(5..)?;
    if message.len() != length {
        return None;
    }
    let mut answer = Answer::default();
    let mut code = 0;
    for part in Parts(message) {
        match part? {
            (1, Value::Number(number)) => code = number,
            (2, Value::Bytes(status)) => {
                let quota = quota(status)?;
                answer.quota = [answer.quota, quota]
                    .into_iter()
                    .flatten()
                    .min_by_key(|quota| quota.remaining);
            }
            (3, Value::Bytes(header)) => add(&mut answer.response_headers, header)?,
            (4, Value::Bytes(header)) => add(&mut answer.request_headers, header)?,
            _ => {}
        }
    }
    match code {
        1 => Some(answer),
        2 => Some(Answer {
            over_limit: true,
            ..answer
        }),
        // UNKNOWN, and what is none.
        _ => None,
    }
}

/// A `HeaderValue`.
fn add(headers: &mut Vec<(HeaderName, HeaderValue)>, message: &[u8]) -> Option<()> {
    let (mut name, mut value) = (None, &[][..]);
    for part in Parts(message) {
        match part? {
            (1, Value::Bytes(key)) => name = Some(HeaderName::from_bytes(key).ok()?),
            (2 | 3, Value::Bytes(bytes)) if !bytes.is_empty() => value = bytes,
            _ => {}
        }
    }
    let name = name.filter(|name| *name != http::header::HOST)?;
    if headers.len() == MAX_HEADERS {
        return None;
    }
    headers.push((name, HeaderValue::from_bytes(value).ok()?));
    Some(())
}

/// What a `DescriptorStatus` says of what is left, if it says anything of a limit.
#[allow(clippy::option_option, reason = "nothing said, and nothing that can be read")]
fn quota(status: &[u8]) -> Option<Option<Quota>> {
    let (mut limit, mut remaining, mut reset) = (None, 0, Duration::ZERO);
    for part in Parts(status) {
        match part? {
            (2, Value::Bytes(current)) => {
                for part in Parts(current) {
                    if let (1, Value::Number(per_unit)) = part? {
                        limit = u32::try_from(per_unit).ok();
                    }
                }
            }
            (3, Value::Number(number)) => remaining = u32::try_from(number).ok()?,
            (4, Value::Bytes(duration)) => {
                for part in Parts(duration) {
                    if let (1, Value::Number(seconds)) = part? {
                        reset = Duration::from_secs(seconds);
                    }
                }
            }
            _ => {}
        }
    }
    Some(limit.map(|limit| Quota {
        limit,
        remaining,
        reset,
    }))
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of a message, one after the other; `None` of one: it is no message.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_none() {
            // Nothing that follows can be told apart.
            self.0 = &[];
        }
        Some(part)
    }
}

impl<'a> Parts<'a> {
    fn part(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for place in 0..10 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

fn field(message: &mut BytesMut, number: u8, bytes: &[u8]) {
    message.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_none_is_read_as_none() {
        // OVER_LIMIT, a status with 10 per minute, 3 left, 7 s; a header for the answer.
        let good = b"\0\0\0\0\x19\x08\x02\x12\x0e\x08\x02\x12\x04\x08\x0a\x10\x02\x18\x03\x22\x02\x08\x07\x1a\x07\x0a\x01a\x12\x02bc";
        let mut good = good.to_vec();
        good[4] = (good.len() - 5) as u8;
        let read = answer(&good).unwrap();
        let quota = Quota {
            limit: 10,
            remaining: 3,
            reset: Duration::from_secs(7),
        };
        assert!(read.over_limit && read.quota == Some(quota) && read.response_headers.len() == 1);
        // Cut anywhere, it is none; and no byte of it makes it fall over.
        for end in 0..good.len() {
            assert!(answer(&good[..end]).is_none(), "{end}");
        }
        for place in 5..good.len() {
            for byte in 0..=255 {
                let mut bad = good.clone();
                bad[place] = byte;
                drop(answer(&bad));
            }
        }
        assert!(answer(b"\0\0\0\0\0").is_none() && answer(b"\x01\0\0\0\x02\x08\x01").is_none());
        assert!(!answer(b"\0\0\0\0\x02\x08\x01").unwrap().over_limit);
    }
}
