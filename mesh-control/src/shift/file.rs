//! The folder's files, and one of them replaced.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::source::texts;

/// The texts of a folder's files, by name.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// What each file holds.
    pub files: BTreeMap<String, String>,
}

impl Folder {
    /// Reads the files that the control plane would read.
    ///
    /// # Errors
    ///
    /// When the folder or one of its files cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            files: texts(path)?,
        })
    }

    /// Where a file of it is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }
}

/// Replaces what a file holds, whole or not at all and with the mode that it has; a link stays one. A file that holds something else than
/// `before` by now is somebody else's change, and stays.
///
/// # Errors
///
/// When the file was changed meanwhile, or the file system refuses.
pub fn replace(path: &Path, before: &str, after: &str) -> io::Result<()> {
    // What a link leads to is replaced, not the link.
    let path = path.canonicalize()?;
    let mode = fs::metadata(&path)?.permissions();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Hidden: whoever watches the folder reads no such file.
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).open(&temporary);
    let written = file.and_then(|mut file| {
        file.write_all(after.as_bytes())?;
        file.set_permissions(mode)?;
        file.sync_all()?;
        match fs::read_to_string(&path)? == before {
            true => fs::rename(&temporary, &path),
            false => Err(io::Error::other(
                "was changed meanwhile by somebody else: look at it and try again",
            )),
        }
    });
    if written.is_err()
        && !written
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
    {
        drop(fs::remove_file(&temporary));
    }
    written
}
