//! The value of a header that is put in: text with Envoy's command operators in it.
//!
//! | operator | value |
//! |---|---|
//! | `%REQ(X?Y):Z%` | the request's header X, or else Y, cut to Z bytes; X may be `:path`, `:method`, `:authority`, `:scheme` |
//! | `%RESP(X?Y):Z%` | the same of the answer |
//! | `%RESPONSE_CODE%` | the answer's status |
//! | `%ROUTE_NAME%`, `%UPSTREAM_CLUSTER%` | which route and which cluster |
//! | `%PROTOCOL%` | `HTTP/2` |
//! | other names of Envoy's (`%DOWNSTREAM_...%`, `%START_TIME%`, ...) | empty: there is no proxy here to know it |
//! | `%%` | `%` |
//!
//! A name that Envoy does not know either is an error, as it is there.

use std::fmt;
use std::hash::{Hash, Hasher};

use http::HeaderValue;

use super::Subject;

/// A value with operators, parsed. Equal when written equally.
#[derive(Clone)]
pub struct HeaderFormat {
    source: Box<str>,
    pieces: Box<[Piece]>,
    /// The value, where no operator makes it depend on the call.
    literal: Option<HeaderValue>,
}

/// A part of a [`HeaderFormat`].
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Text(Box<str>),
    Operator { operator: Operator, max: Option<usize> },
}

#[derive(Clone, Debug)]
pub(crate) enum Operator {
    Request(Subject, Option<Subject>),
    Response(Subject, Option<Subject>),
    Status,
    RouteName,
    Cluster,
    Protocol,
    /// One that has no value in this process.
    Nothing,
}

/// What Envoy knows and this process has no value for; those that begin with one of the last two, too.
const WITHOUT_VALUE: [&str; 36] = [
    "START_TIME",
    "START_TIME_LOCAL",
    "REQUEST_HEADERS_BYTES",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "BYTES_RECEIVED",
    "BYTES_RETRANSMITTED",
    "PACKETS_RETRANSMITTED",
    "BYTES_SENT",
    "DURATION",
    "COMMON_DURATION",
    "REQUEST_DURATION",
    "REQUEST_TX_DURATION",
    "RESPONSE_DURATION",
    "RESPONSE_TX_DURATION",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_CODE_DETAILS",
    "CONNECTION_TERMINATION_DETAILS",
    "VIRTUAL_CLUSTER_NAME",
    "HOSTNAME",
    "GRPC_STATUS",
    "GRPC_STATUS_NUMBER",
    "TRAILER",
    "LOCAL_REPLY_BODY",
    "DYNAMIC_METADATA",
    "CLUSTER_METADATA",
    "PER_REQUEST_STATE",
    "FILTER_STATE",
    "METADATA",
    "REQUESTED_SERVER_NAME",
    "CONNECTION_ID",
    "STREAM_ID",
    "TRACE_ID",
    "ENVIRONMENT",
    "UNIQUE_ID",
];
const FAMILIES_WITHOUT_VALUE: [&str; 2] = ["DOWNSTREAM_", "UPSTREAM_"];

