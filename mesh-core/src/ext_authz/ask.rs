//! What is sent of a request.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::{CheckFailure, PARTIAL_BODY, ReadBody};
use crate::config::{CheckBody, CheckSettings, ExtAuthz, HttpCheck, SentHeaders, StringMatch};
use crate::route::RequestHead;

/// Where an authorizer by HTTP reads for whom a request is: it is itself called by its own name, by which its mesh knows it.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What is about one connection, and means something else on the next (RFC 9110, 7.6.1).
const OF_CONNECTIONS: [&str; 3] = ["keep-alive", "proxy-connection", "proxy-authenticate"];

impl ExtAuthz {
    /// How much of a request's body is sent, by its route or else by the filter.
    pub fn body_of(&self, settings: Option<&CheckSettings>) -> Option<CheckBody> {
        settings.and_then(|settings| settings.body).unwrap_or(self.body)
    }

    /// The headers that an authorizer by gRPC is sent, each name once and in their order, as text: pseudo headers first, several values
    /// of one name joined, and `!` for each byte that is no text (Envoy).
    pub fn grpc_headers(&self, head: &RequestHead<'_>, body: Option<&ReadBody>) -> Vec<(String, String)> {
        let pseudo = [
            (":method", head.method.as_str()),
            (":path", head.path_and_query()),
            (":scheme", head.scheme()),
            (":authority", head.authority()),
        ];
        let wanted = |name: &str| self.headers.sends(name, true);
        let mut all: Vec<(String, String)> = Vec::with_capacity(head.headers.keys_len() + pseudo.len() + 1);
        for (name, value) in pseudo {
            if wanted(name) {
                all.push((name.to_owned(), value.to_owned()));
            }
        }
        for name in head
            .headers
            .keys()
            .filter(|name| wanted(name.as_str()) && **name != HOST)
        {
            let mut values = head.headers.get_all(name).iter().map(text);
            let mut joined = values.next().unwrap_or_default().into_owned();
            values.for_each(|value| {
                joined.push(',');
                joined.push_str(&value);
            });
            all.push((name.as_str().to_owned(), joined));
        }
        if let Some(body) = body {
            all.push((PARTIAL_BODY.to_owned(), body.partial.to_string()));
        }
        all
    }

    /// The same as they are (Envoy `encode_raw_headers`).
    pub fn raw_grpc_headers(&self, head: &RequestHead<'_>, body: Option<&ReadBody>) -> Vec<(String, Vec<u8>)> {
        let texts = self.grpc_headers(head, body);
        let made_up = |name: &str| name.starts_with(':') || name == PARTIAL_BODY;
        let (first, _): (Vec<_>, Vec<_>) = texts.into_iter().partition(|(name, _)| made_up(name));
        let own = head
            .headers
            .iter()
            .filter(|(name, _)| **name != HOST && !made_up(name.as_str()) && self.headers.sends(name.as_str(), true));
        let first = first.into_iter().map(|(name, value)| (name, value.into_bytes()));
        first
            .chain(own.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())))
            .collect()
    }

    /// What an authorizer by HTTP is sent: the request's method, and its path where nothing else is said, at `target`.
    ///
    /// Envoy sends the authority of the request itself. Here it goes as `x-forwarded-host`, since whoever calls has to be told where.
    ///
    /// # Errors
    ///
    /// When the path that the configuration makes is none.
    pub fn http_request(
        &self,
        check: &HttpCheck,
        target: &str,
        head: &RequestHead<'_>,
        body: Option<&ReadBody>,
    ) -> Result<Request<Bytes>, CheckFailure> {
        // `OPTIONS *` has no path, and behind a host it would be another host.
        if check.path_override.is_none() && !head.path().starts_with('/') {
            return Err(CheckFailure::Malformed);
        }
        let path: Cow<'_, str> = match &check.path_override {
            Some(path) => Cow::Borrowed(&**path),
            None if check.path_prefix.is_empty() => head.path_and_query().into(),
            None => format!("{}{}", check.path_prefix, head.path_and_query()).into(),
        };
        let bytes = body.map(|body| body.bytes.clone()).unwrap_or_default();
        let request = Request::builder()
            .method(head.method)
            .uri(format!("http://{target}{path}"))
            .body(bytes);
        let mut request = request.map_err(|_| CheckFailure::Malformed)?;
        let headers = request.headers_mut();
        for (name, value) in head.headers {
            let wanted = *name == AUTHORIZATION || self.headers.sends(name.as_str(), false);
            if !wanted || is_framing(name) {
                continue;
            }
            match self.headers.raw {
                true => drop(headers.append(name, value.clone())),
                // One line of each name, as by gRPC.
                false => join(headers, name, value),
            }
        }
        if let Ok(authority) = HeaderValue::from_str(head.authority()) {
            headers.insert(FORWARDED_HOST, authority);
        }
        if let Some(body) = body {
            let partial = if body.partial { "true" } else { "false" };
            headers.insert(PARTIAL_BODY, HeaderValue::from_static(partial));
        }
        // Whatever the sender says by these names, it is the configuration that says it.
        for (name, value) in &check.add {
            headers.insert(name, value.clone());
        }
        Ok(request)
    }
}

impl SentHeaders {
    /// Whether a header is sent. `otherwise`: where nobody says which are.
    fn sends(&self, name: &str, otherwise: bool) -> bool {
        let any = |tests: &[StringMatch]| tests.iter().any(|test| test.is_match(name.as_bytes()));
        self.allowed.as_deref().map_or(otherwise, any) && !any(&self.disallowed)
    }
}

/// Whether a header says how a message is framed, or is about one connection. These are never passed from one message to another.
pub(super) fn is_framing(name: &HeaderName) -> bool {
    [
        HOST,
        CONNECTION,
        CONTENT_LENGTH,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
        || OF_CONNECTIONS.contains(&name.as_str())
}

fn join(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let joined = match headers.get(name) {
        None => text(value).into_owned(),
        Some(before) => format!("{},{}", text(before), text(value)),
    };
    if let Ok(joined) = HeaderValue::from_str(&joined) {
        headers.insert(name, joined);
    }
}

/// A value as text, with `!` for each byte that is none (Envoy).
fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_) => {
            let ascii = value.as_bytes().iter();
            ascii
                .map(|byte| if byte.is_ascii() { char::from(*byte) } else { '!' })
                .collect::<String>()
                .into()
        }
    }
}
