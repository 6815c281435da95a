//! What the CA has done, for whoever has to find out later: a line for each certificate in `audit.log` of the state directory.
//!
//! The log is opened for appending alone, belongs to its owner, and is never cut or turned here. A certificate is written down
//! before it is handed out: one that cannot be is not given. It is not forced to the disk each time, so a machine that
//! crashes may lose the last lines. Everything is told as a `tracing` event of target `audit` too, refusals included; those are not in
//! the file, which a stranger could fill with them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::CaError;
use super::error::Kind;

/// The file in a state directory.
const FILE: &str = "audit.log";

/// One certificate.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    /// When, in seconds since 1970.
    pub(super) time: u64,
    /// The address that asked.
    pub(super) caller: String,
    /// What proved who it is.
    pub(super) method: &'a str,
    /// Whom the certificate names.
    pub(super) id: &'a str,
    pub(super) serial: &'a str,
    pub(super) key_sha256: &'a str,
    pub(super) not_after: u64,
}

/// The log, if there is a state directory.
#[derive(Debug, Default)]
pub(super) struct AuditLog(Option<(Mutex<File>, PathBuf)>);

impl AuditLog {
    /// Opens the log of a state directory, or begins one.
    pub(super) fn open(state: &Path) -> Result<Self, CaError> {
        let path = state.join(FILE);
        // A link to elsewhere, or a file that others may read, is nobody's audit log.
        if let Ok(metadata) = std::fs::symlink_metadata(&path)
            && (!metadata.is_file() || super::files::is_exposed(&metadata))
        {
            return Err(Kind::Exposed(path).into());
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|error| CaError::io("open", &path, error))?;
        Ok(Self(Some((Mutex::new(file), path))))
    }

    /// A log in a file that was opened elsewhere.
    #[cfg(test)]
    pub(super) fn over(file: File) -> Self {
        Self(Some((Mutex::new(file), "a test's".into())))
    }

    /// Writes a record down.
    pub(super) fn write(&self, record: &Record<'_>) -> Result<(), CaError> {
        let Some((file, path)) = &self.0 else { return Ok(()) };
        let mut line = serde_json::to_vec(record).expect("a record of texts and numbers is JSON");
        line.push(b'\n');
        // One write, which appending keeps whole.
        let written = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
        written.map_err(|error| CaError::io("write", path, error))
    }
}
