//! Prometheus' text format 0.0.4, written: families one after the other, each with its help, its type and its samples.
//!
//! A family's samples must stand together, so who writes goes by family and not by what is measured. Escaping is done here and
//! nowhere else: a peer names itself, and a line break in a name would otherwise be a sample of its choice.

use std::fmt::{self, Display, Write};
use std::time::Instant;

/// Something that writes families of its own into a scrape: those of one crate's clusters, say.
pub trait Expose: Send + Sync {
    /// Writes whole families. `now` is the moment of the scrape.
    fn expose(&self, now: Instant, out: &mut Exposition);
}

/// A scrape being written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: &'static str,
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only grows.
    Counter,
    /// Comes and goes.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

/// The labels of a sample, as they stand in its braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(String);

impl Exposition {
    /// The content type of what is written.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family; the samples that follow are its.
    pub fn family(&mut self, name: &'static str, kind: FamilyKind, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let kind = match kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
            FamilyKind::Histogram => "histogram",
        };
        self.family = name;
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A sample of the family that was begun last.
    pub fn sample(&mut self, labels: &Labels, value: impl Display) {
        self.part("", labels, value);
    }

    /// A sample whose labels are `(name, value)`.
    pub fn labelled(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.sample(&Labels::of(labels), value);
    }

    /// A bucket of a histogram, whose labels are not all there is.
    pub(super) fn bucket(&mut self, labels: &Labels, bound: &str, value: u64) {
        let (name, labels) = (self.family, &labels.0);
        let comma = if labels.is_empty() { "" } else { "," };
        self.write(format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {value}\n"));
    }

    /// A sample of a histogram: `suffix` is `_sum` or `_count`.
    pub(super) fn part(&mut self, suffix: &str, labels: &Labels, value: impl Display) {
        let name = self.family;
        match &*labels.0 {
            "" => self.write(format_args!("{name}{suffix} {value}\n")),
            labels => self.write(format_args!("{name}{suffix}{{{labels}}} {value}\n")),
        }
    }

    /// What was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What was written.
    pub fn into_text(self) -> String {
        self.text
    }

    fn write(&mut self, what: fmt::Arguments<'_>) {
        self.text
            .write_fmt(what)
            .expect("a string takes whatever is written to it");
    }
}

impl Labels {
    /// Of `(name, value)`.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let mut labels = Self::default();
        for (name, value) in pairs {
            labels.add(name, value);
        }
        labels
    }

    /// Adds one, behind those there are. `name` must be one: `[a-zA-Z_][a-zA-Z0-9_]*`.
    pub fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        self.0.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let mut out = Exposition::default();
        out.family("a_total", FamilyKind::Counter, "Help\\\nmore");
        out.labelled(&[("x", "\"} 1\nb\\"), ("y", "")], 3);
        out.sample(&Labels::default(), 1.5);
        assert_eq!(
            out.text(),
            "# HELP a_total Help\\\\\\nmore\n# TYPE a_total counter\na_total{x=\"\\\"} 1\\nb\\\\\",y=\"\"} 3\na_total 1.5\n"
        );
    }
}
