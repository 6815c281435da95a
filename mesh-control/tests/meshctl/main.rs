//! `meshctl` as its users meet it: the program itself, and every example of its documentation.
//! Run with `UPDATE_GOLDENS=1` to write anew what is expected, and the documentation with it; then read the difference.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod analyze;
mod cert;
mod documentation;
mod explain;
mod kubernetes;
mod status;

use std::path::Path;
use std::process::{Command, Output};

/// The crate's folder.
fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program, in the workspace's folder, as its documentation calls it.
fn meshctl(arguments: &[&str]) -> Output {
    meshctl_in(&here().join(".."), arguments)
}

fn meshctl_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args(arguments).current_dir(folder).env("RUST_LOG", "error");
    command.env_remove("NO_COLOR").output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Whether what is expected is written anew.
fn updates() -> bool {
    std::env::var_os("UPDATE_GOLDENS").is_some()
}

/// Compares with a file, or writes it anew.
fn golden(path: &Path, actual: &str) {
    if updates() {
        std::fs::write(path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} is not what is printed:\n{actual}",
        path.display()
    );
}
