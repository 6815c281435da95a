//! What a copy holds: resources as they came, and nothing made of them. Whoever reads one decodes and judges it anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::cache_state::CacheState;
use super::super::report::{Report, ResourceStatus, Word};
use crate::client::cache::Authorities;
use crate::pem::shows_key;
use crate::resource::ResourceKind;

/// The last good resources of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// When it was written. Here as elsewhere in it: seconds since 1970, by the link's wall clock.
    pub(crate) written: u64,
    /// The kinds of which a control plane had said what there is, by [`ResourceKind::index`].
    pub(crate) listed: [bool; ResourceKind::COUNT],
    pub(crate) entries: BTreeMap<Key, Entry>,
}

pub(crate) type Key = (ResourceKind, Arc<str>);

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Who told it.
    pub(crate) server: Arc<str>,
    /// `None` where there definitely was no good one.
    pub(crate) good: Option<Good>,
}

/// An accepted resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Good {
    pub(crate) version: Arc<str>,
    pub(crate) bytes: Arc<Vec<u8>>,
    /// When it came.
    pub(crate) told: u64,
    /// When it is over, if it has a time to live.
    pub(crate) ends: Option<u64>,
}

impl Kept {
    /// How long a resource of this copy still lives; `None` when it is over. What has no time to live lives on.
    ///
    /// A clock that was set back since the copy was written makes nothing live longer than it had left then. Without a clock
    /// nothing that ends is used.
    pub(crate) fn lives(&self, good: &Good, wall_time: Option<u64>) -> Option<Option<Duration>> {
        let Some(ends) = good.ends else {
            return Some(None);
        };
        let left = ends.saturating_sub(wall_time?).min(ends.saturating_sub(self.written));
        (left > 0).then(|| Some(Duration::from_secs(left)))
    }
}

/// Makes the next copy of what is known, and of the last copy: names of which no control plane has told anything since the
/// start, or of which nothing is wanted any more, stay as that has them.
///
/// What was deleted is not in it, though the process serves it on (gRFC A88): a process that starts would not hear of it.
/// Nor is anything that shows a private key.
pub(super) fn next(
    report: &Report,
    last: Option<&Kept>,
    directory: &Authorities,
    lives: &BTreeMap<Key, u64>,
    written: u64,
) -> Kept {
    let word = |name: &str| report.words.get(directory.of(name).ok()?);
    let mut next = Kept {
        written,
        ..Kept::default()
    };
    if let Some(last) = last {
        let entries = last.entries.iter();
        let entries = entries.filter(|((_, name), _)| word(name).is_some_and(|word| !word.counts()));
        next.entries = entries.map(|(key, entry)| (key.clone(), entry.clone())).collect();
    }
    next.listed = match (report.words.first().is_some_and(Word::counts), last) {
        (true, _) => report.listed,
        (false, Some(last)) => last.listed,
        (false, None) => Default::default(),
    };
    for (key, status) in report.resources.iter() {
        let Some(word) = word(&key.1).filter(|word| word.counts() && !key.1.is_empty()) else {
            continue;
        };
        let good = match (&status.accepted, &status.bytes) {
            _ if status.state == CacheState::DoesNotExist => None,
            (Some(version), Some(bytes)) if !shows_key(&bytes.0) => Some(Good {
                version: Arc::clone(version),
                bytes: Arc::clone(&bytes.0),
                told: status.updated.and_then(seconds).unwrap_or(written),
                ends: lives.get(key).copied(),
            }),
            _ => None,
        };
        if good.is_some() || is_definitely_none(status) {
            let server = Arc::clone(&word.server);
            next.entries.insert(key.clone(), Entry { server, good });
        }
    }
    next
}

/// Whether it is worth keeping that there is none: it makes calls to one cluster fail, and the rest of a target go on. What
/// a whole target fails for is left to be waited for.
fn is_definitely_none(status: &ResourceStatus) -> bool {
    let is_part = matches!(status.kind, ResourceKind::Cluster | ResourceKind::Endpoints);
    is_part && status.state.is_trouble() && !status.bytes.as_ref().is_some_and(|bytes| shows_key(&bytes.0))
}

fn seconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.ok().map(|since| since.as_secs())
}

/// A moment of a copy; `None` when it is none that can be.
pub(crate) fn moment(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
