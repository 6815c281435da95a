//! A watched folder of YAML and JSON files.
//!
//! The folder is the truth, events only say when to look: after one, everything is read again and compared. So a lost or
//! doubled event, an editor that renames, a `..data` link that Kubernetes swaps, all come to the same. Files are read in the
//! order of their names, which is the age of documents for Istio's "the oldest wins".
//!
//! A file may be read while it is written. Reading waits a little for writers to finish (`events.rs`); what is torn all the
//! same does not parse, so the last good configuration stays, and the event of the next write has the folder read again. An
//! empty file is torn too: that is how most programs begin to save, and no rule is written by an empty file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::events::{Events, RESCAN};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::istio::Documents;

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
            Err(error) => {
                return Self(vec![(
                    folder.display().to_string(),
                    Err(format!("cannot be read: {error}")),
                )]);
            }
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
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
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
    if bytes.is_empty() {
        return Err(io::Error::other("empty: half written, or to be removed"));
    }
    if bytes.len() > room {
        return Err(io::Error::other(format!(
            "the files of the folder have more than {MAX_TOTAL_BYTES} bytes together"
        )));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
}

/// Calls `changed` with each new state of the folder, the first one at once, until dropped.
///
/// Reading and `changed` run on a thread that may block. A look that has begun when this is dropped is finished.
pub(crate) async fn watch(folder: PathBuf, changed: impl Fn(Reading) + Send + Sync + 'static) {
    let changed = Arc::new(changed);
    let events = Arc::new(Events::default());
    let mut watcher = start(&folder, &events);
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
            watcher = start(&folder, &events);
            events.ring();
        }
        told = events.settle().await;
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

/// Tells `events` what changes in the folder, until the watcher is dropped.
fn start(folder: &Path, events: &Arc<Events>) -> Option<RecommendedWatcher> {
    let events = Arc::clone(events);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) => events.take(event),
        // It may stand for lost events.
        Err(_) => events.ring(),
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
