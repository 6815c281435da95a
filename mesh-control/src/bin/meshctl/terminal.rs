//! Colour, where somebody sees it: on a terminal, and not where `NO_COLOR` is set (no-color.org).

use std::env;
use std::io::{self, IsTerminal};

use clap::ValueEnum;
use mesh_control::diagnostic::{Diagnostic, Severity};
use mesh_control::precheck::{Check, Verdict};

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    Always,
    Never,
}

/// Colours, or does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const CYAN: u8 = 36;

impl Paint {
    /// For standard output.
    pub(crate) fn new(colour: Colour) -> Self {
        Self(match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        })
    }

    /// A finding, its severity in colour.
    pub(crate) fn severity(self, finding: &Diagnostic) -> String {
        let (text, word) = (finding.to_string(), format!("{}[{}]", finding.severity, finding.code));
        let colour = match finding.severity {
            Severity::Error => RED,
            Severity::Warning => YELLOW,
            Severity::Info => CYAN,
        };
        text.replacen(&word, &self.in_colour(&word, colour), 1)
    }

    /// A line of `precheck`, its verdict in colour.
    pub(crate) fn check(self, check: &Check) -> String {
        let colour = match check.verdict {
            Verdict::Ok => GREEN,
            Verdict::Info => CYAN,
            Verdict::Warning => YELLOW,
            Verdict::Error => RED,
        };
        let verdict = self.in_colour(&format!("{:8}", check.verdict), colour);
        format!("{verdict}{:15}{}", check.name, check.message)
    }

    fn in_colour(self, text: &str, colour: u8) -> String {
        match self.0 {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}
