//! What a request must look like for a route to take it (Envoy `RouteMatch`). Values only: [`crate::route`] applies them.

use std::fmt;

use http::HeaderName;

use super::PathTemplate;
use crate::config::{Fraction, Pattern, StringMatch};

/// Which paths a route takes. The query is never part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// This path.
    Exact(Box<str>),
    /// Paths that begin so, by characters and not by segments. The empty prefix takes every path.
    Prefix(Box<str>),
    /// This path, or what lies below it (Envoy `path_separated_prefix`).
    Segments(Box<str>),
    /// Paths that match wholly.
    Regex(Pattern),
    /// Paths of this shape, in whose text case counts.
    Template(PathTemplate),
}

/// What a [`HeaderMatch`] looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A header. Several values are joined with `,`.
    Header(HeaderName),
    /// A header that counts as absent whatever the request holds (gRFC A28: those whose names end in `-bin`).
    Unseen(HeaderName),
    /// `:method`
    Method,
    /// `:scheme`: the URI's, and `http` for a request that names none.
    Scheme,
    /// `:authority`, and `host`, which is the same: the URI's, else that of the header `host`, else the target's name.
    Authority,
    /// `:path`: path and query.
    Path,
}

impl Subject {
    /// Reads a name as Envoy writes it; `None` for what is neither a header's name nor one of the four pseudo headers.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            ":authority" => Self::Authority,
            ":path" => Self::Path,
            name => HeaderName::from_bytes(name.as_bytes()).ok()?.into(),
        })
    }
}

impl From<HeaderName> for Subject {
    fn from(name: HeaderName) -> Self {
        if name == http::header::HOST {
            Self::Authority
        } else {
            Self::Header(name)
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header(name) | Self::Unseen(name) => name.as_str(),
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
        })
    }
}

/// A test of one header (Envoy `HeaderMatcher`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    /// What is looked at.
    pub subject: Subject,
    /// What is asked of it.
    pub test: HeaderTest,
    /// Take the opposite answer. A test of a value fails on a header that is absent, inverted or not (Envoy, gRFC A28).
    pub invert: bool,
    /// Look at a header that is absent as at an empty one.
    pub missing_is_empty: bool,
}

impl HeaderMatch {
    /// Asks `test` of `subject`.
    pub fn new(subject: impl Into<Subject>, test: HeaderTest) -> Self {
        Self {
            subject: subject.into(),
            test,
            invert: false,
            missing_is_empty: false,
        }
    }

    /// Asks for the opposite of `test`; a header that is absent passes (Istio `withoutHeaders`).
    pub fn without(subject: impl Into<Subject>, test: HeaderTest) -> Self {
        // Presence of an absent header is what it is; only a value can be looked at as empty.
        let missing_is_empty = test != HeaderTest::Present;
        Self {
            invert: true,
            missing_is_empty,
            ..Self::new(subject, test)
        }
    }
}

/// What a [`HeaderMatch`] asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderTest {
    /// That the header is there, whatever it holds.
    Present,
    /// That it is there and passes.
    Value(StringMatch),
    /// That it is there and a whole number from `start` up to, but not including, `end`.
    Range {
        /// The least.
        start: i64,
        /// The first that is too great.
        end: i64,
    },
}

/// A test of a parameter of the query. Of a parameter that stands there several times the first is looked at, as it is written:
/// what is percent-encoded is not decoded (Envoy).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueryMatch {
    /// The parameter.
    pub name: Box<str>,
    /// What is asked of it.
    pub test: QueryTest,
}

/// What a [`QueryMatch`] asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QueryTest {
    /// That it is there, or that it is not.
    Present(bool),
    /// That it is there and passes; one without `=` is empty.
    Value(StringMatch),
}

/// All that must hold for a route to take a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Compare the path without regard to case. It does not concern patterns (Envoy `case_sensitive`).
    pub ignore_case: bool,
    /// Every one of these.
    pub headers: Vec<HeaderMatch>,
    /// Every one of these.
    pub query: Vec<QueryMatch>,
    /// Only gRPC requests.
    pub grpc: bool,
    /// Only a part of the requests that pass the rest, by chance (Envoy `runtime_fraction`).
    pub fraction: Option<Fraction>,
}

impl RouteMatch {
    /// Takes every request.
    pub fn any() -> Self {
        Self {
            path: PathMatch::Prefix("".into()),
            ignore_case: false,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
            fraction: None,
        }
    }
}
