//! What is changed, as `diff -u` shows it.
//!
//! Lines are compared in order and not searched for: a shift changes single lines and adds some, so two texts fall together again right
//! after each change.

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// One line of either text, or both.
#[derive(Clone, Copy)]
enum Line<'t> {
    Both(&'t str),
    Old(&'t str),
    New(&'t str),
}

/// The difference of two texts, as a patch; empty when there is none.
pub fn unified(file: &str, before: &str, after: &str) -> String {
    let lines = compare(before, after);
    let changed: Vec<usize> = (0..lines.len())
        .filter(|index| !matches!(lines[*index], Line::Both(_)))
        .collect();
    let mut out = String::new();
    if changed.is_empty() {
        return out;
    }
    out.push_str(&format!("--- {file}\n+++ {file}\n"));
    let mut rest = &changed[..];
    while let [first, ..] = rest {
        let near = |pair: &[usize]| pair[1] - pair[0] <= 2 * CONTEXT;
        let length = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        let begin = first.saturating_sub(CONTEXT);
        let end = (rest[length - 1] + CONTEXT + 1).min(lines.len());
        hunk(&lines, begin, end, &mut out);
        rest = &rest[length..];
    }
    out
}

fn hunk(lines: &[Line<'_>], begin: usize, end: usize, out: &mut String) {
    let old = |lines: &[Line<'_>]| lines.iter().filter(|line| !matches!(line, Line::New(_))).count();
    let new = |lines: &[Line<'_>]| lines.iter().filter(|line| !matches!(line, Line::Old(_))).count();
    let (before, within) = (&lines[..begin], &lines[begin..end]);
    let (old_start, new_start) = (old(before) + 1, new(before) + 1);
    let (old, new) = (old(within), new(within));
    out.push_str(&format!("@@ -{old_start},{old} +{new_start},{new} @@\n"));
    for line in within {
        let (sign, text) = match line {
            Line::Both(text) => (' ', text),
            Line::Old(text) => ('-', text),
            Line::New(text) => ('+', text),
        };
        out.push_str(&format!("{sign}{}\n", text.trim_end_matches('\r')));
    }
}

fn compare<'t>(before: &'t str, after: &'t str) -> Vec<Line<'t>> {
    let (mut old, mut new) = (before.lines().peekable(), after.lines().peekable());
    let mut lines = Vec::new();
    loop {
        match (old.next(), new.next()) {
            (Some(one), Some(other)) if one == other => lines.push(Line::Both(one)),
            (Some(one), Some(other)) => {
                lines.push(Line::Old(one));
                lines.push(Line::New(other));
                // Lines that were added here: until the next old one comes again.
                if let Some(next) = old.peek() {
                    let ahead = new.clone().position(|line| line == *next).unwrap_or(0);
                    lines.extend(new.by_ref().take(ahead).map(Line::New));
                }
            }
            (Some(one), None) => lines.push(Line::Old(one)),
            (None, Some(other)) => lines.push(Line::New(other)),
            (None, None) => return lines,
        }
    }
}
