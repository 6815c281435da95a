//! `docs/meshctl.md`: its table of codes is the program's own, and what it shows of the program is what the program prints.
//!
//! The examples of `docs/migration.md` likewise.
//!
//! A block that begins with ` ```console ` is run: each line after `$ ` is a command in a folder with a fresh copy of the examples and a machine
//! that is written down, where files that one command changes are there for the next. What follows it is what it prints, on standard output and then `# exit code N` where
//! it is not 0. A `console` block that begins with a comment, `# not run:`, says why it is not.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use mesh_control::diagnostic::Code;
use tempfile::TempDir;

use crate::{golden, here, meshctl_in, stdout};

const TABLE: (&str, &str) = ("<!-- codes -->\n", "<!-- /codes -->\n");

#[test]
fn the_documentation_shows_what_the_program_prints() {
    let path = here().join("../docs/meshctl.md");
    let text = fs::read_to_string(&path).unwrap();
    golden(&path, &with_table(&with_output(&text, machine().path())));
}

#[test]
fn the_migration_guide_shows_what_the_program_prints() {
    let path = here().join("../docs/migration.md");
    let text = fs::read_to_string(&path).unwrap();
    golden(&path, &with_output(&text, machine().path()));
}

/// A folder of a user's, with what the commands name.
fn machine() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&here().join("../examples"), &folder.path().join("examples"));
    copy(&here().join("testdata/machine"), &folder.path().join("machine"));
    copy(&here().join("testdata/codes"), &folder.path().join("mistakes"));
    copy(
        &here().join("testdata/certificates"),
        &folder.path().join("certificates"),
    );
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn with_table(text: &str) -> String {
    let (before, rest) = text.split_once(TABLE.0).unwrap();
    let (_, after) = rest.split_once(TABLE.1).unwrap();
    let mut table = String::from("| code | when | what to do |\n|---|---|---|\n");
    for code in Code::ALL {
        writeln!(table, "| {code} | {} | {} |", code.about(), code.hint()).unwrap();
    }
    format!("{before}{}{table}{}{after}", TABLE.0, TABLE.1)
}

fn with_output(text: &str, folder: &Path) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    let mut ran = 0;
    while let Some(line) = lines.next() {
        writeln!(out, "{line}").unwrap();
        if line != "```console" || lines.peek().is_some_and(|first| first.starts_with("# not run:")) {
            continue;
        }
        for line in lines.by_ref().take_while(|line| *line != "```") {
            let Some(command) = line.strip_prefix("$ ") else {
                continue;
            };
            let arguments = words(command);
            let (program, arguments) = arguments.split_first().unwrap();
            assert_eq!(program, "meshctl", "{command}");
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = meshctl_in(folder, &arguments);
            write!(out, "{line}\n{}", stdout(&output)).unwrap();
            match output.status.code() {
                Some(0) => {}
                code => writeln!(out, "# exit code {}", code.unwrap()).unwrap(),
            }
            ran += 1;
        }
        out.push_str("```\n");
    }
    assert!(ran > 0, "no example was found");
    out
}

/// A command's words; quotes hold together what is between them.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for letter in command.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            letter => words.last_mut().unwrap().push(letter),
        }
    }
    words
}
