//! A watched folder of YAML and JSON files.
//!
//! The folder is the truth, events only say when to look: after one, everything is read again and compared. So a lost or
//! doubled event, an editor that renames, a `..data` link that Kubernetes swaps, all come to the same. Files are read in the
//! order of their names, which is the age of documents for Istio's "the oldest wins".
//!
//! A file may be read while it is written, and half a file may well parse. What keeps it from being published is not the
//! parser but `belief.rs`: a file that is open for writing keeps its last text until it is closed (where the system tells of
//! closings: Linux), and one that vanished keeps it for a grace. An empty file is an error besides: that is how most programs
//! begin to save, and no rule is written by an empty file. A change that no event told of is believed only when a second look
//! finds the same. What remains: writers of files that lie elsewhere and are linked here are not heard, so replace such files
//! by renaming, as Kubernetes does.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::time::Instant;

use super::belief::Belief;
use super::events::{Events, RESCAN};
use super::files::{self, Sight, Unread};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::istio::Documents;

/// What one look at the folder found.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The documents; with holes, if a diagnostic is an error.
    pub documents: Documents,
    /// What is wrong with single documents.
    pub diagnostics: Vec<Diagnostic>,
}

impl Reading {
    /// Reads a folder. It never fails: a folder that cannot be read is a reading with an error.
    pub fn of(folder: &Path) -> Self {
        Self::parse(folder, &files::see(folder))
    }

    /// Reads folders and single files, in this order, as if all their documents were in one folder. Files are called by the path that
    /// leads to them from where the paths start. A file that is named is read whatever its name ends with.
    pub fn of_paths(paths: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for path in paths {
            if path.is_dir() {
                all.add(path, Some(path), &files::see(path));
            } else {
                let text = files::see_file(path);
                all.add_file(&path.display().to_string(), &text);
            }
        }
        all
    }

    /// Reads texts, in the order of their names.
    pub fn of_texts(files: &BTreeMap<String, String>) -> Self {
        let mut reading = Self::default();
        for (name, text) in files {
            reading.diagnostics.extend(reading.documents.read(name, text));
        }
        reading
    }

    fn parse(folder: &Path, sight: &Sight) -> Self {
        let mut reading = Self::default();
        reading.add(folder, None, sight);
        reading
    }

    fn add_file(&mut self, name: &str, text: &files::Text) {
        let found = match text {
            Ok(text) => self.documents.read(name, text),
            Err(Unread::Because(why)) => vec![Diagnostic::of_file(name, Severity::Error, Code::Unreadable, &**why)],
            Err(Unread::Folder) => {
                let why = "a folder in the folder: what is in it is not read; put its files beside the others";
                vec![Diagnostic::of_file(name, Severity::Warning, Code::UnreadFolder, why)]
            }
            Err(Unread::Name) => {
                let why = "not read: .yaml, .yml and .json are, in small letters";
                vec![Diagnostic::of_file(name, Severity::Warning, Code::UnreadName, why)]
            }
        };
        self.diagnostics.extend(found);
    }

    /// Files are called by their names, or by the path that leads to them from before `root`.
    fn add(&mut self, folder: &Path, root: Option<&Path>, sight: &Sight) {
        match sight {
            Err(why) => {
                let (name, why) = (folder.display().to_string(), &**why);
                let finding = Diagnostic::of_file(&name, Severity::Error, Code::Unreadable, why);
                self.diagnostics.push(finding);
            }
            Ok(files) => {
                for (name, text) in files {
                    let path = root.map_or_else(|| PathBuf::from(name), |root| root.join(name));
                    self.add_file(&path.to_string_lossy(), text);
                }
            }
        }
    }
}

/// Calls `changed` with each new state of the folder, the first one at once, until dropped.
///
/// Reading and `changed` run on a thread that may block. A look that has begun when this is dropped is finished.
pub(crate) async fn watch(folder: PathBuf, changed: impl Fn(Reading) + Send + Sync + 'static) {
    let changed = Arc::new(changed);
    let events = Arc::new(Events::default());
    let mut watcher = start(&folder, &events);
    let mut belief = Belief::default();
    let mut told = true;
    loop {
        let (folder_again, events_again, changed_again) = (folder.clone(), Arc::clone(&events), Arc::clone(&changed));
        let look = move || {
            let unheard = look(&folder_again, &events_again, told, &mut belief, &*changed_again);
            (belief, unheard)
        };
        let unheard;
        (belief, unheard) = match tokio::task::spawn_blocking(look).await {
            Ok(seen) => seen,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => return,
        };
        if unheard {
            // What is watched is not what is read any more: the folder itself was replaced.
            drop(watcher);
            watcher = start(&folder, &events);
            events.ring();
        }
        told = events.settle(belief.next_look()).await;
    }
}

/// One look. Whether there was something new of which no event told: it is not believed yet, look again.
fn look(folder: &Path, events: &Events, told: bool, belief: &mut Belief, changed: &dyn Fn(Reading)) -> bool {
    // Who wrote before and who wrote after: a file that was closed meanwhile may have been read before its end.
    let mut held: HashSet<OsString> = events.writing();
    let sight = files::see(folder);
    held.extend(events.writing());
    if !told && belief.is_news(&sight, &held) {
        belief.note(sight);
        return true;
    }
    if belief.take(sight, &held, Instant::now())
        && let Some(believed) = belief.files()
    {
        changed(Reading::parse(folder, believed));
    }
    false
}

/// Tells `events` what changes in the folder, until the watcher is dropped.
fn start(folder: &Path, events: &Arc<Events>) -> Option<RecommendedWatcher> {
    let events = Arc::clone(events);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) => events.take(&event),
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
