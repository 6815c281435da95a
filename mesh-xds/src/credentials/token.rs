//! A token and how long it is good for (gRFC A97). Pure: no file and no clock.
//!
//! The server verifies a JWT; a client only needs to know when it ends, to read the file again before that. Nothing of a
//! token is ever told: not by `Debug`, and not by an error, which says what is wrong and quotes nothing.

use std::fmt;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use rustls::pki_types::UnixTime;
use serde_json::{Map, Value};
use tonic::{Code, Status};

/// A token ends for us this much before it does (gRFC A97): clocks differ, and the server needs a moment.
const MARGIN: u64 = 30;
/// With less than this left the file is read again, though the token is still good (gRFC A97).
const REFRESH: u64 = 60;
/// The longest token. Servers take about this much in all headers together.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A token that has been read.
#[derive(Clone)]
pub(crate) struct Token {
    header: HeaderValue,
    /// The first second, since 1970, in which it is of no use.
    ends: u64,
}

impl Token {
    /// Reads the text of a file. The white space that editors leave around it is not part of it.
    pub(crate) fn read(file: &[u8]) -> Result<Self, InvalidToken> {
        let text = file.trim_ascii();
        if text.len() > MAX_TOKEN_BYTES {
            return Err(InvalidToken::TooLong);
        }
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidToken::NotJwt);
        };
        if header.is_empty() || ![header, payload, signature].into_iter().flatten().all(is_part) {
            return Err(InvalidToken::NotJwt);
        }
        let claims = URL_SAFE_NO_PAD.decode(payload).map_err(|_| InvalidToken::NotJwt)?;
        let claims: Map<String, Value> = serde_json::from_slice(&claims).map_err(|_| InvalidToken::NoEnd)?;
        let exp = claims.get("exp").and_then(Value::as_f64).ok_or(InvalidToken::NoEnd)?;
        let mut value = Vec::with_capacity(text.len() + 7);
        value.extend_from_slice(b"Bearer ");
        value.extend_from_slice(text);
        let mut header = HeaderValue::try_from(value).map_err(|_| InvalidToken::NotJwt)?;
        header.set_sensitive(true);
        Ok(Self {
            header,
            // A NumericDate may have a fraction (RFC 7519 2). The conversion saturates.
            ends: (exp as u64).saturating_sub(MARGIN),
        })
    }

    /// What is sent of it.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn header(&self) -> &HeaderValue {
        &self.header
    }

    fn left(&self, now: UnixTime) -> u64 {
        self.ends.saturating_sub(now.as_secs())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

/// Why what a file holds is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidToken {
    TooLong,
    NotJwt,
    NoEnd,
    Ended,
}

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "it is longer than 16 KiB",
            Self::NotJwt => "it is not a JWT",
            Self::NoEnd => "it is a JWT without a number exp, which says when it ends",
            Self::Ended => "it has ended, or does within 30 s",
        })
    }
}

/// What is known of one token file.
#[derive(Debug, Default)]
pub(super) struct Cache {
    token: Option<Token>,
    /// Why the last reading brought nothing, and until when there is no other.
    failure: Option<(Failure, Instant)>,
}

/// What a call is to do.
#[derive(Debug)]
pub(super) enum Plan {
    /// Send this.
    Use(HeaderValue),
    /// Read the file first.
    Read,
    /// Fail: there is no token, and it is too soon to look for one again.
    Fail(Failure),
}

impl Cache {
    pub(super) fn plan(&self, wall: UnixTime, now: Instant) -> Plan {
        let is_fresh = self.token.as_ref().is_some_and(|token| token.left(wall) >= REFRESH);
        let resting = self.failure.as_ref().filter(|(_, until)| now < *until);
        match (self.current(wall), resting) {
            (Some(header), _) if is_fresh => Plan::Use(header),
            (_, None) => Plan::Read,
            (Some(header), Some(_)) => Plan::Use(header),
            (None, Some((failure, _))) => Plan::Fail(failure.clone()),
        }
    }

    /// Takes in what a reading brought, or says why it is of no use.
    pub(super) fn record(&mut self, read: Result<Token, Failure>, wall: UnixTime) -> Result<(), Failure> {
        let token = read?;
        if token.left(wall) == 0 {
            return Err(Failure::invalid(InvalidToken::Ended));
        }
        self.failure = None;
        self.token = Some(token);
        Ok(())
    }

    /// Not to read again until then. The old token is good until it ends.
    pub(super) fn rest(&mut self, failure: Failure, until: Instant) {
        self.failure = Some((failure, until));
    }

    /// The token as a header, if it is still good.
    pub(super) fn current(&self, wall: UnixTime) -> Option<HeaderValue> {
        let token = self.token.as_ref().filter(|token| token.left(wall) > 0);
        token.map(|token| token.header.clone())
    }
}

/// Why a call has no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    code: Code,
    why: Box<str>,
}

impl Failure {
    /// The file cannot be read.
    pub(super) fn unreadable(why: impl fmt::Display) -> Self {
        Self {
            code: Code::Unavailable,
            why: why.to_string().into(),
        }
    }

    /// The file holds no token that a server could take.
    pub(super) fn invalid(why: InvalidToken) -> Self {
        Self {
            code: Code::Unauthenticated,
            why: why.to_string().into(),
        }
    }

    /// As the status of the call that has no token.
    pub(super) fn status(&self, credentials: &impl fmt::Display) -> Status {
        let Self { code, why } = self;
        Status::new(*code, format!("no call was made without {credentials}: {why}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