impl HeaderFormat {
    /// Reads a value as Envoy writes it.
    ///
    /// # Errors
    ///
    /// When a `%` begins no operator, an operator is not known, or the text cannot stand in a header.
    pub fn parse(source: &str) -> Result<Self, InvalidFormat> {
        let wrong = |at: usize, reason| InvalidFormat {
            source: source.into(),
            at,
            reason,
        };
        let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), source);
        while let Some(begin) = rest.find('%') {
            text.push_str(&rest[..begin]);
            let at = source.len() - rest.len() + begin;
            rest = &rest[begin + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                text.push('%');
                rest = after;
                continue;
            }
            let (piece, after) = command(rest).map_err(|reason| wrong(at, reason))?;
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text).into()));
            }
            pieces.push(piece);
            rest = after;
        }
        text.push_str(rest);
        let fits = |text: &str| HeaderValue::from_str(text).map_err(|_| wrong(0, "it cannot stand in a header"));
        let literal = if pieces.is_empty() { Some(fits(&text)?) } else { None };
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        for piece in &pieces {
            if let Piece::Text(text) = piece {
                fits(text)?;
            }
        }
        Ok(Self {
            source: source.into(),
            pieces: pieces.into(),
            literal,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether it is the same for all requests.
    pub fn is_literal(&self) -> bool {
        self.literal.is_some()
    }

    pub(crate) fn literal(&self) -> Option<&HeaderValue> {
        self.literal.as_ref()
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether its value depends on the request.
    pub(crate) fn asks_the_request(&self) -> bool {
        let asks = |piece: &Piece| {
            matches!(
                piece,
                Piece::Operator {
                    operator: Operator::Request(..),
                    ..
                }
            )
        };
        self.pieces.iter().any(asks)
    }
}

/// Reads what follows a `%`: `NAME`, `NAME(ARGUMENTS)` or `NAME(ARGUMENTS):LENGTH`, and a `%`.
fn command(text: &str) -> Result<(Piece, &str), &'static str> {
    let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let end = text.bytes().position(|byte| !is_name(byte)).ok_or("it does not end")?;
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() {
        return Err("a % begins no operator; %% stands for one");
    }
    let mut arguments = None;
    if let Some(inner) = rest.strip_prefix('(') {
        let (inside, after) = inner.split_once(')').ok_or("it does not end")?;
        (arguments, rest) = (Some(inside), after);
    }
    let mut max = None;
    if let Some(inner) = rest.strip_prefix(':') {
        let digits = inner
            .bytes()
            .position(|byte| !byte.is_ascii_digit())
            .ok_or("it does not end")?;
        let (number, after) = inner.split_at(digits);
        max = Some(number.parse().map_err(|_| "its length is not a number")?);
        rest = after;
    }
    let rest = rest.strip_prefix('%').ok_or("it does not end")?;
    let operator = operator(name, arguments)?;
    Ok((Piece::Operator { operator, max }, rest))
}

fn operator(name: &str, arguments: Option<&str>) -> Result<Operator, &'static str> {
    let headers = || -> Result<(Subject, Option<Subject>), &'static str> {
        let (first, second) = match arguments.ok_or("it asks for the name of a header")?.split_once('?') {
            Some((first, second)) => (first, Some(second)),
            None => (arguments.unwrap_or_default(), None),
        };
        let subject = |name: &str| Subject::parse(name).ok_or("it asks for the name of a header");
        Ok((subject(first)?, second.map(subject).transpose()?))
    };
    Ok(match name {
        "REQ" | "REQUEST_HEADER" => headers().map(|(first, second)| Operator::Request(first, second))?,
        "RESP" | "RESPONSE_HEADER" => headers().map(|(first, second)| Operator::Response(first, second))?,
        "RESPONSE_CODE" => Operator::Status,
        "ROUTE_NAME" => Operator::RouteName,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::Cluster,
        "PROTOCOL" => Operator::Protocol,
        _ if WITHOUT_VALUE.contains(&name) => Operator::Nothing,
        _ if FAMILIES_WITHOUT_VALUE.iter().any(|family| name.starts_with(family)) => Operator::Nothing,
        _ => return Err("it is not known"),
    })
}

impl PartialEq for HeaderFormat {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for HeaderFormat {}

impl Hash for HeaderFormat {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

impl fmt::Debug for HeaderFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

/// A value with an operator that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidFormat {
    source: Box<str>,
    at: usize,
    reason: &'static str,
}

impl fmt::Display for InvalidFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, at {}: {}", self.source, self.at, self.reason)
    }
}

impl std::error::Error for InvalidFormat {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read() {
        for good in [
            "",
            "plain",
            "100%%",
            "%REQ(x)%",
            "%REQ(:path?x-other):12%-%RESP(y)%",
            "a %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% b",
            "%START_TIME(%s)%".replace("%s", "s").as_str(),
            "%UPSTREAM_METADATA([\"a\", \"b\"])%",
        ] {
            assert!(HeaderFormat::parse(good).is_ok(), "{good}");
        }
        assert_eq!(HeaderFormat::parse("100%%").unwrap().literal().unwrap(), "100%");
        for bad in [
            "%",
            "50% of",
            "%REQ%",
            "%REQ(no name)%",
            "%REQ(x)",
            "%UNHEARD_OF%",
            "a\nb",
            "%REQ(x):y%",
        ] {
            assert!(HeaderFormat::parse(bad).is_err(), "{bad}");
        }
    }
}
