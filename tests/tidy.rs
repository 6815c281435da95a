//! What the house promises about its own text: the invariants of ARCHITECTURE.md that a machine can see, and nothing about
//! taste.
//!
//! Cargo is asked for the manifests (`cargo metadata --no-deps`, which touches no network); files are read as they lie. A
//! check that needs to understand Rust would be clippy's; these need only names and places.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[allow(dead_code, reason = "the tool that writes the document reads more of it")]
#[path = "reliability/source.rs"]
mod faults;

/// Who may depend on whom among our own crates (invariant 3). Whoever is not named here may use everything.
const MAY_DEPEND_ON: [(&str, &[&str]); 5] = [
    ("mesh-core", &[]),
    ("mesh-xds", &["mesh-core"]),
    ("mesh-client", &["mesh-core"]),
    ("mesh-server", &["mesh-core"]),
    ("mesh-control", &["mesh-core", "mesh-xds"]),
];
/// What a crate that decides and never does has no use for (invariant 1).
const NOT_IN_CORE: [&str; 6] = ["tokio", "tonic", "prost", "hyper", "h2", "envoy-types"];
/// A name, and where alone it may stand (invariants 2, 4 and 5).
const ONLY_IN: [(&str, &[&str]); 4] = [
    // A peer of another make speaks by its own definitions.
    (
        "envoy_types",
        &[
            "mesh-xds/src/proto.rs",
            "tests/e2e/ext_authz.rs",
            "tests/e2e/discovered.rs",
        ],
    ),
    ("ArcSwap", &["mesh-core/src/live.rs"]),
    // Manifests of Kubernetes are read by the test that holds them against the programs.
    (
        "serde_saphyr",
        &["mesh-control/src/istio/", "mesh-control/tests/meshctl/kubernetes.rs"],
    ),
    // What signs certificates. Tests and measurements have throw-away authorities of their own.
    (
        "signed_by",
        &[
            "mesh-control/src/ca/",
            "mesh-core/src/testing/",
            "mesh-xds/src/identity/tests/",
            "mesh-xds/tests/",
            "benches/src/pki.rs",
        ],
    ),
];
/// Words that this file must name to forbid them.
const THIS_FILE: &str = "tests/tidy.rs";
/// The registry, as Cargo.lock writes it; a mirror of somebody's machine would be another.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn crates_depend_only_downwards() {
    for package in packages() {
        let name = text(&package["name"]);
        let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(crate_name, _)| *crate_name == name) else {
            continue;
        };
        let ours: BTreeSet<&str> = dependencies(&package)
            .filter(|dependency| dependency["path"].is_string())
            .map(|dependency| text(&dependency["name"]))
            // A dev-dependency on itself only turns a feature on for its tests.
            .filter(|dependency| *dependency != name)
            .collect();
        let forbidden: Vec<_> = ours.iter().filter(|dependency| !allowed.contains(dependency)).collect();
        assert!(forbidden.is_empty(), "{name} must not depend on {forbidden:?}");
    }
}

#[test]
fn core_knows_no_runtime_and_no_protocol() {
    let core = package("mesh-core");
    let names = dependencies(&core).filter(|dependency| dependency["kind"].is_null());
    for name in names.map(|dependency| text(&dependency["name"])) {
        let family = |forbidden: &&str| name == *forbidden || name.starts_with(&format!("{forbidden}-"));
        assert!(!NOT_IN_CORE.iter().any(family), "mesh-core depends on {name}");
    }
    let bans = read(&root().join("mesh-core/clippy.toml"));
    for call in ["Instant::now", "SystemTime::now", "env::var", "fs::read", "rand::rng"] {
        assert!(bans.contains(call), "mesh-core/clippy.toml no longer bans {call}");
    }
}

