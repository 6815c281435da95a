//! Faults, tests and a run put together, and told: as a document, as JSON.

use std::fmt::Write as _;

use crate::source::{Asked, GROUPS, Test};
use crate::transcript::{Outcome, Transcript};

/// How wide a bar of the summary is.
const BAR: usize = 20;

/// A fault and what is known of it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) asked: Asked,
    pub(crate) tests: Vec<(Test, Option<Outcome>)>,
    pub(crate) figures: Vec<String>,
}

/// What can be said of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Passed,
    Failed,
    /// Some of its tests were not run.
    NotRun,
    NotTested,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotRun => "not run yet",
            Self::NotTested => "not tested",
        }
    }
}

impl Row {
    pub(crate) fn new(asked: Asked, tests: Vec<Test>, run: &Transcript) -> Self {
        Self {
            figures: run.figures(asked.id).to_vec(),
            tests: tests
                .into_iter()
                .map(|test| {
                    let outcome = run.outcome(&test.name);
                    (test, outcome)
                })
                .collect(),
            asked,
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        let has = |wanted| self.tests.iter().any(|(_, outcome)| *outcome == wanted);
        match () {
            () if self.tests.is_empty() => Standing::NotTested,
            () if has(Some(Outcome::Failed)) => Standing::Failed,
            () if has(None) => Standing::NotRun,
            () => Standing::Passed,
        }
    }

    fn count(&self, wanted: Outcome) -> usize {
        let of_it = self.tests.iter().filter(|(_, outcome)| *outcome == Some(wanted));
        of_it.count()
    }

    /// How its tests are named.
    pub(crate) fn filter(&self) -> String {
        format!("{}_", self.asked.id.to_ascii_lowercase().replace('-', "_"))
    }

    fn result(&self) -> String {
        let (tests, passed) = (self.tests.len(), self.count(Outcome::Passed));
        match self.standing() {
            Standing::NotTested => "not tested".to_owned(),
            Standing::NotRun if passed == 0 => format!("not run yet, {tests}"),
            standing => format!("{}, {passed} of {tests}", standing.word()),
        }
    }

    fn group(&self) -> &str {
        self.asked.id.split('-').next().unwrap_or_default()
    }
}

fn count(rows: &[&Row], wanted: Standing) -> usize {
    rows.iter().filter(|row| row.standing() == wanted).count()
}

/// The document. `about` says what was run.
pub(crate) fn document(rows: &[Row], about: &str) -> String {
    let all: Vec<&Row> = rows.iter().collect();
    let tests: usize = rows.iter().map(|row| row.tests.len()).sum();
    let mut text = String::from(
        "# Reliability\n\n\
         What was done to the mesh on purpose, and what came of it. Written by `cargo run -p tests --bin reliability`, never by hand: it finds \
         the tests by their names, runs them or reads what a run said, and puts both together.\n\n\
         A row says what is wanted of a fault (\"passes when\") and how its tests ended. That they passed says that what they look at held; \
         how much of what is wanted that is, is in the tests, and where they print figures, in those. Nothing stands here as passed that was \
         not run.\n\n",
    );
    let of = |standing| count(&all, standing);
    let _ = write!(
        text,
        "**{} faults, {tests} tests: {} passed, {} failed, {} not run yet, {} not tested.** {about}\n\n```text\n",
        rows.len(),
        of(Standing::Passed),
        of(Standing::Failed),
        of(Standing::NotRun),
        of(Standing::NotTested),
    );
    for (group, name) in GROUPS {
        let own: Vec<&Row> = rows.iter().filter(|row| row.group() == group).collect();
        let passed = count(&own, Standing::Passed);
        let full = (passed * BAR).checked_div(own.len()).unwrap_or_default();
        let bar = "#".repeat(full) + &".".repeat(BAR - full);
        let _ = writeln!(text, "{name:<26} {bar} {passed:>2} of {:>2}", own.len());
    }
    text += "```\n\nOne fault again: `cargo run -p tests --bin reliability -- --only hs_1`, or its tests alone: `cargo test --workspace hs_1_`.\n";
    for (group, name) in GROUPS {
        let _ = write!(text, "\n## {name} ({group})\n\n{HEAD}");
        for row in rows.iter().filter(|row| row.group() == group) {
            line(&mut text, row);
        }
    }
    text += "\n## Not tested, or less than asked, because\n\nNo real network loses, delays or reorders anything here: that is made on pipes in memory \
             under a paused clock, and between sockets of loopback.\n\n";
    for row in rows {
        let why = match (row.standing(), row.asked.without) {
            (Standing::NotTested, "") => "nobody says why, which is a gap",
            (_, "") => continue,
            (_, why) => why,
        };
        let _ = writeln!(text, "- **{}**: {why}.", row.asked.id);
    }
    text += "\n## Where the tests are\n\n";
    for row in rows.iter().filter(|row| !row.tests.is_empty()) {
        let mut paths: Vec<&str> = row.tests.iter().map(|(test, _)| test.path.as_str()).collect();
        paths.sort_unstable();
        paths.dedup();
        let _ = writeln!(
            text,
            "- {}: `cargo test --workspace {}`, in {}",
            row.asked.id,
            row.filter(),
            paths.join(", ")
        );
    }
    text
}

const HEAD: &str = "| Id | Fault | Anchor | Passes when | Last result | Figures |\n|---|---|---|---|---|---|\n";

fn line(text: &mut String, row: &Row) {
    let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
    let figures: Vec<String> = row.figures.iter().map(|figure| cell(figure)).collect();
    let _ = writeln!(
        text,
        "| {} | {} | {} | {} | {} | {} |",
        row.asked.id,
        cell(row.asked.scenario),
        cell(row.asked.anchor),
        cell(row.asked.passes),
        row.result(),
        figures.join("<br>")
    );
}

/// One row for a terminal.
pub(crate) fn told(row: &Row) -> String {
    let mut text = format!(
        "{} {}: {}\n  passes when {}\n",
        row.asked.id,
        row.result(),
        row.asked.scenario,
        row.asked.passes
    );
    for (test, outcome) in &row.tests {
        let word = outcome.map_or("not run", |outcome| match outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
        });
        let _ = writeln!(text, "  {word:<8} {} ({})", test.name, test.path);
    }
    for figure in &row.figures {
        let _ = writeln!(text, "  {figure}");
    }
    text
}

/// All of it as one line.
pub(crate) fn json(rows: &[Row]) -> String {
    let all: Vec<&Row> = rows.iter().collect();
    let mut text = format!(
        r#"{{"faults":{},"passed":{},"failed":{},"not_run":{},"not_tested":{},"rows":["#,
        rows.len(),
        count(&all, Standing::Passed),
        count(&all, Standing::Failed),
        count(&all, Standing::NotRun),
        count(&all, Standing::NotTested)
    );
    for (index, row) in rows.iter().enumerate() {
        let figures: Vec<String> = row.figures.iter().map(|figure| quoted(figure)).collect();
        let _ = write!(
            text,
            r#"{}{{"id":"{}","result":"{}","tests":{},"passed":{},"figures":[{}]}}"#,
            if index == 0 { "" } else { "," },
            row.asked.id,
            row.standing().word(),
            row.tests.len(),
            row.count(Outcome::Passed),
            figures.join(",")
        );
    }
    text + "]}"
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
