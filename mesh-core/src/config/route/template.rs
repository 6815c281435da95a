//! Paths by template: `/{kind}/{id=*}/**` (Envoy `uri_template`, Google's path templates).
//!
//! A template becomes a pattern with a group for each variable, as in Envoy, so a match is one run in linear time. What a
//! variable caught may stand in another path.

use std::fmt;
use std::hash::{Hash, Hasher};

use regex::{Regex, RegexBuilder};

/// The most variables of a template (Envoy).
const MAX_VARIABLES: usize = 5;
/// The most characters of a variable's name (Envoy).
const MAX_NAME: usize = 16;
/// The most characters of a template: a path's, with room.
const MAX_LENGTH: usize = 1024;
/// The most bytes a compiled template may take: as for other patterns.
const MAX_COMPILED_BYTES: usize = 64 * 1024;
/// What a path may hold between its slashes besides letters and digits (RFC 3986 `pchar`, without the star).
const MARKS: &str = "-._~%!$&'()+,;:@=";

/// Paths that are of one shape.
///
/// `*` is one segment or a part of one, `**` any number of segments, and nothing but text may follow it. `{name}` and
/// `{name=PATTERN}` remember what they stand for.
#[derive(Clone)]
pub struct PathTemplate {
    text: Box<str>,
    variables: Box<[Box<str>]>,
    regex: Regex,
}

impl PathTemplate {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let invalid = |why: &str| InvalidTemplate {
            detail: format!("{text:?} {why}").into(),
        };
        if !text.starts_with('/') || text.len() > MAX_LENGTH {
            return Err(invalid("is not a path"));
        }
        let mut reader = Reader {
            pattern: String::from(r"\A"),
            variables: Vec::new(),
            is_over: false,
        };
        reader.read(text).map_err(&invalid)?;
        reader.pattern.push_str(r"\z");
        let regex = RegexBuilder::new(&reader.pattern)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .build()
            .map_err(|_| invalid("is too large"))?;
        Ok(Self {
            text: text.into(),
            variables: reader.variables.into(),
            regex,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a path, without its query, is of this shape.
    pub fn is_match(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }
}

/// Reads a template from left to right, and writes the pattern that it means.
struct Reader {
    pattern: String,
    variables: Vec<Box<str>>,
    /// There was a `**`: only text may come.
    is_over: bool,
}

impl Reader {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        let mut rest = text;
        while !rest.is_empty() {
            rest = match rest.strip_prefix('{') {
                Some(inner) => {
                    let (inner, after) = inner.split_once('}').ok_or("has a variable without an end")?;
                    self.variable(inner)?;
                    after
                }
                None => {
                    let end = rest.find('{').unwrap_or(rest.len());
                    self.plain(&rest[..end])?;
                    &rest[end..]
                }
            };
        }
        Ok(())
    }

    fn variable(&mut self, inner: &str) -> Result<(), &'static str> {
        let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        let mut letters = name.chars();
        let is_name = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        if !is_name || name.len() > MAX_NAME {
            return Err("has a variable without a name, or with one that is none");
        }
        if pattern.is_empty() {
            return Err("has a variable that is nothing");
        }
        if self.variables.iter().any(|known| **known == *name) {
            return Err("has a variable twice");
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err("has more than five variables");
        }
        self.variables.push(name.into());
        self.pattern.push('(');
        self.plain(pattern)?;
        self.pattern.push(')');
        Ok(())
    }

    /// Text, and stars outside of variables or in one.
    fn plain(&mut self, text: &str) -> Result<(), &'static str> {
        if text.contains("//") {
            return Err("has an empty segment");
        }
        let mut rest = text.chars().peekable();
        while let Some(next) = rest.next() {
            match next {
                '*' if self.is_over => return Err("has something other than text after **"),
                '*' if rest.next_if_eq(&'*').is_some() => {
                    if rest.peek() == Some(&'*') {
                        return Err("has three stars");
                    }
                    self.is_over = true;
                    self.pattern.push_str(&format!("[{MARKS}a-zA-Z0-9/]*"));
                }
                '*' => self.pattern.push_str(&format!("[{MARKS}a-zA-Z0-9]+")),
                '/' => self.pattern.push('/'),
                letter if is_segment(letter) => self.pattern.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4]))),
                _ => return Err("has what no path holds"),
            }
        }
        Ok(())
    }
}

fn is_segment(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || MARKS.contains(letter)
}

/// Another path, made of what the variables of a [`PathTemplate`] caught.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemplateRewrite {
    text: Box<str>,
    pieces: Box<[Piece]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Piece {
    Text(Box<str>),
    /// A variable's number in its template.
    Variable(usize),
}

