//! When an identity was last proven by a token, and for how long certificates may take its place.
//!
//! A certificate proves its owner to the CA when it is renewed, and so one that was issued once could be renewed for ever: also that of a pod
//! that was deleted, whose token nobody believes any more, and also a copy of it. So the CA remembers when each identity was last proven by
//! something else than a certificate, and from [`DEFAULT_MAX_RENEWAL`] later on asks for that again.
//!
//! It is the identity that is remembered, and not a chain of certificates: replicas share one, and whoever of them was proven last counts for
//! all. So a copy is not ended by this while its owner joins again and again; that is what `meshctl deny` is for. An identity of which
//! nothing is remembered, since this is newer than its certificate or memory was lost, is taken for proven now.

use std::path::Path;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use super::CaError;
use super::records::{Records, name_of};

/// For how long after a token an identity is renewed by certificates alone, when nothing is said. Long, because a workload whose token worked
/// once has to be given another by hand.
pub const DEFAULT_MAX_RENEWAL: Duration = Duration::from_secs(90 * 24 * 3600);
/// How exact what is remembered is: an identity whose workloads join all the time is not written down each time.
const EXACT: Duration = Duration::from_secs(60);
/// From how many hundredths of the time on it is told that it ends.
const TOLD_AT: u64 = 75;

/// Where the records are in a state directory.
const FOLDER: &str = "proven";

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    /// Who, for who looks into the folder.
    identity: String,
    /// When it was proven, in seconds since 1970.
    at: u64,
}

/// What a certificate is worth that asks for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Granted,
    /// It is, and not for much longer: so many seconds.
    Ending(u64),
    /// A token is needed first.
    Ended,
}

/// Who was proven when.
pub(super) struct Proven {
    records: Records<Record>,
    most: Duration,
}

impl Proven {
    pub(super) fn in_memory() -> Self {
        Self {
            records: Records::in_memory(),
            most: DEFAULT_MAX_RENEWAL,
        }
    }

    pub(super) fn open(state: &Path) -> Result<Self, CaError> {
        Ok(Self {
            records: Records::open(state, FOLDER, "is not a record of who was proven")?,
            most: DEFAULT_MAX_RENEWAL,
        })
    }

    /// Renews for so long after a token; for ever, if that is zero.
    pub(super) fn limit(&mut self, most: Duration) {
        self.most = most;
    }

    /// `id` was proven by a token.
    pub(super) fn prove(&self, id: &SpiffeId, now: u64) -> Result<(), CaError> {
        let name = name_of(id);
        let known = self.records.get(&name)?.map(|record| record.at);
        if known.is_some_and(|at| at <= now && now - at < EXACT.as_secs()) {
            return Ok(());
        }
        self.write(&name, id, now)
    }

    /// Whether a certificate of `id` renews itself now.
    pub(super) fn renewal(&self, id: &SpiffeId, now: u64) -> Result<Renewal, CaError> {
        let name = name_of(id);
        let Some(Record { at, .. }) = self.records.get(&name)? else {
            self.write(&name, id, now)?;
            return Ok(Renewal::Granted);
        };
        let (age, most) = (now.saturating_sub(at), self.most.as_secs());
        Ok(match most {
            0 => Renewal::Granted,
            _ if age >= most => Renewal::Ended,
            _ if age.saturating_mul(100) >= most.saturating_mul(TOLD_AT) => Renewal::Ending(most - age),
            _ => Renewal::Granted,
        })
    }

    fn write(&self, name: &str, id: &SpiffeId, at: u64) -> Result<(), CaError> {
        let identity = id.as_str().to_owned();
        self.records.put(name, Record { identity, at })
    }
}
