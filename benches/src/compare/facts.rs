//! The machine and the versions, as the system and the tools tell them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Failure;
use crate::results::About;

/// The crates whose versions matter to the figures.
const CRATES: [&str; 6] = ["tonic", "hyper", "h2", "rustls", "aws-lc-rs", "tokio"];

/// All of it that is known before the first turn.
pub(crate) fn about(root: &Path) -> Result<About, Failure> {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut commit = said("git", &["rev-parse", "--short=12", "HEAD"], root);
    if !said("git", &["status", "--porcelain", "--untracked-files=no"], root).is_empty() {
        commit.push_str(" with changes");
    }
    Ok(About {
        when: said("date", &["-u", "+%F %H:%M UTC"], root),
        commit,
        build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        cores: std::thread::available_parallelism()?.get(),
        processor: model
            .map_or("", |line| line.trim_start_matches([' ', '\t', ':']))
            .to_owned(),
        kernel: kernel.trim().to_owned(),
        rustc: said("rustc", &["--version"], root),
        versions: locked(include_str!("../../../Cargo.lock"), &CRATES),
        ..About::default()
    })
}

/// The versions that a lock file has of these crates.
pub(crate) fn locked(lock: &str, crates: &[&str]) -> BTreeMap<String, String> {
    let packages = lock.split("[[package]]").filter_map(|package| {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim_matches([' ', '=', '"']).to_owned())
        };
        Some((value("name")?, value("version")?))
    });
    packages.filter(|(name, _)| crates.contains(&name.as_str())).collect()
}

fn said(program: &str, arguments: &[&str], root: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(root).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
