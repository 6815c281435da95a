//! What was asked for, and which tests there are for it.
//!
//! A test belongs to what its name begins with: `cp_14_...` is of `CP-14`. So nobody keeps a list of tests, and none can be forgotten in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The groups, in the order of the document, and what each is about.
pub(crate) const GROUPS: [(&str, &str); 10] = [
    ("HS", "Hot swap"),
    ("CP", "Control plane"),
    ("EP", "Endpoints and connections"),
    ("RS", "Retries"),
    ("DL", "Deadlines"),
    ("OV", "Overload"),
    ("ID", "TLS, identity, rotation"),
    ("AZ", "Authorization"),
    ("FL", "Floods"),
    ("RES", "Resources"),
];

/// A fault, and what is to come of it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) id: &'static str,
    pub(crate) scenario: &'static str,
    /// Who else promises it, or whom its absence has hurt.
    pub(crate) anchor: &'static str,
    pub(crate) passes: &'static str,
    /// Why it has no test, or what of it a suite leaves out; empty where nothing is.
    pub(crate) without: &'static str,
}

/// All that is asked for, in the order of the document.
///
/// # Panics
///
/// When `asked.tsv` is not what its first line says.
pub(crate) fn asked() -> Vec<Asked> {
    let lines = include_str!("asked.tsv").lines().skip(1);
    lines
        .map(|line| {
            let mut cells = line.split('\t');
            let mut next = || cells.next().unwrap_or_default();
            let asked = Asked {
                id: next(),
                scenario: next(),
                anchor: next(),
                passes: next(),
                without: next(),
            };
            assert!(is_id(asked.id) && !asked.passes.is_empty(), "asked.tsv: {line}");
            asked
        })
        .collect()
}

fn is_id(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(group, number)| GROUPS.iter().any(|(known, _)| *known == group) && number.parse::<u32>().is_ok())
}

/// The fault that a text begins with, as a test's name (`cp_14_...`) or as a figure (`CP-14: ...`), and the rest.
pub(crate) fn leading_id(text: &str) -> Option<(String, &str)> {
    let end = text.find(['_', '-'])?;
    let group = text[..end].to_ascii_uppercase();
    let rest = &text[end + 1..];
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let id = format!("{group}-{}", &rest[..digits]);
    is_id(&id).then(|| (id, &rest[digits..]))
}

/// A test in the sources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) package: String,
    pub(crate) path: String,
}

/// The tests of each fault in the sources below `root`.
pub(crate) fn tests(root: &Path) -> BTreeMap<String, Vec<Test>> {
    let mut found: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs")
                && let (Ok(text), Ok(relative)) = (fs::read_to_string(&path), path.strip_prefix(root))
            {
                collect(&text, &relative.to_string_lossy().replace('\\', "/"), &mut found);
            }
        }
    }
    found.values_mut().for_each(|tests| tests.sort());
    found
}

fn collect(text: &str, path: &str, found: &mut BTreeMap<String, Vec<Test>>) {
    for line in text.lines().map(str::trim_start) {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let name = line.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next());
        if let Some((id, rest)) = name.and_then(leading_id)
            && rest.starts_with('_')
        {
            found.entry(id).or_default().push(Test {
                name: name.unwrap_or_default().to_owned(),
                package: path.split('/').next().unwrap_or_default().to_owned(),
                path: path.to_owned(),
            });
        }
    }
}