#[test]
fn test_helpers_stay_out_of_production() {
    for package in packages() {
        let name = text(&package["name"]);
        for dependency in dependencies(&package).filter(|dependency| dependency["kind"].is_null()) {
            let features = dependency["features"].as_array().into_iter().flatten().map(text);
            let testing = features.filter(|feature| *feature == "testing").count() > 0;
            assert!(
                !testing || name == "tests",
                "{name} turns `testing` on outside its tests"
            );
        }
    }
}

/// The doors of mesh-xds for fuzzers and for benches are no part of its API.
#[test]
fn doors_for_tools_stay_shut_in_production() {
    const DOORS: [(&str, &str); 2] = [("fuzzing", "fuzz"), ("measuring", "benches")];
    for package in packages() {
        let name = text(&package["name"]);
        let defaults = package["features"]["default"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text);
        let open: Vec<&str> = dependencies(&package)
            .filter(|dependency| dependency["kind"].is_null())
            .flat_map(|dependency| dependency["features"].as_array().into_iter().flatten().map(text))
            .chain(defaults)
            .collect();
        for (door, only) in DOORS {
            assert!(!open.contains(&door) || name == only, "{name} turns `{door}` on");
        }
    }
}

#[test]
fn names_stand_only_where_they_may() {
    for (path, source) in sources().into_iter().filter(|(path, _)| path != THIS_FILE) {
        for (name, places) in ONLY_IN {
            let allowed = places.iter().any(|place| path.starts_with(place));
            assert!(
                allowed || !has_word(&source, name),
                "{path} names {name}, which belongs to {places:?}"
            );
        }
    }
}

/// The key of the CA is rcgen's; outside of the CA the control plane does not even know that crate.
#[test]
fn the_control_plane_keeps_keys_in_its_ca() {
    for (path, source) in sources() {
        let outside = path.starts_with("mesh-control/src/") && !path.starts_with("mesh-control/src/ca/");
        for name in ["rcgen", "KeyPair", "PrivateKeyDer"] {
            assert!(!outside || !has_word(&source, name), "{path} names {name}");
        }
    }
}

/// The proto types are a private matter of the modules that read and write the wire.
#[test]
fn generated_types_stay_behind_the_codecs() {
    const READ_OR_WRITE: [&str; 6] = ["decode/", "encode/", "wire/", "server/", "identity/", "node.rs"];
    for (path, source) in sources() {
        let Some(path) = path.strip_prefix("mesh-xds/src/").filter(|path| *path != "proto.rs") else {
            continue;
        };
        let codec = READ_OR_WRITE.iter().any(|place| path.starts_with(place));
        assert!(
            codec || !source.contains("proto::"),
            "mesh-xds/src/{path} names generated types"
        );
    }
}

