//! A watched folder of YAML and JSON files.
//!
//! The folder is the truth, events only say when to look: after one, everything is read again and compared. So a lost or
//! doubled event, an editor that renames, a `..data` link that Kubernetes swaps, all come to the same. Files are read in the
//! order of their names, which is the age of documents for Istio's "the oldest wins".
//!
//! A file may be read while it is written. That is not told apart from a mistake and need not be: what does not parse is not
//! published, the last good configuration stays, and the event of the next write has the folder read again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{self, Instant};

use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::istio::Documents;

/// A save is several events; reading begins when there was none for this long.
const QUIET: Duration = Duration::from_millis(5);
/// But never later than this after the first: a file that is written to all the time must not hold up the others.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// The folder is also read when nothing was heard: events get lost, and some file systems have none.
const RESCAN: Duration = Duration::from_secs(2);
/// The most files that are read.
pub const MAX_FILES: usize = 10_000;
/// The most bytes that are read of all files together.
const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// What one look at the folder found.
#[derive(Debug, Default)]
pub struct Reading {
    /// The documents; with holes, if a diagnostic is an error.
    pub documents: Documents,
    /// What is wrong with single documents.
    pub diagnostics: Vec<Diagnostic>,
}

/// The files of a folder as texts, to be compared with those of the next look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Files(Vec<(String, Result<String, String>)>);

impl Reading {
    /// Reads a folder. It never fails: a folder that cannot be read is a reading with an error.
    pub fn of(folder: &Path) -> Self {
        Self::parse(&Files::of(folder))
    }

    fn parse(files: &Files) -> Self {
        let mut reading = Self::default();
        for (name, text) in &files.0 {
            match text {
                Ok(text) => reading.diagnostics.extend(reading.documents.read(name, text)),
                Err(why) => {
                    let finding = Diagnostic::of_file(name, Severity::Error, Code::Unreadable, why.clone());
                    reading.diagnostics.push(finding);
                }
            }
        }
        reading
    }
}

impl Files {
    fn of(folder: &Path) -> Self {
        let paths = match list(folder) {
            Ok(paths) => paths,
            Err(error) => return Self(vec![(folder.display().to_string(), Err(format!("cannot be read: {error}")))]),
        };
        let mut files = Vec::new();
        let mut total = 0;
        for path in paths {
            let text = read(&path, MAX_TOTAL_BYTES - total);
            match text {
                // Removed between the list and the read: as if it had not been there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => {
                    total += text.as_ref().map_or(0, String::len);
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    files.push((name, text.map_err(|error| error.to_string())));
                }
            }
        }
        Self(files)
    }
}

/// The files to read, by name. Hidden ones are left out: editors and Kubernetes keep their own things there.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if !known || hidden || path.is_dir() {
            continue;
        }
        paths.push(path);
        if paths.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, room: usize) -> io::Result<String> {
    let most = Documents::MAX_FILE_BYTES;
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    if bytes.len() > room {
        return Err(io::Error::other(format!("the files of the folder have more than {MAX_TOTAL_BYTES} bytes together")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
}

/// Calls `changed` with each new state of the folder, the first one at once, until dropped.
///
/// Reading and `changed` run on a thread that may block. A look that has begun when this is dropped is finished.
pub(crate) async fn watch(folder: PathBuf, changed: impl Fn(Reading) + Send + Sync + 'static) {
    let changed = Arc::new(changed);
    let bell = Arc::new(Notify::new());
    let mut watcher = start(&folder, &bell);
    let mut known = None;
    let mut told = true;
    loop {
        let (folder_again, changed_again) = (folder.clone(), Arc::clone(&changed));
        let look = move || look(&folder_again, known, &*changed_again);
        let (files, is_new) = match tokio::task::spawn_blocking(look).await {
            Ok(seen) => seen,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => return,
        };
        known = Some(files);
        if is_new && !told {
            // No event told of it: what is watched is not what is read any more. The folder itself was replaced.
            drop(watcher);
            watcher = start(&folder, &bell);
            bell.notify_one();
        }
        told = settle(&bell).await;
    }
}

fn look(folder: &Path, known: Option<Files>, changed: &dyn Fn(Reading)) -> (Files, bool) {
    let files = Files::of(folder);
    let is_new = known.is_none_or(|known| known != files);
    if is_new {
        changed(Reading::parse(&files));
    }
    (files, is_new)
}

/// Waits for an event and the quiet after it, or for the next look without one. Whether there was an event.
async fn settle(bell: &Notify) -> bool {
    if time::timeout(RESCAN, bell.notified()).await.is_err() {
        return false;
    }
    let latest = Instant::now() + LONGEST_WAIT;
    loop {
        let quiet = latest.min(Instant::now() + QUIET);
        if time::timeout_at(quiet, bell.notified()).await.is_err() || Instant::now() >= latest {
            return true;
        }
    }
}

/// Rings `bell` when something in the folder changes, until the watcher is dropped.
fn start(folder: &Path, bell: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let ring = Arc::clone(bell);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may stand for lost events.
        if event.map_or(true, |event| is_change(event.kind)) {
            ring.notify_one();
        }
    });
    let started = watcher.and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match started {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            let every = RESCAN.as_secs();
            tracing::warn!(folder = %folder.display(), %error, "cannot be watched; it is read every {every} s instead");
            None
        }
    }
}

/// Reading is an event too, and our own reading must not wake us.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
