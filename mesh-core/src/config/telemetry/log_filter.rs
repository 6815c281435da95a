//! Which calls are written to an access log: what Envoy's filters and the common expressions of Istio's Telemetry documents say alike.
//!
//! An expression (CEL) that is written `response.code >= 400 || response.code == 0` is read to the same value as Envoy's filters of that
//! meaning, so that a control plane may write either. Most of CEL is not read: whoever meets another expression says so, and logs
//! nothing rather than everything.

use std::fmt;

use super::super::Fraction;

/// Which calls are written.
///
/// ```
/// use mesh_core::config::LogFilter;
/// let filter = LogFilter::parse("response.code >= 500 || response.code == 0")?;
/// assert!(filter.passes(503, 0) && filter.passes(0, 0) && !filter.passes(200, 0));
/// # Ok::<(), mesh_core::config::NotAFilter>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogFilter {
    /// Every one.
    All,
    /// Those whose HTTP status compares so with this one. That of a call without an answer is 0.
    Status(Comparison, u16),
    /// A part of them, by chance.
    Share(Fraction),
    /// Those that pass each of these.
    Each(Box<[Self]>),
    /// Those that pass one of these.
    Any(Box<[Self]>),
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// They are the same.
    Equal,
    /// They are not.
    Different,
    /// The first is the second or more.
    AtLeast,
    /// The first is the second or less.
    AtMost,
}

impl LogFilter {
    /// The most tests in one: nobody writes more than a handful, and each is asked of every call.
    pub const MAX_TESTS: usize = 64;
    /// How deep tests may stand in others, since reading and asking go as deep.
    pub const MAX_DEPTH: usize = 8;

    /// Whether a call is written that ended with `status`, by chance where `lot` decides: a number from all of `u64`.
    pub fn passes(&self, status: u16, lot: u64) -> bool {
        match self {
            Self::All => true,
            Self::Status(comparison, than) => comparison.holds(status, *than),
            Self::Share(fraction) => fraction.holds(lot),
            Self::Each(filters) => filters.iter().all(|filter| filter.passes(status, lot)),
            Self::Any(filters) => filters.iter().any(|filter| filter.passes(status, lot)),
        }
    }

    /// Whether chance has a say.
    pub fn draws(&self) -> bool {
        match self {
            Self::All | Self::Status(..) => false,
            Self::Share(_) => true,
            Self::Each(filters) | Self::Any(filters) => filters.iter().any(Self::draws),
        }
    }

    /// Those that pass one of `filters`; `None` where there is none.
    pub fn any_of(mut filters: Vec<Self>) -> Option<Self> {
        match filters.len() {
            0 => None,
            _ if filters.contains(&Self::All) => Some(Self::All),
            1 => filters.pop(),
            _ => Some(Self::Any(filters.into())),
        }
    }

    /// Reads an expression: comparisons of `response.code` with a number, joined by `&&`, `||` and brackets.
    ///
    /// # Errors
    ///
    /// When it is anything else, or longer or deeper than [`MAX_TESTS`](Self::MAX_TESTS) and [`MAX_DEPTH`](Self::MAX_DEPTH).
    pub fn parse(expression: &str) -> Result<Self, NotAFilter> {
        let mut text = Text {
            rest: expression,
            tests: 0,
        };
        let filter = text.any(0)?;
        match text.rest.trim_start() {
            "" => Ok(filter),
            rest => Err(NotAFilter::at(rest)),
        }
    }
}

impl Comparison {
    fn holds(self, a: u16, b: u16) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Different => a != b,
            Self::AtLeast => a >= b,
            Self::AtMost => a <= b,
        }
    }
}

/// An expression that is not read here, and where it stops being one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAFilter {
    at: Box<str>,
}

impl NotAFilter {
    /// The most of an expression that an error shows.
    const SHOWN: usize = 40;

    fn at(rest: &str) -> Self {
        Self {
            at: rest.chars().take(Self::SHOWN).collect::<String>().into(),
        }
    }
}

impl fmt::Display for NotAFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const READ: &str = "only response.code compared with a number, joined by && and ||, is read";
        match &*self.at {
            "" => write!(f, "the expression ends too early: {READ}"),
            at => write!(f, "the expression cannot be read from {at:?} on: {READ}"),
        }
    }
}

impl std::error::Error for NotAFilter {}

/// What is left of an expression, and how many tests were found in it.
struct Text<'a> {
    rest: &'a str,
    tests: usize,
}

