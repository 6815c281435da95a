//! The last good keys on disk, so that a control plane that restarts while an issuer is away refuses nobody whom it let in before.
//!
//! A file for each source in the state directory, with when its keys were fetched. They are good for [`MAX_AGE`] from then: an issuer takes a
//! key back by telling it no more, and who was not asked for long cannot know. What is younger than now, older than that, another
//! source's, or readable by others is nobody's keys; so is what does not parse. They are public keys and no secret, but whoever
//! could write them would be believed: so the files are their owner's alone, as the CA's are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use mesh_core::config::Jwks;
use rustls::time_provider::TimeProvider;
use serde::{Deserialize, Serialize};

use super::JwksSource;
use crate::ca::{CaError, make_directory, read_file, write_file};

/// How long keys that were fetched are believed by a control plane that starts later, and cannot fetch them again.
pub(super) const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Where the files are in a state directory.
const FOLDER: &str = "jwks";
/// The most bytes of a file: keys as text in a text, and a source.
const MAX_FILE_BYTES: u64 = 2 * Jwks::MAX_BYTES as u64 + 16 * 1024;

#[derive(Serialize, Deserialize)]
struct Record {
    source: String,
    /// In seconds since 1970.
    fetched: u64,
    keys: String,
}

/// Where they are kept.
#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
    clock: Arc<dyn TimeProvider>,
}

impl Records {
    pub(crate) fn open(state: &Path, clock: Arc<dyn TimeProvider>) -> Result<Self, CaError> {
        let folder = state.join(FOLDER);
        make_directory(&folder)?;
        Ok(Self { folder, clock })
    }

    /// The keys of a source, and how long they are good for.
    pub(super) fn load(&self, source: &JwksSource) -> Option<(Jwks, Duration)> {
        let path = self.path(source);
        let text = match read_file(&path, MAX_FILE_BYTES) {
            Ok(text) => text?,
            Err(error) => {
                tracing::warn!(%source, error = &error as &dyn std::error::Error, "keys that were kept are not used");
                return None;
            }
        };
        let record: Record = serde_json::from_str(&text).ok()?;
        let age = self.now()?.checked_sub(record.fetched)?;
        let left = MAX_AGE
            .checked_sub(Duration::from_secs(age))
            .filter(|left| !left.is_zero())?;
        let keys = Jwks::parse(&record.keys).ok()?;
        (record.source == source.to_string()).then_some((keys, left))
    }

    /// Keeps what was fetched just now. Where it cannot be kept, a restart will not know it, and nothing else.
    pub(super) fn save(&self, source: &JwksSource, keys: &Jwks) {
        let Some(fetched) = self.now() else { return };
        let record = Record {
            source: source.to_string(),
            fetched,
            keys: keys.to_json(),
        };
        let json = serde_json::to_vec(&record).expect("a record of texts and a number is JSON");
        if let Err(error) = write_file(&self.path(source), &json) {
            tracing::warn!(%source, error = &error as &dyn std::error::Error, "keys cannot be kept for a restart");
        }
    }

    /// Removes what is of none of `sources`: the folder is no larger than a reading's sources.
    pub(super) fn keep_only<'s>(&self, sources: impl Iterator<Item = &'s JwksSource>) {
        let names: Vec<PathBuf> = sources.map(|source| self.path(source)).collect();
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten().filter(|entry| !names.contains(&entry.path())) {
            drop(std::fs::remove_file(entry.path()));
        }
    }

    fn path(&self, source: &JwksSource) -> PathBuf {
        let hash = digest::digest(&digest::SHA256, source.to_string().as_bytes());
        let name: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name)
    }

    fn now(&self) -> Option<u64> {
        self.clock.current_time().map(|now| now.as_secs())
    }
}
