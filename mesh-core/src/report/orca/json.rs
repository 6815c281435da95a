//! The form `JSON`: an `OrcaLoadReport` as protobuf writes it in JSON, read where it lies.
//!
//! By hand, as the message is: a parser that makes a tree would allocate at the end of every call. A name with an escape in it
//! cannot be handed over as it lies and is passed over; no name of a figure needs one. Fields are known by both their names
//! (`cpuUtilization`, `cpu_utilization`), and a number may be in quotes, as protobuf has it.

use super::{Metric, tell};

/// How deep values may lie in one another. A report needs two; what is passed over may be of a later version.
const MAX_DEPTH: usize = 16;

/// Reads a whole document; `None`, and nothing handed over, when it is malformed.
pub(super) fn read(text: &[u8], mut each: impl FnMut(Metric<'_>, f64)) -> Option<()> {
    let text = std::str::from_utf8(text).ok()?;
    // First whether it is well-formed, then what it says.
    report(text, &mut |_, _| {})?;
    report(text, &mut each)
}

fn report(text: &str, each: &mut impl FnMut(Metric<'_>, f64)) -> Option<()> {
    let mut cursor = Cursor(text);
    cursor.members(|cursor, name| {
        let metric = match name {
            "cpu_utilization" | "cpuUtilization" => Metric::Cpu,
            "mem_utilization" | "memUtilization" => Metric::Memory,
            "application_utilization" | "applicationUtilization" => Metric::Application,
            "rps_fractional" | "rpsFractional" => Metric::Rate,
            "eps" => Metric::Errors,
            "named_metrics" | "namedMetrics" => {
                return cursor.members(|cursor, name| {
                    let value = cursor.number()?;
                    if !name.contains('\\') {
                        tell(Metric::Named(name), value, each);
                    }
                    Some(())
                });
            }
            _ => return cursor.skip(MAX_DEPTH),
        };
        tell(metric, cursor.number()?, each);
        Some(())
    })?;
    cursor.rest().is_empty().then_some(())
}

/// What is left of the text.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    /// Past the white space.
    fn rest(&mut self) -> &'a str {
        self.0 = self.0.trim_start_matches([' ', '\t', '\r', '\n']);
        self.0
    }

    fn take(&mut self, token: &str) -> Option<()> {
        self.0 = self.rest().strip_prefix(token)?;
        Some(())
    }

    /// An object, whose values `each` takes, by their names as they are written.
    fn members(&mut self, mut each: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take("{")?;
        if self.take("}").is_some() {
            return Some(());
        }
        loop {
            let name = self.string()?;
            self.take(":")?;
            each(self, name)?;
            if self.take("}").is_some() {
                return Some(());
            }
            self.take(",")?;
        }
    }

    /// A string as it is written, between its quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.take("\"")?;
        let mut escaped = false;
        for (at, byte) in self.0.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    let (string, rest) = self.0.split_at(at);
                    self.0 = &rest[1..];
                    return Some(string);
                }
                // Control characters are written escaped.
                0..0x20 => return None,
                _ => {}
            }
        }
        None
    }

    /// A number, in quotes or not. `NaN` and `Infinity` are numbers in quotes; `tell` passes them over.
    fn number(&mut self) -> Option<f64> {
        if self.rest().starts_with('"') {
            return self.string()?.parse().ok();
        }
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let end = self.0.find(|c| !is_part(c)).unwrap_or(self.0.len());
        let (number, rest) = self.0.split_at(end);
        self.0 = rest;
        number.parse().ok()
    }

    /// Any value, not deeper than that.
    fn skip(&mut self, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.rest().bytes().next()? {
            b'{' => self.members(|cursor, _| cursor.skip(depth)),
            b'[' => self.elements(depth),
            b'"' => self.string().map(drop),
            b't' => self.take("true"),
            b'f' => self.take("false"),
            b'n' => self.take("null"),
            _ => self.number().map(drop),
        }
    }

    fn elements(&mut self, depth: usize) -> Option<()> {
        self.take("[")?;
        if self.take("]").is_some() {
            return Some(());
        }
        loop {
            self.skip(depth)?;
            if self.take("]").is_some() {
                return Some(());
            }
            self.take(",")?;
        }
    }
}
