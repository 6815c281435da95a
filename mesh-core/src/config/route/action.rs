//! What becomes of a request that a route took.

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderName, StatusCode};
use regex::{Regex, RegexBuilder};

use super::Split;
use crate::config::matcher::ascii_classes;
use crate::config::{ClusterName, Fraction};

/// What a route does with what it takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Sends it on.
    Forward(Forward),
    /// Answers it with another place to go to.
    Redirect(Box<Redirect>),
    /// Answers it by itself.
    Respond(DirectResponse),
    /// Fails it, since the route asks for something that is not served here; says for what.
    ///
    /// It keeps its place, so that its calls do not fall through to a later route that was not meant for them.
    Unserved(Box<str>),
}

/// Where a request goes and what is done to it on the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// The clusters it is divided among.
    pub split: Split,
    /// Another authority or path.
    pub rewrite: Option<Box<Rewrite>>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
}

impl From<Split> for Forward {
    fn from(split: Split) -> Self {
        Self {
            split,
            rewrite: None,
            mirrors: Vec::new(),
        }
    }
}

/// What a request's authority and path are changed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rewrite {
    /// The authority.
    pub host: Option<HostRewrite>,
    /// Whether the authority that there was is told in `x-forwarded-host`, where another takes its place.
    pub append_forwarded_host: bool,
    /// The path. What it was is told in `x-envoy-original-path`.
    pub path: Option<PathRewrite>,
}

/// A new authority.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostRewrite {
    /// This one.
    Literal(Authority),
    /// That in this header, if it holds one.
    Header(HeaderName),
    /// What the pattern makes of the path, without its query.
    PathRegex(Substitution),
}

/// A new path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathRewrite {
    /// This in place of what the route matched: the prefix, or all of a path that was matched wholly.
    Prefix(Box<str>),
    /// What the pattern makes of it.
    Regex(Substitution),
}

/// A copy of the calls that nobody waits for (Envoy `RequestMirrorPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// Where it goes.
    pub cluster: ClusterName,
    /// Of which part of the calls; `None`: of all.
    pub fraction: Option<Fraction>,
    /// Whether `-shadow` is appended to its authority, so that who gets it can tell (Envoy, Istio).
    pub shadow_suffix: bool,
}

/// An answer that sends the caller elsewhere (Envoy `RedirectAction`). What is not said stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// The status: 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// The scheme.
    pub scheme: Option<Box<str>>,
    /// The host, which may have a port.
    pub host: Option<Box<str>>,
    /// The port.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<RedirectPath>,
    /// Whether the query is left out.
    pub strip_query: bool,
}

/// The path of a [`Redirect`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RedirectPath {
    /// This one. A query in it takes the place of the request's.
    Whole(Box<str>),
    /// A rewritten one.
    Rewritten(PathRewrite),
}

/// An answer that no server gave (Envoy `DirectResponseAction`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DirectResponse {
    /// The status, from 200 to 599.
    pub status: StatusCode,
    /// The body; empty: none.
    pub body: Bytes,
}

impl DirectResponse {
    /// The most bytes of a body when nothing is said (Envoy `max_direct_response_body_size_bytes`).
    pub const DEFAULT_MAX_BODY_BYTES: usize = 4096;
}

/// The most bytes a compiled pattern may take: as for those that match.
const MAX_COMPILED_BYTES: usize = 64 * 1024;

/// A pattern and what its matches are replaced with (Envoy `RegexMatchAndSubstitute`). Every match in a text is replaced;
/// in the replacement `\0` is all of a match and `\1` to `\9` are its groups.
#[derive(Clone)]
pub struct Substitution {
    source: Box<str>,
    replacement: Box<str>,
    regex: Regex,
    /// The replacement as the `regex` crate writes it.
    template: Box<str>,
}

impl Substitution {
    /// Compiles `source`, and checks that `replacement` names only groups of it.
    ///
    /// # Errors
    ///
    /// When either cannot be.
    pub fn new(source: &str, replacement: &str) -> Result<Self, InvalidSubstitution> {
        let invalid = |detail: String| InvalidSubstitution { detail: detail.into() };
        let regex = RegexBuilder::new(&ascii_classes(source))
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .build()
            .map_err(|error| invalid(format!("not a usable regular expression: {source:?}: {error}")))?;
        let mut template = String::new();
        let mut rest = replacement.chars();
        while let Some(next) = rest.next() {
            match next {
                '\\' => match rest.next() {
                    Some('\\') => template.push('\\'),
                    Some(digit @ '0'..='9') if (digit as usize - '0' as usize) < regex.captures_len() => {
                        template.push_str(&format!("${{{digit}}}"));
                    }
                    _ => {
                        return Err(invalid(format!(
                            "{replacement:?} names a group that {source:?} does not have"
                        )));
                    }
                },
                '$' => template.push_str("$$"),
                other => template.push(other),
            }
        }
        Ok(Self {
            source: source.into(),
            replacement: replacement.into(),
            regex,
            template: template.into(),
        })
    }

    /// The pattern as it was written.
    pub fn pattern(&self) -> &str {
        &self.source
    }

    /// The replacement as it was written.
    pub fn replacement(&self) -> &str {
        &self.replacement
    }

    /// `text` with every match replaced.
    pub fn apply(&self, text: &str) -> String {
        self.regex.replace_all(text, &*self.template).into_owned()
    }
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        (&self.source, &self.replacement) == (&other.source, &other.replacement)
    }
}

impl Eq for Substitution {}

impl Hash for Substitution {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.source, &self.replacement).hash(state);
    }
}

impl fmt::Debug for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s/{}/{}/", self.source, self.replacement)
    }
}

/// A pattern, or a replacement, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSubstitution {
    detail: Box<str>,
}

impl fmt::Display for InvalidSubstitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for InvalidSubstitution {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of Envoy's `regex_rewrite`.
    #[test]
    fn substitutions() {
        let cases = [
            (
                "^/service/([^/]+)(/.*)$",
                r"\2/instance/\1",
                "/service/foo/v1/api",
                "/v1/api/instance/foo",
            ),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            (
                "^(.*?)one(.*)$",
                r"\1two\2",
                "/xxx/one/yyy/one/zzz",
                "/xxx/two/yyy/one/zzz",
            ),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("a", r"$1\\\0", "/a", r"/$1\a"),
        ];
        for (pattern, replacement, text, expected) in cases {
            assert_eq!(Substitution::new(pattern, replacement).unwrap().apply(text), expected);
        }
        for (pattern, replacement) in [
            ("(", ""),
            ("a", r"\1"),
            ("a", "\\"),
            ("a", r"\x"),
            ("(a{999}){999}", ""),
        ] {
            assert!(
                Substitution::new(pattern, replacement).is_err(),
                "{pattern} {replacement}"
            );
        }
    }
}