impl TemplateRewrite {
    /// Reads a path in which `{name}` stands for what that variable of `template` caught.
    ///
    /// # Errors
    ///
    /// When it is no path, or names a variable that the template does not have.
    pub fn parse(text: &str, template: &PathTemplate) -> Result<Self, InvalidTemplate> {
        let invalid = |why: &str| InvalidTemplate {
            detail: format!("{text:?} {why}").into(),
        };
        if !text.starts_with('/') || text.len() > MAX_LENGTH {
            return Err(invalid("is not a path"));
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('{') {
                let (name, after) = inner
                    .split_once('}')
                    .ok_or_else(|| invalid("has a variable without an end"))?;
                let number = template.variables.iter().position(|known| **known == *name);
                let number = number.ok_or_else(|| invalid("names a variable that the template does not have"))?;
                pieces.push(Piece::Variable(number));
                rest = after;
                continue;
            }
            let (plain, after) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
            let is_path = |letter: char| letter == '/' || is_segment(letter);
            if plain.contains("//") || !plain.chars().all(is_path) {
                return Err(invalid("has what no path holds"));
            }
            pieces.push(Piece::Text(plain.into()));
            rest = after;
        }
        Ok(Self {
            text: text.into(),
            pieces: pieces.into(),
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What becomes of a path, without its query, that is of the shape of `template`; `None` for another.
    pub fn apply(&self, template: &PathTemplate, path: &str) -> Option<String> {
        let caught = template.regex.captures(path)?;
        let piece = |piece: &'_ Piece| match piece {
            Piece::Text(text) => text.to_string(),
            Piece::Variable(number) => caught.get(number + 1).map_or("", |one| one.as_str()).to_owned(),
        };
        Some(self.pieces.iter().map(piece).collect())
    }
}

impl PartialEq for PathTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PathTemplate {}

impl Hash for PathTemplate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTemplate {
    detail: Box<str>,
}

impl fmt::Display for InvalidTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a path template: {}", self.detail)
    }
}

impl std::error::Error for InvalidTemplate {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of Envoy's documentation, and what lies beside them.
    #[test]
    fn paths_of_one_shape() {
        let cases = [
            ("/videos/*/*/*.m4s", "/videos/123414/hls/1080p5000_00001.m4s", true),
            ("/videos/*/*/*.m4s", "/videos/123414/1080p5000_00001.m4s", false),
            ("/videos/{file}", "/videos/1080p5000_00001.m4s", true),
            ("/videos/{file}", "/videos/a/b.m4s", false),
            ("/videos/{file}", "/videos/", false),
            ("/**.mpd", "/content/123/india/dash/55/manifest.mpd", true),
            ("/**.mpd", "/content/manifest.m4s", false),
            ("/api/v{version}/users/{id}.json", "/api/v2/users/456.json", true),
            ("/api/v{version}/users/{id}.json", "/api/2/users/456.json", false),
            ("/{name=videos/*}/x", "/videos/a/x", true),
            ("/{name=videos/*}/x", "/audio/a/x", false),
            ("/a/{rest=**}", "/a/", true),
            ("/a/{rest=**}", "/a/b/c", true),
            ("/a/**", "/a", false),
            ("/a.b", "/a.b", true),
            ("/a.b", "/axb", false),
            ("/", "/", true),
            ("/*", "/a b", false),
        ];
        for (template, path, expected) in cases {
            let template = PathTemplate::parse(template).unwrap();
            assert_eq!(template.is_match(path), expected, "{template:?} {path}");
        }
    }

    #[test]
    fn what_is_no_template() {
        let many = "/{a}/{b}/{c}/{d}/{e}/{f}";
        for wrong in [
            "",
            "a",
            "/a//b",
            "/{}",
            "/{a",
            "/a}",
            "/{1a}",
            "/{a-b}",
            "/{seventeen_letters}",
            "/{a=}",
            "/{a}/{a}",
            "/{a={b}}",
            "/**/*",
            "/**/{a}",
            "/{a=**}/**",
            "/***",
            "/a b",
            "/a?b",
            "/\u{e9}",
            many,
        ] {
            assert!(PathTemplate::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_are_made_of_what_was_caught() {
        let cases = [
            ("/{one}/{two}", "/{two}/{one}", "/cat/dog", "/dog/cat"),
            (
                "/videos/{language=lang/*}/*",
                "/{language}",
                "/videos/lang/en/video.m4s",
                "/lang/en",
            ),
            (
                "/content/{format}/{lang}/{id}/{file}.vtt",
                "/{lang}/{format}/{file}.vtt",
                "/content/hls/en-us/12345/en_193913.vtt",
                "/en-us/hls/en_193913.vtt",
            ),
            ("/a/{rest=**}", "/b/{rest}", "/a/", "/b/"),
            ("/a/*", "/fixed", "/a/x", "/fixed"),
        ];
        for (template, rewrite, path, expected) in cases {
            let template = PathTemplate::parse(template).unwrap();
            let rewrite = TemplateRewrite::parse(rewrite, &template).unwrap();
            assert_eq!(rewrite.apply(&template, path).as_deref(), Some(expected));
            assert_eq!(rewrite.apply(&template, "/else/where/it/is/not"), None);
        }
        let template = PathTemplate::parse("/{one}").unwrap();
        for wrong in ["", "x", "/{two}", "/{one", "/*", "/a//b", "/a?b"] {
            assert!(TemplateRewrite::parse(wrong, &template).is_err(), "{wrong}");
        }
    }
}
