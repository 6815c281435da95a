//! Tests of a string: what routes, faults and expected peers are told by.
//!
//! Regular expressions are compiled when the configuration is built and match
//! the whole string (Envoy `safe_regex`, gRFC A28); the `regex` crate runs in linear time, and its compiled size is bounded,
//! so that a hostile pattern costs an update and not a process.

use std::fmt;
use std::hash::{Hash, Hasher};

use regex::bytes::{Regex, RegexBuilder};

/// The most bytes a compiled pattern may take. Unicode is what needs them: `.{1,255}` takes some 400 KiB, and Envoy takes it. Matching
/// stays linear whatever the size.
const MAX_COMPILED_BYTES: usize = 1024 * 1024;

/// A compiled regular expression that matches whole strings.
#[derive(Clone)]
pub struct Pattern {
    source: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles `source`.
    ///
    /// # Errors
    ///
    /// When it is not a regular expression, or compiles to more than a megabyte.
    pub fn new(source: &str) -> Result<Self, InvalidPattern> {
        let compiled = |source: &str| {
            RegexBuilder::new(source)
                .size_limit(MAX_COMPILED_BYTES)
                .dfa_size_limit(MAX_COMPILED_BYTES)
                .build()
        };
        let ascii = ascii_classes(source);
        // Alone first: what is one only between the parentheses below, as `a)|(?:b`, would not be held to the whole string by them.
        let regex = compiled(&ascii).and_then(|_| compiled(&format!("^(?:{ascii})$")));
        let regex = regex.map_err(|error| InvalidPattern {
            source: source.into(),
            detail: error.to_string().into(),
        })?;
        Ok(Self {
            source: source.into(),
            regex,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `value` matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

/// `\w`, `\d` and `\s` mean ASCII in RE2, which control planes write for, and all of Unicode in the `regex` crate: there they
/// would match more than was meant, and take a thousand times the space.
pub(super) fn ascii_classes(source: &str) -> String {
    let mut ascii = String::with_capacity(source.len());
    let mut rest = source.chars();
    while let Some(next) = rest.next() {
        let class = match (next, rest.clone().next()) {
            ('\\', Some('w')) => "[0-9A-Za-z_]",
            ('\\', Some('W')) => "[^0-9A-Za-z_]",
            ('\\', Some('d')) => "[0-9]",
            ('\\', Some('D')) => "[^0-9]",
            ('\\', Some('s')) => r"[\t\n\f\r ]",
            ('\\', Some('S')) => r"[^\t\n\f\r ]",
            ('\\', Some(other)) => {
                rest.next();
                ascii.extend([next, other]);
                continue;
            }
            _ => {
                ascii.push(next);
                continue;
            }
        };
        rest.next();
        ascii.push_str(class);
    }
    ascii
}

/// A pattern that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPattern {
    source: Box<str>,
    detail: Box<str>,
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a usable regular expression: {:?}: {}", self.source, self.detail)
    }
}

impl std::error::Error for InvalidPattern {}

/// A test of a string (Envoy `StringMatcher`), on bytes and case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// The whole string.
    Exact(Box<str>),
    /// Its beginning.
    Prefix(Box<str>),
    /// Its end.
    Suffix(Box<str>),
    /// Any part of it.
    Contains(Box<str>),
    /// The whole string, by pattern.
    Regex(Pattern),
}

impl StringMatch {
    /// Whether `value` passes.
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(s) => value == s.as_bytes(),
            Self::Prefix(s) => value.starts_with(s.as_bytes()),
            Self::Suffix(s) => value.ends_with(s.as_bytes()),
            Self::Contains(s) => s.is_empty() || value.windows(s.len()).any(|w| w == s.as_bytes()),
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_the_whole_string() {
        let pattern = Pattern::new("a|b+").unwrap();
        assert!(pattern.is_match(b"bb") && pattern.is_match(b"a"));
        assert!(!pattern.is_match(b"ab") && !pattern.is_match(b"a\n"));
    }

    #[test]
    fn classes_are_those_of_re2() {
        for (source, yes, no) in [
            (r"\w+", "aZ_9", "\u{e9}"),
            (r"[\w.-]+", "a.b-c", "a/b"),
            (r"\d\D", "1x", "12"),
            (r"\\w", r"\w", "w"),
            (r"[^\W]\s\S", "a b", "a  "),
        ] {
            let pattern = Pattern::new(source).unwrap();
            assert!(
                pattern.is_match(yes.as_bytes()) && !pattern.is_match(no.as_bytes()),
                "{source}"
            );
        }
    }

    #[test]
    fn a_pattern_of_unicode_that_envoy_takes_is_taken() {
        let pattern = Pattern::new(".{1,255}").unwrap();
        assert!(pattern.is_match("\u{e9}".repeat(255).as_bytes()));
        assert!(!pattern.is_match("\u{e9}".repeat(256).as_bytes()));
    }

    #[test]
    fn a_pattern_that_explodes_is_refused() {
        assert!(
            Pattern::new("(a{1000}){1000}")
                .unwrap_err()
                .to_string()
                .contains("size limit")
        );
        assert!(Pattern::new("(").is_err());
        assert!(
            Pattern::new("a)|(?:b").is_err(),
            "it would match what only begins with a"
        );
    }

    #[test]
    fn strings() {
        let cases = [
            (StringMatch::Exact("ab".into()), "ab", true),
            (StringMatch::Exact("ab".into()), "abc", false),
            (StringMatch::Prefix("ab".into()), "abc", true),
            (StringMatch::Suffix("bc".into()), "abc", true),
            (StringMatch::Suffix("ab".into()), "abc", false),
            (StringMatch::Contains("b".into()), "abc", true),
            (StringMatch::Contains("".into()), "abc", true),
            (StringMatch::Contains("x".into()), "abc", false),
        ];
        for (test, value, expected) in cases {
            assert_eq!(test.is_match(value.as_bytes()), expected, "{test:?} on {value}");
        }
    }
}
