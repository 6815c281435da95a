//! Records by name: in memory, or each in a file of its own in a folder of the state directory.
//!
//! The folder is the only truth and nothing of it is cached: a record is read when it is asked for, so that `meshctl` can write one for a
//! control plane that runs. What cannot be read is an error and never as good as absent.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mesh_core::identity::SpiffeId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::common::sha256_hex;
use super::error::Kind;
use super::{CaError, files};

/// The records.
pub(super) enum Records<R> {
    Memory(Mutex<BTreeMap<String, R>>),
    Folder {
        folder: PathBuf,
        /// What is wrong with a file that is none of them.
        unlike: &'static str,
    },
}

/// What the record of an identity is called: the text of an id may be long, and holds slashes.
pub(super) fn name_of(id: &SpiffeId) -> String {
    sha256_hex(id.as_str().as_bytes())
}

impl<R: Clone + Serialize + DeserializeOwned> Records<R> {
    pub(super) fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    /// Those in `folder` of a state directory. `unlike` says of a file what it is not: "is not a token record".
    pub(super) fn open(state: &Path, folder: &str, unlike: &'static str) -> Result<Self, CaError> {
        let folder = state.join(folder);
        files::make_directory(&folder)?;
        Ok(Self::Folder { folder, unlike })
    }

    pub(super) fn put(&self, id: &str, record: R) -> Result<(), CaError> {
        match self {
            Self::Memory(records) => {
                records
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(id.to_owned(), record);
                Ok(())
            }
            Self::Folder { folder, .. } => {
                let json = serde_json::to_vec(&record).expect("a record of texts and numbers is JSON");
                files::write(&folder.join(id), &json)
            }
        }
    }

    pub(super) fn get(&self, id: &str) -> Result<Option<R>, CaError> {
        match self {
            Self::Memory(records) => Ok(records.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()),
            Self::Folder { folder, unlike } => {
                let path = folder.join(id);
                let Some(text) = files::read(&path)? else {
                    // A folder that went away says nothing of anybody: whoever was denied would be believed again.
                    fs::metadata(folder).map_err(|error| CaError::io("read", folder, error))?;
                    return Ok(None);
                };
                let record = serde_json::from_str(&text).map(Some);
                record.map_err(|_| Kind::Malformed { path, why: unlike }.into())
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
            Self::Folder { folder, .. } => {
                let path = folder.join(id);
                match fs::remove_file(&path) {
                    Ok(()) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                    Err(error) => Err(CaError::io("remove", &path, error)),
                }
            }
        }
    }

    /// Removes those for which `goes` holds: how many went, and how many are left. One that cannot be read stays.
    pub(super) fn part(&self, is_id: fn(&str) -> bool, goes: impl Fn(&R) -> bool) -> Result<(usize, usize), CaError> {
        match self {
            Self::Memory(records) => {
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                let before = records.len();
                records.retain(|_, record| !goes(record));
                Ok((before - records.len(), records.len()))
            }
            Self::Folder { folder, .. } => {
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
