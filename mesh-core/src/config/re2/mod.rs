//! Regular expressions as RE2 reads them, told to the `regex` crate.
//!
//! Envoy, gRPC's C-core and Istio compile with RE2, so that is the language of every configuration. The `regex` crate descends from it
//! and differs in little, which is the danger: of what only one of them takes, one bad pattern refuses a whole route configuration,
//! and of what both take and read differently (`[a[b]]`, `[a&&b]`, `\<`) a route matches something else, unseen. So a pattern is read
//! here by RE2's rules (`Like Perl`, its default flags) and written anew in what both agree on. What RE2 refuses is refused too: a
//! control plane that served it would have its other clients refuse the update, or die of it.
//!
//! One file, since it is one grammar: what a construct may be followed by is decided where it is read.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// The most that repetitions may multiply to, one inside of another (RE2 `kMaxRepeat`).
const MAX_REPEAT: u32 = 1000;
/// How deep groups may stand in one another (RE2 `stack_depth`; the `regex` crate has 250).
const MAX_DEPTH: usize = 200;
/// General categories of Unicode, by the names that RE2 knows.
const CATEGORIES: &[&str] = &[
    "Any", "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl",
    "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
];
/// Classes by POSIX names, as in `[[:alpha:]]`.
const POSIX: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// What the pattern is to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Bytes of any kind.
    Bytes,
    /// Text, which no match may cut within a character.
    Text,
}

/// `source` in the syntax of the `regex` crate.
///
/// # Errors
///
/// What RE2 would say to it, where it refuses it.
pub(super) fn translated(source: &str, over: Over) -> Result<String, String> {
    let mut reader = Reader {
        rest: source.chars().peekable(),
        over,
        out: String::with_capacity(source.len() + 8),
        outer: Vec::new(),
        group: Group::default(),
        names: Vec::new(),
    };
    reader.read()?;
    Ok(reader.out)
}

/// What is known of the group that is being read.
#[derive(Default)]
struct Group {
    /// To what repetitions multiply in it, at most; 0 counts as 1.
    repeats: u32,
    last: Last,
}