impl Text<'_> {
    fn takes(&mut self, word: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn any(&mut self, depth: usize) -> Result<LogFilter, NotAFilter> {
        let mut all = vec![self.each(depth)?];
        while self.takes("||") {
            all.push(self.each(depth)?);
        }
        Ok(joined(all, LogFilter::Any))
    }

    fn each(&mut self, depth: usize) -> Result<LogFilter, NotAFilter> {
        let mut all = vec![self.test(depth)?];
        while self.takes("&&") {
            all.push(self.test(depth)?);
        }
        Ok(joined(all, LogFilter::Each))
    }

    fn test(&mut self, depth: usize) -> Result<LogFilter, NotAFilter> {
        self.tests += 1;
        // Each bracket may put a filter in another, and that one in a third.
        if self.tests > LogFilter::MAX_TESTS || depth + 2 >= LogFilter::MAX_DEPTH {
            return Err(NotAFilter::at(self.rest));
        }
        if self.takes("(") {
            let inner = self.any(depth + 2)?;
            return if self.takes(")") {
                Ok(inner)
            } else {
                Err(NotAFilter::at(self.rest))
            };
        }
        if !self.takes("response.code") {
            return Err(NotAFilter::at(self.rest.trim_start()));
        }
        // The longer ones first.
        const WORDS: [(&str, Comparison, i32); 6] = [
            (">=", Comparison::AtLeast, 0),
            ("<=", Comparison::AtMost, 0),
            ("==", Comparison::Equal, 0),
            ("!=", Comparison::Different, 0),
            (">", Comparison::AtLeast, 1),
            ("<", Comparison::AtMost, -1),
        ];
        let word = WORDS.into_iter().find(|(word, ..)| self.takes(word));
        let (_, comparison, beside) = word.ok_or_else(|| NotAFilter::at(self.rest.trim_start()))?;
        let rest = self.rest.trim_start();
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let number: Option<u16> = rest[..end].parse().ok();
        let number = number.and_then(|number| u16::try_from(i32::from(number) + beside).ok());
        let number = number.ok_or_else(|| NotAFilter::at(rest))?;
        self.rest = &rest[end..];
        Ok(LogFilter::Status(comparison, number))
    }
}

fn joined(mut all: Vec<LogFilter>, join: impl FnOnce(Box<[LogFilter]>) -> LogFilter) -> LogFilter {
    match all.len() {
        1 => all.remove(0),
        _ => join(all.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Comparison::{AtLeast, AtMost, Different, Equal};

    fn status(comparison: Comparison, than: u16) -> LogFilter {
        LogFilter::Status(comparison, than)
    }

    #[test]
    fn the_common_expressions_are_read() {
        let each = |filters: &[LogFilter]| LogFilter::Each(filters.into());
        let any = |filters: &[LogFilter]| LogFilter::Any(filters.into());
        for (text, filter) in [
            ("response.code >= 400", status(AtLeast, 400)),
            (" response.code==503 ", status(Equal, 503)),
            ("response.code > 399", status(AtLeast, 400)),
            ("response.code < 500", status(AtMost, 499)),
            ("(response.code != 200)", status(Different, 200)),
            (
                "response.code >= 400 && response.code <= 499 || response.code == 0",
                any(&[each(&[status(AtLeast, 400), status(AtMost, 499)]), status(Equal, 0)]),
            ),
            (
                "response.code >= 400 && (response.code == 404 || response.code == 409)",
                each(&[status(AtLeast, 400), any(&[status(Equal, 404), status(Equal, 409)])]),
            ),
        ] {
            assert_eq!(LogFilter::parse(text), Ok(filter), "{text}");
        }
    }

    #[test]
    fn any_other_expression_is_told_where_it_stops_being_one() {
        let long = vec!["response.code == 1"; LogFilter::MAX_TESTS + 1].join("||");
        let deep = format!("{}response.code == 1{}", "(".repeat(9), ")".repeat(9));
        for (text, at) in [
            ("", "ends too early"),
            ("response.code >=", "ends too early"),
            ("response.code >= 400 ||", "ends too early"),
            ("response.code >= 400 && request.path == '/'", "request.path"),
            ("response.code >= 4x", "\"x\""),
            ("response.code < 0", "\"0\""),
            ("response.code == 70000", "70000"),
            ("(response.code == 1", "ends too early"),
            ("!(response.code == 1)", "\"!("),
            (&long, "response.code == 1"),
            (&deep, "((("),
        ] {
            let error = LogFilter::parse(text).unwrap_err().to_string();
            assert!(error.contains(at), "{text}: {error}");
        }
    }

    #[test]
    fn a_call_is_written_that_passes() {
        let half = LogFilter::Share(Fraction::percent(50));
        let filter = LogFilter::Each([status(AtLeast, 500), half].into());
        assert!(filter.draws() && !status(Equal, 1).draws());
        assert!(filter.passes(500, 0) && !filter.passes(499, 0) && !filter.passes(500, u64::MAX));
        assert!(LogFilter::All.passes(0, u64::MAX));
        assert!(status(Different, 200).passes(204, 0) && !status(Different, 200).passes(200, 0));
        assert_eq!(LogFilter::any_of(vec![]), None);
        assert_eq!(LogFilter::any_of(vec![filter.clone()]), Some(filter.clone()));
        assert_eq!(LogFilter::any_of(vec![filter, LogFilter::All]), Some(LogFilter::All));
    }
}
