//! Tests of a string: what routes, faults and expected peers are told by.
//!
//! Regular expressions are RE2's, are compiled when the configuration is built and match
//! the whole string (Envoy `safe_regex`, gRFC A28); the `regex` crate runs in linear time, and its compiled size is bounded,
//! so that a hostile pattern costs an update and not a process.

use std::fmt;
use std::hash::{Hash, Hasher};

use regex::bytes::{Regex, RegexBuilder};

use crate::config::re2::{self, Over};

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
    /// When RE2 would not take it, or it compiles to more than a megabyte.
    pub fn new(source: &str) -> Result<Self, InvalidPattern> {
        let invalid = |detail: String| InvalidPattern {
            source: source.into(),
            detail: detail.into(),
        };
        let translated = re2::translated(source, Over::Bytes).map_err(invalid)?;
        let regex = RegexBuilder::new(&format!("^(?:{translated})$"))
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self {
            source: source.into(),
            regex,
        })
    }

    /// One that matches `text` in any case of ASCII letters, with whatever else on the sides that are `open` (Envoy `ignore_case`).
    ///
    /// # Errors
    ///
    /// When it compiles to more than a megabyte.
    pub fn any_case(text: &str, open: (bool, bool)) -> Result<Self, InvalidPattern> {
        let anything = |is_open: bool| if is_open { r"\C*" } else { "" };
        let mut source = String::from(anything(open.0));
        for letter in text.chars() {
            if letter.is_ascii_alphabetic() {
                source.extend(['[', letter.to_ascii_uppercase(), letter.to_ascii_lowercase(), ']']);
            } else {
                if letter.is_ascii() && !letter.is_ascii_alphanumeric() {
                    source.push('\\');
                }
                source.push(letter);
            }
        }
        source.push_str(anything(open.1));
        Self::new(&source)
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
    fn any_case_is_of_ascii_and_beside_any_bytes() {
        let prefix = Pattern::any_case("K.1-\u{e9}", (false, true)).unwrap();
        assert!(prefix.is_match("k.1-\u{e9}\n".as_bytes()) && prefix.is_match("K.1-\u{e9}".as_bytes()));
        assert!(!prefix.is_match("kx1-\u{e9}".as_bytes()) && !prefix.is_match("\u{212a}.1-\u{e9}".as_bytes()));
        assert!(Pattern::any_case("a", (true, true)).unwrap().is_match(b"\xffA\xff"));
        let again = Pattern::new(prefix.as_str()).unwrap();
        assert_eq!(again, prefix, "it can be written down as RE2's");
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
            Pattern::new(r"[\pL\pN]{1000}")
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
