//! Whose certificates the CA believes no more, and since when: what `meshctl deny` writes down.
//!
//! A certificate proves its owner to the CA, with any new key, from anywhere, as often as it likes. So a copy of a key and its
//! certificate would be renewed for ever, under keys of the thief's own. There is no list of serials that would help: who
//! renewed once has others. What helps is a moment: of an identity that is denied, no certificate from before renews, whoever
//! holds it, and no join token from before works. Its owner joins again with a token made afterwards; the thief's last
//! certificate ends with its lifetime.
//!
//! As with tokens, the folder is the only truth and nothing is cached: it is read at each renewal, and `meshctl` writes it for a
//! control plane that runs. There is a file for each identity, named by its hash, since the text of an id may be long and holds
//! slashes. What cannot be read renews nobody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use mesh_core::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use super::common::hex;
use super::error::Kind;
use super::{CaError, files};

/// Where the records are in a state directory.
const FOLDER: &str = "denied";

#[derive(Serialize, Deserialize)]
struct Record {
    /// Whom, for who looks into the folder.
    identity: String,
    /// The last second whose certificates are not believed, since 1970.
    until: u64,
}

/// Who is denied.
pub(super) enum Denied {
    Memory(Mutex<BTreeMap<SpiffeId, u64>>),
    Folder(PathBuf),
}

impl Denied {
    pub(super) fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    pub(super) fn open(state: &Path) -> Result<Self, CaError> {
        let folder = state.join(FOLDER);
        files::make_directory(&folder)?;
        Ok(Self::Folder(folder))
    }

    /// Believes no certificate of `id` that was issued up to `until`.
    pub(super) fn deny(&self, id: &SpiffeId, until: u64) -> Result<(), CaError> {
        match self {
            Self::Memory(all) => {
                all.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(id.clone(), until);
                Ok(())
            }
            Self::Folder(folder) => {
                let record = Record {
                    identity: id.as_str().to_owned(),
                    until,
                };
                let json = serde_json::to_vec(&record).expect("a record of a text and a number is JSON");
                files::write(&folder.join(name(id)), &json)
            }
        }
    }

    /// Whether a certificate of `id` that was issued then is not believed.
    pub(super) fn is_denied(&self, id: &SpiffeId, issued: u64) -> Result<bool, CaError> {
        let until = match self {
            Self::Memory(all) => all.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied(),
            Self::Folder(folder) => {
                let path = folder.join(name(id));
                let why = "is not a record of who is denied";
                let text = files::read(&path)?;
                let record = text.map(|text| serde_json::from_str::<Record>(&text)).transpose();
                record
                    .map_err(|_| CaError::from(Kind::Malformed { path, why }))?
                    .map(|record| record.until)
            }
        };
        Ok(until.is_some_and(|until| issued <= until))
    }
}

fn name(id: &SpiffeId) -> String {
    hex(digest::digest(&digest::SHA256, id.as_str().as_bytes()).as_ref())
}
