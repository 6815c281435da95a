//! What a run of the tests said: how each ended, and the figures that it printed.
//!
//! libtest's own words are read (`test a::b ... ok`), and lines that begin with a fault's id. A run is text, so one of another day or
//! another machine can be read as well.

use std::collections::BTreeMap;

use crate::source::leading_id;

/// The most figures of one fault that are kept: a flood of lines is no figure.
const MAX_FIGURES: usize = 8;
/// The longest that a figure may be.
const MAX_FIGURE: usize = 240;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
}

/// What is read of a run, line by line.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    /// By the test's own name. Of two tests of one name, both have to pass.
    outcomes: BTreeMap<String, Outcome>,
    figures: BTreeMap<String, Vec<String>>,
}

impl Transcript {
    /// Takes a line; whether a test ended with it.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        let line = line.trim();
        if let Some((path, outcome)) = ended(line) {
            let name = path.rsplit("::").next().unwrap_or(path).to_owned();
            let all = self.outcomes.entry(name).or_insert(outcome);
            if outcome == Outcome::Failed {
                *all = outcome;
            }
            return true;
        }
        let figure = leading_id(line).filter(|(_, rest)| rest.starts_with([':', ' ']));
        if let Some((id, rest)) = figure {
            let figures = self.figures.entry(id).or_default();
            let figure: String = rest.trim_start_matches([':', ' ']).chars().take(MAX_FIGURE).collect();
            if figures.len() < MAX_FIGURES && !figure.is_empty() && !figures.contains(&figure) {
                figures.push(figure);
            }
        }
        false
    }

    /// How a test ended; `None`: it was not run.
    pub(crate) fn outcome(&self, test: &str) -> Option<Outcome> {
        self.outcomes.get(test).copied()
    }

    /// What the tests of a fault printed.
    pub(crate) fn figures(&self, id: &str) -> &[String] {
        self.figures.get(id).map_or(&[], Vec::as_slice)
    }

    /// How many tests ended, of any name.
    pub(crate) fn ended(&self) -> usize {
        self.outcomes.len()
    }
}

/// `test PATH ... ok`.
fn ended(line: &str) -> Option<(&str, Outcome)> {
    let (path, end) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let path = path.split(" - ").next().unwrap_or(path);
    match end.split_whitespace().next()? {
        "ok" => Some((path, Outcome::Passed)),
        "FAILED" => Some((path, Outcome::Failed)),
        _ => None,
    }
}
