//! The state directory: whoever can read its files is the mesh's CA, or whoever a join token is for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Check, Verdict};

const NAME: &str = "state";

/// The most files of a state directory that are looked at; one has a handful.
const MAX_ENTRIES: usize = 10_000;

/// A file or a directory, and who may do what with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// Its permissions, as `chmod` has them.
    pub mode: u32,
    /// Who owns it.
    pub owner: u32,
}

/// Looks at a state directory: itself first, then what is in it. `None`: there is none yet.
///
/// # Errors
///
/// When it cannot be looked at.
#[cfg(unix)]
pub fn look(state: &Path) -> io::Result<Option<Vec<Entry>>> {
    use std::os::unix::fs::MetadataExt as _;
    let entry = |path: PathBuf| {
        let metadata = fs::symlink_metadata(&path)?;
        io::Result::Ok(Entry {
            path,
            mode: metadata.mode() & 0o7777,
            owner: metadata.uid(),
        })
    };
    let own = match entry(state.to_owned()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        own => own?,
    };
    let mut all = vec![own];
    for found in fs::read_dir(state)?.take(MAX_ENTRIES) {
        all.push(entry(found?.path())?);
    }
    all[1..].sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Some(all))
}

/// Nobody else is told apart here.
///
/// # Errors
///
/// Never.
#[cfg(not(unix))]
pub fn look(_: &Path) -> io::Result<Option<Vec<Entry>>> {
    Ok(None)
}

/// Judges [`look`]: nobody but the owner may read or write any of it, and it is all of one owner.
pub fn state_directory(state: &Path, seen: &io::Result<Option<Vec<Entry>>>) -> Vec<Check> {
    let entries = match seen {
        Err(error) => {
            let message = format!("{} cannot be looked at: {error}", state.display());
            return vec![Check::new(NAME, Verdict::Error, message)];
        }
        Ok(None) => {
            let message = format!("{} is not there yet: the first `meshctl run` makes it", state.display());
            return vec![Check::new(NAME, Verdict::Ok, message)];
        }
        Ok(Some(entries)) => entries,
    };
    let owner = entries.first().map(|entry| entry.owner);
    let bad = entries.iter().filter_map(|entry| {
        let path = entry.path.display();
        if entry.mode & 0o077 != 0 {
            let message = format!("{path} has mode {:04o}: others may use it; `chmod go= {path}`, and replace the root if they could before", entry.mode);
            return Some(Check::new(NAME, Verdict::Error, message));
        }
        (Some(entry.owner) != owner)
            .then(|| Check::new(NAME, Verdict::Error, format!("{path} is not of whom its directory is of")))
    });
    let bad: Vec<Check> = bad.collect();
    match bad.is_empty() {
        true => vec![Check::new(
            NAME,
            Verdict::Ok,
            format!("{} is its owner's alone", state.display()),
        )],
        false => bad,
    }
}
