//! Where a request may have a token.

use std::borrow::Cow;

use http::HeaderName;
use http::header::COOKIE;

use crate::config::JwtPlaces;
use crate::escaped::{Plus, readable, reads_as};
use crate::route::RequestHead;

/// Where a token was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtPlace {
    /// In this header.
    Header(HeaderName),
    /// In this parameter of the query.
    Param(Box<str>),
    /// In this cookie.
    Cookie(Box<str>),
}

/// A token and where it is. Two values of one header are two tokens.
pub(super) type At<'a> = (JwtPlace, Cow<'a, str>);

/// Hands every token to `each`.
pub(super) fn tokens<'a>(places: &JwtPlaces, head: &RequestHead<'a>, each: &mut dyn FnMut(At<'a>)) {
    let places = said(places);
    for (name, prefix) in &places.headers {
        for value in head.headers.get_all(name) {
            // What is no text is no token, and not the end of the question either: it is refused as a bad one.
            let text = String::from_utf8_lossy(value.as_bytes());
            let after = after_prefix(&text, prefix).map(str::to_owned);
            if let Some(token) = after {
                each((JwtPlace::Header(name.clone()), token.into()));
            }
        }
    }
    for param in &places.params {
        for token in params(head.uri.query().unwrap_or_default(), param) {
            each((JwtPlace::Param(param.clone()), token));
        }
    }
    for cookie in &places.cookies {
        for value in head.headers.get_all(COOKIE) {
            // One byte that is no text must not hide the cookies around it.
            for token in cookies(value.as_bytes(), cookie) {
                let text = String::from_utf8_lossy(token).into_owned();
                each((JwtPlace::Cookie(cookie.clone()), text.into()));
            }
        }
    }
}

/// Whether tokens are looked for there.
pub(super) fn looks_at(places: &JwtPlaces, place: &JwtPlace) -> bool {
    let places = said(places);
    match place {
        JwtPlace::Header(name) => places.headers.iter().any(|(own, _)| own == name),
        JwtPlace::Param(name) => places.params.contains(name),
        JwtPlace::Cookie(name) => places.cookies.contains(name),
    }
}

/// The usual places where none is said.
fn said(places: &JwtPlaces) -> Cow<'_, JwtPlaces> {
    match places.is_empty() {
        true => Cow::Owned(JwtPlaces::usual()),
        false => Cow::Borrowed(places),
    }
}

/// What stands behind the prefix, in whatever case that is written (RFC 9110, 11.1: schemes have none). Where it ends in a blank, any
/// will do: a handler that splits at blanks finds a token behind a tab too.
fn after_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let text = text.trim();
    let word = prefix.trim_end();
    let begins = text.get(..word.len()).is_some_and(|own| own.eq_ignore_ascii_case(word));
    let rest = begins.then(|| &text[word.len()..])?;
    let is_apart = word.len() == prefix.len() || rest.starts_with(char::is_whitespace);
    is_apart.then(|| rest.trim())
}

/// The values of the parameter `name`, however it is spelt (Envoy decodes both).
fn params<'q>(query: &'q str, name: &str) -> impl Iterator<Item = Cow<'q, str>> {
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = values.filter(move |(own, _)| reads_as(own.as_bytes(), name, Plus::Blank));
    values.map(|(_, value)| readable(value))
}

fn cookies<'c>(header: &'c [u8], name: &str) -> impl Iterator<Item = &'c [u8]> {
    let all = header.split(|byte| *byte == b';').filter_map(cookie);
    all.filter_map(move |(own, value)| is_cookie(own, name).then_some(value))
}

/// A cookie's name and value, without the blanks around them.
fn cookie(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii()))
}

/// As it stands (Envoy), or as jars that decode names read it.
fn is_cookie(own: &[u8], name: &str) -> bool {
    own == name.as_bytes() || reads_as(own, name, Plus::Plus)
}

/// A query without the parameter `name`, however it is spelt; `None`: nothing is left.
pub fn removed_param(query: &str, name: &str) -> Option<String> {
    let is_other = |pair: &&str| {
        let own = pair.split_once('=').map(|(own, _)| own);
        own.is_none_or(|own| !reads_as(own.as_bytes(), name, Plus::Blank))
    };
    let left: Vec<&str> = query.split('&').filter(is_other).collect();
    Some(left.join("&")).filter(|left| !left.is_empty())
}

/// A `Cookie` header without the cookie `name`, however it is spelt; `None`: nothing is left.
pub fn removed_cookie(header: &[u8], name: &str) -> Option<Vec<u8>> {
    let is_other = |pair: &&[u8]| cookie(pair).is_none_or(|(own, _)| !is_cookie(own, name));
    let all = header.split(|byte| *byte == b';');
    let left: Vec<&[u8]> = all.filter(is_other).map(<[u8]>::trim_ascii).collect();
    Some(left.join(&b"; "[..])).filter(|left| !left.is_empty())
}