#[test]
fn every_module_says_what_it_is() {
    for (path, source) in sources() {
        assert!(source.starts_with("//! "), "{path} has no header");
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (path, source) in sources().into_iter().filter(|(path, _)| path != THIS_FILE) {
        for word in ["todo!(", "unimplemented!(", "#[ignore", "FIXME"] {
            assert!(!source.contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn files_are_of_no_particular_machine() {
    const HOMES: [&str; 6] = ["/home/", "/root/", "/work/", "/Users/", "/mnt/", "C:\\"];
    for (path, content) in files().into_iter().filter(|(path, _)| path != THIS_FILE) {
        for home in HOMES {
            let begins_a_path = |at: usize| {
                let before = content[..at].chars().next_back();
                before.is_none_or(|before| !before.is_alphanumeric() && !"._-/}*".contains(before))
            };
            let found = content.match_indices(home).any(|(at, _)| begins_a_path(at));
            assert!(!found, "{path} names a path of a machine: {home}");
        }
    }
    assert!(
        !root().join(".cargo").exists(),
        "a .cargo folder would point builds elsewhere"
    );
}

#[test]
fn every_crate_comes_from_the_public_registry() {
    let lock = read(&root().join("Cargo.lock"));
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = "));
    let others: Vec<_> = sources.filter(|source| source.trim_matches('"') != REGISTRY).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn files_end_with_a_newline() {
    for (path, content) in files() {
        assert!(content.is_empty() || content.ends_with('\n'), "{path}");
    }
}

#[test]
fn all_packages_agree_on_the_toolchain() {
    let said: BTreeSet<String> = packages()
        .iter()
        .map(|package| {
            format!(
                "{} {} {}",
                package["rust_version"], package["edition"], package["license"]
            )
        })
        .collect();
    assert_eq!(said.len(), 1, "{said:?}");
    let version = text(&package("mesh-core")["rust_version"]).to_owned();
    assert!(
        read(&root().join("README.md")).contains(&version),
        "the README names another Rust than {version}"
    );
}

/// A document of limits that says something else than the code is worse than none. Each row of `docs/limits.md` names a constant, its
/// value as it is written, and its file.
#[test]
fn the_limits_that_are_documented_are_those_of_the_code() {
    let document = read(&root().join("docs/limits.md"));
    let rows: Vec<Vec<&str>> = document
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(".rs` |"))
        .map(|line| {
            line.split(" | ")
                .map(|cell| cell.trim_matches(['`', ' ', '|']))
                .collect()
        })
        .collect();
    assert!(rows.len() > 100, "{} rows", rows.len());
    for row in rows {
        let [_, name, value, file, ..] = row[..] else {
            panic!("not a row of limits: {row:?}");
        };
        let source = read(&root().join(file));
        let found = source.lines().any(|line| {
            let line = line.trim_start();
            let rest = line.split_once(&format!("const {name}: ")).map(|(_, rest)| rest);
            rest.is_some_and(|rest| rest.ends_with(&format!(" = {value};")))
        });
        assert!(found, "{file} has no constant {name} of {value}");
    }
}

/// Of each bound of the stream to the control plane, at both of its ends, the document says what counts that it was met, or why nothing
/// does. What is counted is a word of the code.
#[test]
fn every_limit_of_the_stream_says_what_counts_it() {
    let document = read(&root().join("docs/limits.md"));
    let code: String = sources().into_iter().map(|(_, source)| source).collect();
    let mut counted = 0;
    for row in document
        .lines()
        .filter(|row| row.starts_with("| ") && row.contains(".rs` |"))
    {
        let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let of_stream = ["`mesh-xds/", "`mesh-control/src/serve/"].map(|begins| cells[3].starts_with(begins));
        if !of_stream.contains(&true) {
            continue;
        }
        let metric = cells.get(4).copied().unwrap_or_default().trim();
        if let Some(why) = metric.strip_prefix("none: ") {
            assert!(why.len() > 10, "{row}");
            continue;
        }
        assert!(!metric.is_empty(), "no metric, and no reason for that: {row}");
        for one in metric.split(", ") {
            let (event, reason) = one.trim_matches('`').split_once('.').expect(row);
            for word in [event, reason] {
                assert!(
                    code.contains(&format!("\"{word}\"")),
                    "{word} is counted nowhere: {row}"
                );
            }
            counted += 1;
        }
    }
    assert!(counted > 40, "{counted} metrics");
}

/// And the other way round: what is named like a bound has its row. The names are those that the code gives to bounds.
#[test]
fn the_limits_of_the_code_are_documented() {
    let document = read(&root().join("docs/limits.md"));
    let is_bound = |name: &str| {
        let begins = ["MAX_", "BURST"].iter().any(|begin| name.starts_with(begin));
        let ends = ["_TIMEOUT", "_LIMIT", "_PER_SECOND", "_PER_MINUTE", "_APPOINTMENT"];
        begins || name == "PATIENCE" || ends.iter().any(|end| name.ends_with(end))
    };
    let is_measure = |kind: &str| {
        matches!(
            kind,
            "usize" | "u8" | "u16" | "u32" | "u64" | "u128" | "i32" | "i64" | "Duration"
        ) || kind.starts_with("NonZero")
    };
    let mut seen = 0;
    for (path, source) in sources() {
        let is_library = path.starts_with("mesh-") && path.contains("/src/");
        if !is_library || path.contains("/tests/") || path.ends_with("tests.rs") || path.contains("fuzzing") {
            continue;
        }
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in source.lines() {
            let Some((_, rest)) = line.split_once("const ").filter(|(before, _)| !before.contains("//")) else {
                continue;
            };
            let Some((name, (kind, _))) = rest
                .split_once(": ")
                .and_then(|(name, rest)| Some((name, rest.split_once(" = ")?)))
            else {
                continue;
            };
            if !is_bound(name) || !is_measure(kind) {
                continue;
            }
            seen += 1;
            let row = document
                .lines()
                .any(|row| row.contains(&format!("| `{name}` |")) && row.contains(&format!("| `{path}` |")));
            assert!(row, "docs/limits.md has no row for {name} of {path}");
        }
    }
    assert!(seen > 150, "{seen} bounds");
}

/// Code in the README is code that CI compiles: each block stands in an example, but for its indentation.
#[test]
fn the_readme_shows_code_that_is_tested() {
    let examples: BTreeMap<String, String> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("examples/"))
        .map(|(path, source)| (path, unindented(&source)))
        .collect();
    let readme = read(&root().join("README.md"));
    let blocks: Vec<&str> = readme
        .split("```rust\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let found = examples.values().any(|source| source.contains(&unindented(block)));
        assert!(found, "no example has this block of the README:\n{block}");
    }
}

/// Which faults there are is written once, and the document is of the sources that lie here.
#[test]
fn every_fault_has_a_test_of_its_name_and_a_row() {
    let (document, tests) = (read(&root().join("RELIABILITY.md")), faults::tests(&root()));
    let asked = faults::asked();
    for fault in &asked {
        let has = tests.contains_key(fault.id);
        assert!(
            has || !fault.without.is_empty(),
            "{} has neither a test nor a reason",
            fault.id
        );
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| {} |", fault.id)));
        let row = row.unwrap_or_else(|| panic!("{} has no row: write the document anew", fault.id));
        assert!(
            row.contains("| not tested |") != has,
            "{row} is of other sources: write the document anew"
        );
    }
    for (id, tests) in &tests {
        assert!(
            asked.iter().any(|fault| fault.id == id),
            "nobody asks for {id}: {tests:?}"
        );
    }
}

fn unindented(code: &str) -> String {
    let lines = code.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

fn has_word(source: &str, word: &str) -> bool {
    let letter = |letter: char| letter.is_alphanumeric() || letter == '_';
    source.match_indices(word).any(|(at, _)| {
        let (before, after) = (&source[..at], &source[at + word.len()..]);
        !before.ends_with(letter) && !after.starts_with(letter)
    })
}

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the workspace").to_owned()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("not a list of packages: {other}"),
    }
}

fn package(name: &str) -> Value {
    let found = packages().into_iter().find(|package| package["name"] == name);
    found.unwrap_or_else(|| panic!("no package {name}"))
}

fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"].as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file, by its path from the root.
fn sources() -> Vec<(String, String)> {
    files().into_iter().filter(|(path, _)| path.ends_with(".rs")).collect()
}

/// Every text file that is part of the house: all but build output and what begins with a dot, except CI.
fn files() -> Vec<(String, String)> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .expect("a folder of the house can be read")
            .flatten()
        {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let hidden = name.starts_with('.') && name != ".ci" && name != ".gitignore";
            // Inputs of fuzzers are bytes, whatever they look like.
            if hidden || name == "target" || path == root.join("tests/fuzz/corpus") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(content) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(&root).expect("found below the root");
                found.push((relative.to_string_lossy().replace('\\', "/"), content));
            }
        }
    }
    found.sort();
    found
}
