//! Who was registered, in the state directory: a control plane that starts anew takes nobody out of the mesh whose stream is on its way back.
//!
//! Without it, whoever connects first after a restart would be told of services without endpoints, and calls would fail until the servers'
//! streams are there again. Who was registered is so for the grace from then on, as if all streams had just gone: that is what happened. Clients
//! went on calling them while nobody told them otherwise, so one that ended meanwhile is called no longer by this than it was anyway.

use std::path::{Path, PathBuf};

use super::Registration;
use crate::ca::{CaError, read_file, write_file};

/// The file in a state directory.
const FILE: &str = "registered.json";
/// The most bytes of it: as many workloads as are registered at most, with some three hundred bytes each. Of a longer one nothing is known.
const MAX_KEPT_BYTES: u64 = 32 * 1024 * 1024;

/// Where it is written down.
#[derive(Debug)]
pub(crate) struct Kept(PathBuf);

impl Kept {
    /// That of a state directory, and who was registered last.
    pub(crate) fn open(state: &Path) -> Result<(Self, Vec<Registration>), CaError> {
        let path = state.join(FILE);
        let text = read_file(&path, MAX_KEPT_BYTES)?;
        // What cannot be read is of a version that nobody knows, and says nothing.
        let registered = text.and_then(|text| serde_json::from_str(&text).ok());
        Ok((Self(path), registered.unwrap_or_default()))
    }

    /// Writes down who is registered now. The mesh goes on without it; the next start is what suffers.
    pub(super) fn keep(&self, registered: &[Registration]) {
        let json = serde_json::to_vec(registered).expect("texts and addresses are JSON");
        if let Err(error) = write_file(&self.0, &json) {
            tracing::warn!(%error, "who is registered cannot be written down: a restart would forget it");
        }
    }
}
