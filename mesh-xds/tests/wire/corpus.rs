//! Every file of the fuzz corpora, and every seed, through the target it was found with: what fuzzing found once is a test of
//! stable Rust for ever.
//!
//! `WRITE_CORPUS=1 cargo test -p mesh-xds --test wire corpus` writes the seeds to `tests/fuzz/corpus`. What a fuzzer found goes
//! there beside them, minimised, as `tests/fuzz/README.md` tells.

use std::env;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use mesh_xds::fuzzing::{TARGETS, Target, seeds};

/// The most bytes of the whole corpus: a checkout is not an archive.
const MAX_CORPUS_BYTES: usize = 300 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus")
}

/// Runs one input and says which it was, if it breaks a promise.
fn replay(name: &str, target: Target, what: &str, bytes: &[u8]) {
    if let Err(broken) = panic::catch_unwind(|| target(bytes)) {
        eprintln!("target {name}, input {what}");
        panic::resume_unwind(broken);
    }
}

#[test]
fn every_seed_keeps_the_promises() {
    for (name, label, bytes) in seeds() {
        let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
        replay(name, *target, label, &bytes);
        if env::var_os("WRITE_CORPUS").is_some() {
            let folder = corpus().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("seed-{label}")), bytes).unwrap();
        }
    }
}

#[test]
fn every_file_of_the_corpus_keeps_the_promises() {
    let mut total = 0;
    for (name, target) in TARGETS {
        let folder = corpus().join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            (total, count) = (total + bytes.len(), count + 1);
            replay(name, target, &path.display().to_string(), &bytes);
        }
        assert!(count > 0, "{name} has no corpus");
    }
    assert!(total <= MAX_CORPUS_BYTES, "{total} bytes: minimise the corpus");
}
