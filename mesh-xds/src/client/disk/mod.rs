//! The last good resources on disk, for a process that starts while its control plane is down.
//!
//! To the rest of the client the copy is a source like a control plane, the one of lowest priority (see [`fallback`]): it
//! answers what it is asked at once, what it says is decoded, judged and assembled like everything else, and the first control
//! plane that has told everything takes over, tree by whole tree, so that no tree is ever made of both. Where that one does not
//! have a resource that is wanted, has trouble with it, or says a bad one, the copy's value is served on, as any last good one is
//! (gRFC A88), and the resource's status says so; with `fail_on_data_errors` it is not. From then on the copy is not looked at again
//! in this process, and the next copy does not hold what the control plane does not have.
//!
//! A version of the copy is never said to a control plane: the streams of this process begin with nothing, and are told
//! everything anew. It would be allowed in the incremental variant for what is held byte for byte, and would save some bytes
//! once, at the price of believing that two control planes mean the same by a version.
//!
//! | module | what |
//! |---|---|
//! | `kept` | what is in a copy, and what goes into the next one |
//! | `format` | a copy as bytes |
//! | `file` | the file: whose it is, and how it is replaced |
//! | `keeper` | the task that reads it once and keeps it up to date |
//!
//! [`fallback`]: super::fallback

mod file;
mod format;
mod keeper;
mod kept;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(super) use file::CopyFile;
pub(super) use keeper::{Holds, Keeper};
pub(crate) use kept::{Kept, Key, moment};

use crate::bootstrap::Bootstrap;

#[cfg(feature = "fuzzing")]
pub(crate) use format::{body_of, read, seal, write};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use kept::{Entry, Good};

/// How the copy on disk stands (`x_mesh.cache_directory` of the bootstrap).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiskCopy {
    /// The file.
    pub path: Arc<Path>,
    /// Set while what is wanted comes from it: no control plane has told everything since the start. After that
    /// [`is_from_disk`](super::ResourceStatus::is_from_disk) tells of single values that are still its.
    pub serving: Option<Serving>,
    /// Whether the file holds what is known. It is written at most every two seconds.
    pub is_current: bool,
    /// When this process wrote it last, by the link's wall clock.
    pub written: Option<SystemTime>,
    /// Why the file that was there at the start was not used, if it was not.
    pub refused: Option<Arc<str>>,
    /// Why it could not be written the last time, if it could not. That disturbs nothing else.
    pub failure: Option<Arc<str>>,
}

/// How old what is served from disk is. By the link's wall clock; `None` where that was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Serving {
    /// When that began.
    pub since: Option<SystemTime>,
    /// When the copy was written. It was the newest then, and until the process that wrote it ended.
    pub written: Option<SystemTime>,
}

impl Serving {
    /// How long ago the copy was written.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.written?).ok()
    }
}

impl DiskCopy {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            serving: None,
            is_current: false,
            written: None,
            refused: None,
            failure: None,
        }
    }
}

/// The file that the bootstrap asks for.
pub(super) fn of(bootstrap: &Bootstrap) -> Option<CopyFile> {
    let directory = bootstrap.cache_directory()?;
    Some(CopyFile::new(
        directory,
        file::Whose::of(bootstrap),
        file::MAX_COPY_BYTES,
    ))
}
