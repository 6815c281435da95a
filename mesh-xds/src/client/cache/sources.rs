//! Where a name is looked up: with the control plane whose word counts for the name's authority (gRFC A47).
//!
//! A name belongs to one authority, by what it says itself, so the caches of several control planes never hold two answers
//! to one question, except while one of them takes over from another; which of the two counts then is said here.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Cache, Cached, Found, Row, Trouble};
use crate::name::{ResourceName, is_structured};
use crate::resource::ResourceKind;

/// The authorities of a bootstrap, by their place in its list. The first has no name: plain names are its.
#[derive(Clone, Debug, Default)]
pub(crate) struct Authorities {
    places: BTreeMap<Box<str>, usize>,
}

/// Why a name is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nobodys<'a> {
    /// It is of an authority that the bootstrap does not have.
    Unknown(&'a str),
    /// It begins as a structured name and is none.
    Malformed,
}

impl Authorities {
    /// The nameless one and these.
    pub(crate) fn new<'a>(named: impl IntoIterator<Item = &'a str>) -> Self {
        let places = named.into_iter().zip(1..);
        Self {
            places: places.map(|(name, place)| (name.into(), place)).collect(),
        }
    }

    /// The place of a name's authority. The name is in its normal form.
    pub(crate) fn of<'a>(&self, name: &'a str) -> Result<usize, Nobodys<'a>> {
        if !is_structured(name) {
            return Ok(0);
        }
        let rest = name.strip_prefix("xdstp://").ok_or(Nobodys::Malformed)?;
        let (authority, _) = rest.split_once('/').ok_or(Nobodys::Malformed)?;
        match self.places.get(authority) {
            // What is malformed further on was left as it was.
            Some(_) if ResourceName::parse(name).is_err() => Err(Nobodys::Malformed),
            Some(place) => Ok(*place),
            None => Err(Nobodys::Unknown(authority)),
        }
    }
}

/// What the names of all authorities are looked up in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sources<'a> {
    /// One control plane, for plain names.
    One(&'a Cache),
    /// The cache that counts for each authority, by its place.
    Each(&'a Authorities, &'a [&'a Cache]),
}

impl<'a> Sources<'a> {
    /// What a name is. One that is nobody's is definitely nothing, and that is known without asking.
    pub(crate) fn find<R: Cached>(self, name: &str) -> Found<R> {
        match self.cache(name) {
            Ok(cache) => cache.find(name),
            Err(Nobodys::Unknown(authority)) => absent(format!(
                "{} {name:?}: the bootstrap has no authority {authority:?}",
                R::KIND
            )),
            Err(Nobodys::Malformed) => absent(format!("{} {name:?} is not a well-formed xdstp name", R::KIND)),
        }
    }

    /// The cache of plain names, of which everything can be asked for.
    pub(crate) fn plain(self) -> &'a Cache {
        match self {
            Self::One(cache) => cache,
            Self::Each(_, caches) => caches[0],
        }
    }

    /// See [`Cache::row`].
    pub(crate) fn row(self, kind: ResourceKind, name: &str) -> Option<Row<'a>> {
        match self {
            // What has no name may be of any of them.
            Self::Each(_, caches) if name.is_empty() => caches.iter().find_map(|cache| cache.row(kind, name)),
            _ => self.cache(name).ok()?.row(kind, name),
        }
    }

    fn cache<'n>(self, name: &'n str) -> Result<&'a Cache, Nobodys<'n>> {
        match self {
            Self::One(cache) => Ok(cache),
            Self::Each(authorities, caches) => authorities.of(name).map(|place| caches[place]),
        }
    }
}

impl<'a> From<&'a Cache> for Sources<'a> {
    fn from(cache: &'a Cache) -> Self {
        Self::One(cache)
    }
}

fn absent<R>(why: String) -> Found<R> {
    Found::None(Trouble::Absent(why.into()))
}

/// A name as it is remembered: two spellings of a structured name are one. A malformed one stays as it is.
pub(crate) fn normal_form(name: &str) -> Cow<'_, str> {
    if !is_structured(name) {
        return Cow::Borrowed(name);
    }
    match ResourceName::parse(name).map(|parsed| parsed.to_string()) {
        Ok(normal) if normal != name => Cow::Owned(normal),
        _ => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_it_is() {
        let authorities = Authorities::new(["a", "b"]);
        let kind = "envoy.config.listener.v3.Listener";
        for (name, expected) in [
            ("plain".to_owned(), Ok(0)),
            ("http://a/x".to_owned(), Ok(0)),
            (format!("xdstp://a/{kind}/x"), Ok(1)),
            (format!("xdstp://b/{kind}/x?k=v"), Ok(2)),
            (format!("xdstp://c/{kind}/x"), Err(Nobodys::Unknown("c"))),
            (format!("xdstp:///{kind}/x"), Err(Nobodys::Unknown(""))),
            (format!("xdstp:a/{kind}/x"), Err(Nobodys::Malformed)),
            (format!("xdstp://a/{kind}/%zz"), Err(Nobodys::Malformed)),
            ("xdstp://a".to_owned(), Err(Nobodys::Malformed)),
        ] {
            assert_eq!(authorities.of(&name), expected, "{name}");
        }
    }

    #[test]
    fn two_spellings_are_one_name() {
        let normal = "xdstp://a/envoy.config.listener.v3.Listener/x?b=1&c=2";
        let other = "xdstp://a/envoy.config.listener.v3.Listener/%78?c=2&b=1";
        assert_eq!(normal_form(other), normal);
        assert!(matches!(normal_form(normal), Cow::Borrowed(_)));
        assert_eq!(normal_form("x?c=2&b=1"), "x?c=2&b=1", "plain names are text");
    }
}
