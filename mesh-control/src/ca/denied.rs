//! Whose certificates the CA believes no more, and since when: what `meshctl deny` writes down.
//!
//! A certificate proves its owner to the CA, with any new key, from anywhere, as often as it likes. So a copy of a key and its
//! certificate would be renewed for ever, under keys of the thief's own. There is no list of serials that would help: who
//! renewed once has others. What helps is a moment: of an identity that is denied, no certificate from before renews, whoever
//! holds it, and no join token from before works. Its owner joins again with a token made afterwards; the thief's last
//! certificate ends with its lifetime.
//!
//! `meshctl` writes it for a control plane that runs, which reads it at each renewal. What cannot be read renews nobody.

use std::path::Path;

use mesh_core::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use super::CaError;
use super::records::{Records, name_of};

/// Where the records are in a state directory.
const FOLDER: &str = "denied";

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Whom, for who looks into the folder.
    identity: String,
    /// The last second whose certificates are not believed, since 1970.
    until: u64,
}

/// Who is denied.
pub(super) struct Denied(Records<Record>);

impl Denied {
    pub(super) fn in_memory() -> Self {
        Self(Records::in_memory())
    }

    pub(super) fn open(state: &Path) -> Result<Self, CaError> {
        Records::open(state, FOLDER, "is not a record of who is denied").map(Self)
    }

    /// Believes no certificate of `id` that was issued up to `until`.
    pub(super) fn deny(&self, id: &SpiffeId, until: u64) -> Result<(), CaError> {
        let identity = id.as_str().to_owned();
        self.0.put(&name_of(id), Record { identity, until })
    }

    /// Whether a certificate of `id` that was issued then is not believed.
    pub(super) fn is_denied(&self, id: &SpiffeId, issued: u64) -> Result<bool, CaError> {
        let record = self.0.get(&name_of(id))?;
        Ok(record.is_some_and(|record| issued <= record.until))
    }
}
