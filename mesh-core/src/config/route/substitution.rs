//! A pattern and what its matches become: how paths and authorities are rewritten.

use std::fmt;
use std::hash::{Hash, Hasher};

use regex::{Regex, RegexBuilder};

use crate::config::re2::{self, Over};

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
        let unusable = |error: String| invalid(format!("not a usable regular expression: {source:?}: {error}"));
        let regex = RegexBuilder::new(&re2::translated(source, Over::Text).map_err(unusable)?)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
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
