//! Where a request may have a token.

use std::borrow::Cow;

use http::HeaderName;
use http::header::COOKIE;

use crate::config::JwtPlaces;
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
            each((JwtPlace::Param(param.clone()), token.into()));
        }
    }
    for cookie in &places.cookies {
        for value in head.headers.get_all(COOKIE) {
            let Ok(value) = value.to_str() else { continue };
            for token in pairs(value).filter_map(|(name, token)| (name == &**cookie).then_some(token)) {
                each((JwtPlace::Cookie(cookie.clone()), token.into()));
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

/// What stands behind the prefix, in whatever case that is written (RFC 9110, 11.1: schemes have none).
fn after_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let text = text.trim();
    let begins = text
        .get(..prefix.len())
        .is_some_and(|own| own.eq_ignore_ascii_case(prefix));
    begins.then(|| text[prefix.len()..].trim())
}

fn params<'q>(query: &'q str, name: &str) -> impl Iterator<Item = &'q str> {
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    values.filter_map(move |(own, value)| (own == name).then_some(value))
}

fn pairs(cookies: &str) -> impl Iterator<Item = (&str, &str)> {
    cookies.split(';').filter_map(|pair| pair.trim().split_once('='))
}

/// A query without the parameter `name`; `None`: nothing is left.
pub fn removed_param(query: &str, name: &str) -> Option<String> {
    let is_other = |pair: &&str| pair.split_once('=').is_none_or(|(own, _)| own != name);
    let left: Vec<&str> = query.split('&').filter(is_other).collect();
    Some(left.join("&")).filter(|left| !left.is_empty())
}

/// A `Cookie` header without the cookie `name`; `None`: nothing is left.
pub fn removed_cookie(cookies: &str, name: &str) -> Option<String> {
    let is_other = |pair: &&str| pair.split_once('=').is_none_or(|(own, _)| own != name);
    let left: Vec<&str> = cookies.split(';').map(str::trim).filter(is_other).collect();
    Some(left.join("; ")).filter(|left| !left.is_empty())
}
