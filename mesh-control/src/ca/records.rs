//! Where the records of join tokens are kept: in memory, or each in a file of the state directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::error::Kind;
use super::{CaError, files};

/// Where the records are in a state directory.
const FOLDER: &str = "tokens";

/// What is kept of a token.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// The SPIFFE id it proves.
    pub(super) identity: String,
    /// SHA-256 of the secret.
    pub(super) secret_sha256: String,
    /// The Unix second it ends.
    pub(super) expires: u64,
    pub(super) reusable: bool,
}

/// The records, by the tokens' public ids.
pub(super) enum Records {
    Memory(Mutex<BTreeMap<String, Record>>),
    Folder(PathBuf),
}

impl Records {
    pub(super) fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    pub(super) fn open(state: &Path) -> Result<Self, CaError> {
        let folder = state.join(FOLDER);
        files::make_directory(&folder)?;
        Ok(Self::Folder(folder))
    }

    pub(super) fn put(&self, id: &str, record: Record) -> Result<(), CaError> {
        match self {
            Self::Memory(records) => {
                records
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(id.to_owned(), record);
                Ok(())
            }
            Self::Folder(folder) => {
                let json = serde_json::to_vec(&record).expect("a record of texts and numbers is JSON");
                files::write(&folder.join(id), &json)
            }
        }
    }

    pub(super) fn get(&self, id: &str) -> Result<Option<Record>, CaError> {
        match self {
            Self::Memory(records) => Ok(records.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()),
            Self::Folder(folder) => {
                let path = folder.join(id);
                let Some(text) = files::read(&path)? else {
                    return Ok(None);
                };
                let why = "is not a token record";
                serde_json::from_str(&text)
                    .map(Some)
                    .map_err(|_| Kind::Malformed { path, why }.into())
            }
        }
    }

    /// Removes a record. Of several that try at once, one is told that it did.
    pub(super) fn remove(&self, id: &str) -> Result<bool, CaError> {
        match self {
            Self::Memory(records) => Ok(records
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(id)
                .is_some()),
            Self::Folder(folder) => {
                let path = folder.join(id);
                match fs::remove_file(&path) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                    Err(error) => Err(CaError::io("remove", &path, error)),
                }
            }
        }
    }

    /// Removes what has expired and counts the rest.
    pub(super) fn sweep(&self, now: u64, is_id: fn(&str) -> bool) -> Result<usize, CaError> {
        let (_, left) = self.part(is_id, |record| now >= record.expires)?;
        Ok(left)
    }

    /// Removes those for which `goes` holds, and counts them.
    pub(super) fn remove_where(
        &self,
        is_id: fn(&str) -> bool,
        goes: impl Fn(&Record) -> bool,
    ) -> Result<usize, CaError> {
        let (gone, _) = self.part(is_id, goes)?;
        Ok(gone)
    }

    /// How many went, and how many are left. One that cannot be read stays.
    fn part(&self, is_id: fn(&str) -> bool, goes: impl Fn(&Record) -> bool) -> Result<(usize, usize), CaError> {
        match self {
            Self::Memory(records) => {
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                let before = records.len();
                records.retain(|_, record| !goes(record));
                Ok((before - records.len(), records.len()))
            }
            Self::Folder(folder) => {
                let entries = fs::read_dir(folder).map_err(|error| CaError::io("read", folder, error))?;
                let (mut gone, mut left) = (0, 0);
                for entry in entries.flatten() {
                    let name = entry.file_name();
                    let Some(id) = name.to_str().filter(|name| is_id(name)) else {
                        continue;
                    };
                    match self.get(id) {
                        Ok(Some(record)) if goes(&record) => gone += usize::from(self.remove(id)?),
                        Ok(None) => {}
                        _ => left += 1,
                    }
                }
                Ok((gone, left))
            }
        }
    }
}