/// What a repetition would repeat.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Last {
    /// Nothing: the pattern, the group or the alternative begins here.
    #[default]
    Nothing,
    /// Something in which repetitions multiply to as much.
    Operand(u32),
    /// What is repeated already.
    Repeated,
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    over: Over,
    out: String,
    /// The groups around the one that is being read.
    outer: Vec<Group>,
    group: Group,
    names: Vec<String>,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), String> {
        while let Some(next) = self.rest.next() {
            match next {
                '(' => self.open()?,
                ')' => self.close()?,
                '|' => {
                    self.out.push('|');
                    self.group.last = Last::Nothing;
                }
                '*' | '+' | '?' => self.repeat(&next.to_string(), 1)?,
                '{' => match self.counted() {
                    Some((least, most)) => self.repeat_counted(least, most)?,
                    None => self.literal('{'),
                },
                '[' => {
                    self.class()?;
                    self.operand(1);
                }
                '.' | '^' | '$' => {
                    self.out.push(next);
                    self.operand(1);
                }
                '\\' => self.escape()?,
                other => self.literal(other),
            }
        }
        if self.outer.is_empty() {
            Ok(())
        } else {
            Err("missing )".to_owned())
        }
    }

    fn operand(&mut self, repeats: u32) {
        self.group.repeats = self.group.repeats.max(repeats);
        self.group.last = Last::Operand(repeats);
    }

    fn literal(&mut self, literal: char) {
        push_literal(&mut self.out, literal);
        self.operand(1);
    }

    /// `(`, and what says of which kind the group is.
    fn open(&mut self) -> Result<(), String> {
        if !self.taken('?') {
            return self.enter("(");
        }
        match self.rest.peek() {
            Some('P') => {
                self.rest.next();
                match self.rest.next() {
                    Some('<') => self.named(),
                    _ => Err("bad named capture group: (?P".to_owned()),
                }
            }
            Some('<') => {
                self.rest.next();
                self.named()
            }
            _ => self.flags(),
        }
    }

    fn enter(&mut self, opening: &str) -> Result<(), String> {
        if self.outer.len() >= MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} groups within one another"));
        }
        self.out.push_str(opening);
        self.outer.push(std::mem::take(&mut self.group));
        Ok(())
    }

    /// Of a named group only the number is ever used.
    fn named(&mut self) -> Result<(), String> {
        let mut name = String::new();
        loop {
            match self.rest.next() {
                Some('>') if !name.is_empty() => break,
                Some(letter) if letter == '_' || letter.is_alphanumeric() => name.push(letter),
                _ => return Err(format!("bad named capture group: (?P<{name}")),
            }
        }
        if self.names.contains(&name) {
            return Err(format!("duplicate capture group name: {name}"));
        }
        self.names.push(name);
        self.enter("(")
    }

    fn flags(&mut self) -> Result<(), String> {
        let mut flags = String::new();
        loop {
            let Some(next) = self.rest.next() else {
                return Err(format!("missing ): (?{flags}"));
            };
            match next {
                'i' | 'm' | 's' | 'U' => flags.push(next),
                '-' if !flags.contains('-') => flags.push('-'),
                ':' | ')' if !flags.ends_with('-') => {
                    if next == ':' {
                        return self.enter(&format!("(?{flags}:"));
                    }
                    if !flags.is_empty() {
                        write!(self.out, "(?{flags})").expect("a string takes everything");
                        // RE2 would have `a(?i)*` repeat the `a`, which the other cannot say and nobody means.
                        self.group.last = Last::Nothing;
                    }
                    return Ok(());
                }
                _ => return Err(format!("invalid perl operator: (?{flags}{next}")),
            }
        }
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(outer) = self.outer.pop() else {
            return Err("unexpected )".to_owned());
        };
        self.out.push(')');
        let inner = std::mem::replace(&mut self.group, outer);
        self.operand(inner.repeats.max(1));
        Ok(())
    }

    /// What follows `{`, where it is a repetition: else the brace stands for itself.
    fn counted(&mut self) -> Option<(u32, Option<u32>)> {
        let mut ahead = self.rest.clone();
        let least = number(&mut ahead)?;
        let most = match ahead.next()? {
            '}' => Some(least),
            ',' if ahead.next_if_eq(&'}').is_some() => None,
            ',' => {
                let most = number(&mut ahead)?;
                ahead.next_if_eq(&'}')?;
                Some(most)
            }
            _ => return None,
        };
        self.rest = ahead;
        Some((least, most))
    }

    fn repeat_counted(&mut self, least: u32, most: Option<u32>) -> Result<(), String> {
        let (text, times) = match most {
            Some(most) if most == least => (format!("{{{least}}}"), least),
            Some(most) => (format!("{{{least},{most}}}"), most),
            None => (format!("{{{least},}}"), least),
        };
        if times > MAX_REPEAT || times < least {
            return Err(format!("invalid repetition size: {text}"));
        }
        self.repeat(&text, times.max(1))
    }

    /// A repetition of what stands before it, so many times at most.
    fn repeat(&mut self, operator: &str, times: u32) -> Result<(), String> {
        let repeats = match self.group.last {
            Last::Operand(repeats) => repeats * times,
            Last::Nothing => return Err(format!("missing argument to repetition operator: {operator}")),
            Last::Repeated => return Err(format!("bad repetition operator: {operator} after another")),
        };
        if repeats > MAX_REPEAT {
            return Err(format!(
                "invalid repetition size: {operator} of what is repeated itself"
            ));
        }
        self.out.push_str(operator);
        if self.taken('?') {
            self.out.push('?');
        }
        self.operand(repeats);
        self.group.last = Last::Repeated;
        Ok(())
    }

    /// What follows a backslash, outside of a class.
    fn escape(&mut self) -> Result<(), String> {
        let Some(next) = self.rest.peek().copied() else {
            return Err("trailing \\".to_owned());
        };
        let meant = match (next, self.over) {
            ('A', _) => r"\A",
            ('z', _) => r"\z",
            ('b', _) => r"(?-u:\b)",
            ('B', Over::Bytes) => r"(?-u:\B)",
            ('B', Over::Text) => r"\B",
            ('C', Over::Bytes) => "(?s-u:.)",
            ('C', Over::Text) => return Err(r"\C could cut a character".to_owned()),
            ('p' | 'P', _) => {
                self.unicode()?;
                self.operand(1);
                return Ok(());
            }
            ('Q', _) => {
                self.rest.next();
                self.quoted();
                return Ok(());
            }
            (letter, _) => match perl(letter) {
                Some(class) => class,
                None => {
                    let literal = self.escaped()?;
                    self.literal(literal);
                    return Ok(());
                }
            },
        };
        self.rest.next();
        self.out.push_str(meant);
        self.operand(1);
        Ok(())
    }

    /// What stands between `\Q` and `\E`, or the end.
    fn quoted(&mut self) {
        while let Some(next) = self.rest.next() {
            if next == '\\' && self.taken('E') {
                return;
            }
            self.literal(next);
        }
    }

    /// One character, by what follows its backslash.
    fn escaped(&mut self) -> Result<char, String> {
        let bad = |text: &str| format!("invalid escape sequence: \\{text}");
        let next = self.rest.next().ok_or_else(|| "trailing \\".to_owned())?;
        let code = match next {
            'a' => 0x07,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            // A digit other than 0 that stands alone would be a reference to a group.
            '1'..='7' if !matches!(self.rest.peek(), Some('0'..='7')) => return Err(bad(&next.to_string())),
            '0'..='7' => {
                let mut code = next.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    match self.rest.peek().and_then(|digit| digit.to_digit(8)) {
                        Some(digit) => code = code * 8 + digit,
                        None => break,
                    }
                    self.rest.next();
                }
                code
            }
            'x' => self.hexadecimal().ok_or_else(|| bad("x"))?,
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => return Ok(other),
            other => return Err(bad(&other.to_string())),
        };
        char::from_u32(code).ok_or_else(|| bad("x"))
    }

    /// What follows `\x`: two digits, or any number of them in braces.
    fn hexadecimal(&mut self) -> Option<u32> {
        let digit = |next: Option<char>| next.and_then(|next| next.to_digit(16));
        if !self.taken('{') {
            return Some(digit(self.rest.next())? * 16 + digit(self.rest.next())?);
        }
        let mut code = digit(self.rest.next())?;
        while !self.taken('}') {
            code = code.checked_mul(16)?.checked_add(digit(self.rest.next())?)?;
        }
        Some(code)
    }

    /// `\p` or `\P`, and the name of the category or script.
    fn unicode(&mut self) -> Result<(), String> {
        let mut negated = self.rest.next() == Some('P');
        let mut name = String::new();
        if self.taken('{') {
            loop {
                match self.rest.next() {
                    Some('}') => break,
                    Some(letter) => name.push(letter),
                    None => return Err(format!("invalid character class range: \\p{{{name}")),
                }
            }
        } else {
            name.extend(self.rest.next());
        }
        if let Some(rest) = name.strip_prefix('^') {
            negated = !negated;
            name = rest.to_owned();
        }
        let letter = if negated { 'P' } else { 'p' };
        if CATEGORIES.contains(&&*name) {
            write!(self.out, "\\{letter}{{{name}}}").expect("a string takes everything");
        } else if !name.is_empty() && name.chars().all(|letter| letter == '_' || letter.is_ascii_alphabetic()) {
            write!(self.out, "\\{letter}{{Script={name}}}").expect("a string takes everything");
        } else {
            return Err(format!("invalid character class range: \\p{{{name}}}"));
        }
        Ok(())
    }

    /// What follows `[`.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.taken('^') {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let Some(next) = self.rest.peek().copied() else {
                return Err("missing ]".to_owned());
            };
            if next == ']' && !is_first {
                self.rest.next();
                self.out.push(']');
                return Ok(());
            }
            is_first = false;
            if next == '[' && self.posix()? {
                continue;
            }
            if next == '\\' {
                let mut ahead = self.rest.clone();
                ahead.next();
                match ahead.peek().copied() {
                    Some('p' | 'P') => {
                        self.rest = ahead;
                        self.unicode()?;
                        continue;
                    }
                    Some(letter) if perl(letter).is_some() => {
                        ahead.next();
                        self.rest = ahead;
                        self.out.push_str(perl(letter).unwrap_or_default());
                        continue;
                    }
                    _ => {}
                }
            }
            self.range()?;
        }
    }

    /// `[:name:]`, where it is that.
    fn posix(&mut self) -> Result<bool, String> {
        let mut ahead = self.rest.clone();
        ahead.next();
        if ahead.next() != Some(':') {
            return Ok(false);
        }
        let mut name = String::new();
        loop {
            match ahead.next() {
                Some(':') if ahead.peek() == Some(&']') => break,
                Some(letter) => name.push(letter),
                None => return Ok(false),
            }
        }
        ahead.next();
        if !POSIX.contains(&name.strip_prefix('^').unwrap_or(&name)) {
            return Err(format!("invalid character class range: [:{name}:]"));
        }
        self.rest = ahead;
        write!(self.out, "[:{name}:]").expect("a string takes everything");
        Ok(true)
    }

    /// One character of a class, or two and what is between.
    fn range(&mut self) -> Result<(), String> {
        let first = self.member()?;
        let mut ahead = self.rest.clone();
        let is_range = ahead.next() == Some('-') && ahead.peek().is_some_and(|next| *next != ']');
        let last = if is_range {
            self.rest = ahead;
            self.member()?
        } else {
            first
        };
        if last < first {
            return Err(format!("invalid character class range: {first}-{last}"));
        }
        push_literal(&mut self.out, first);
        if is_range {
            self.out.push('-');
            push_literal(&mut self.out, last);
        }
        Ok(())
    }

    fn member(&mut self) -> Result<char, String> {
        match self.rest.next() {
            Some('\\') => self.escaped(),
            Some(other) => Ok(other),
            None => Err("missing ]".to_owned()),
        }
    }

    fn taken(&mut self, wanted: char) -> bool {
        self.rest.next_if_eq(&wanted).is_some()
    }
}

/// A decimal number as RE2 counts with: without leading zeros. One beyond all bounds is still one.
fn number(rest: &mut Peekable<Chars<'_>>) -> Option<u32> {
    let first = rest.next()?.to_digit(10)?;
    let mut number = first;
    while let Some(digit) = rest.peek().and_then(|next| next.to_digit(10)) {
        if first == 0 {
            return None;
        }
        number = number.saturating_mul(10).saturating_add(digit);
        rest.next();
    }
    Some(number)
}

/// Perl's classes: ASCII in RE2, and all of Unicode in the `regex` crate, where they would match more than was meant and take a
/// thousand times the space.
fn perl(letter: char) -> Option<&'static str> {
    Some(match letter {
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        _ => return None,
    })
}

/// A character that stands for itself, in a class or out of it.
fn push_literal(out: &mut String, literal: char) {
    if literal.is_ascii() && !literal.is_ascii_alphanumeric() {
        write!(out, "\\x{:02x}", u32::from(literal)).expect("a string takes everything");
    } else {
        out.push(literal);
    }
}
