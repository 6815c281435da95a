//! How things stand at one moment: the stream, and what became of each resource.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_core::SharedMap;
use mesh_core::config::Version;

use super::cache::{Changed, Row, Sources, Trouble};
use super::cache_state::CacheState;
use super::disk::DiskCopy;
use super::updates::Updates;
use crate::decode::Rejected;
use crate::resource::ResourceKind;

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The stream to the control plane whose word counts for plain names.
    pub connection: Connection,
    /// The same for every control plane of the bootstrap, those of named authorities and those that are only a fallback.
    pub connections: Vec<Connection>,
    /// When anything was last heard of any of them.
    pub last_heard: Option<Instant>,
    /// The version of the snapshot that was published last.
    pub published: Version,
    /// Every subscribed resource, by kind and name; and, by a kind and the empty name, what of the last response of that kind was refused
    /// without that its name could be read.
    pub resources: SharedMap<(ResourceKind, Arc<str>), Arc<ResourceStatus>>,
    /// The targets without a whole configuration, and what each waits for.
    pub waiting: BTreeMap<Arc<str>, Vec<String>>,
    /// How many resources were refused since the start.
    pub rejections: u64,
    /// The last one that was.
    pub last_rejection: Option<Rejected>,
    /// The copy on disk, where the bootstrap asks for one.
    pub disk: Option<DiskCopy>,
    /// Goes up with everything that belongs into such a copy.
    pub(crate) changes: u64,
    /// Whose word counts for each authority.
    pub(crate) words: Vec<Word>,
    /// The kinds of which there is nothing but what is here, by [`ResourceKind::index`].
    pub(crate) listed: [bool; ResourceKind::COUNT],
}

/// Whose word counts for an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// The control plane's address.
    pub(crate) server: Arc<str>,
    /// It has told everything once, and no copy on disk is used any more.
    pub(crate) is_told: bool,
    pub(crate) is_needed: bool,
}

impl Word {
    /// Whether what is known of the authority now is better than a copy.
    pub(crate) fn counts(&self) -> bool {
        self.is_told && self.is_needed
    }
}

/// The state of the stream.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Connection {
    /// The control plane's address.
    pub server: String,
    /// The authorities whose names it is asked for: first or as a fallback. Plain names have the empty one.
    pub authorities: Vec<String>,
    /// Whether its word counts for one of them now.
    pub in_use: bool,
    /// What it is doing.
    pub phase: Phase,
    /// Attempts to open a stream since something was last heard.
    pub attempts: u32,
    /// Streams opened since the start.
    pub streams: u64,
    /// Responses received since the start.
    pub responses: u64,
    /// When the last of them came.
    pub last_heard: Option<Instant>,
    /// Why the last stream, or attempt at one, ended.
    pub last_error: Option<String>,
    /// Whether the last attempt at a stream ended before anything was heard (gRFC A57). A stream that was heard of and ended
    /// is none.
    pub is_failing: bool,
    /// How often it began to fail (gRFC A78's `server_failure`).
    pub failures: u64,
    /// What it sent since the start.
    pub updates: Updates,
}

/// What the stream is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Nothing is wanted yet.
    #[default]
    Idle,
    /// Waits for the workload's identity, which the control plane asks to see.
    Joining,
    /// Connects.
    Connecting,
    /// A stream is open.
    Connected,
    /// Waits before the next attempt.
    BackingOff(Duration),
    /// The client was dropped.
    Stopped,
}

/// What became of one resource.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResourceStatus {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name; empty for what was refused without one.
    pub name: Arc<str>,
    /// How it stands.
    pub state: CacheState,
    /// The version it last came with, good or not; empty when it never came.
    pub received: Arc<str>,
    /// The version of the value in use.
    pub accepted: Option<Arc<str>>,
    /// What was left out of that value.
    pub notes: Vec<Box<str>>,
    /// The accepted resource, as it came.
    pub bytes: Option<RawBytes>,
    /// When that value came, or came again under another version: by the link's wall clock, to the second.
    pub updated: Option<SystemTime>,
    /// Whether that value is from the copy on disk, and no control plane of this process has told it.
    pub is_from_disk: bool,
    /// When what is wrong with it was last found or told.
    pub failed: Option<SystemTime>,
    /// Set when what came last was refused.
    pub rejected: Option<Rejected>,
    /// What was refused then, as it came. A large one is not kept, nor one of a type that was not asked for.
    pub rejected_bytes: Option<RawBytes>,
    /// Set when the control plane does not have it, or has deleted it: in its words or ours.
    pub absent: Option<Arc<str>>,
    /// Set when the control plane could not say whether it has it, or what it is now, for a reason that passes.
    pub unavailable: Option<Arc<str>>,
}

/// A resource as it crossed the wire. Clones share it.
#[derive(Clone, PartialEq, Eq)]
pub struct RawBytes(pub(crate) Arc<Vec<u8>>);

impl AsRef<[u8]> for RawBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// A report is printed whole when a wait for it fails.
impl fmt::Debug for RawBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Report {
    /// One resource.
    pub fn resource(&self, kind: ResourceKind, name: &str) -> Option<&ResourceStatus> {
        self.resources.get(&(kind, Arc::from(name))).map(|status| &**status)
    }

    /// How long ago anything was last heard, as of `now`: the age that the configuration may have.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.last_heard.map(|heard| now.saturating_duration_since(heard))
    }

    /// Whether a stream is open.
    pub fn is_connected(&self) -> bool {
        self.connection.phase == Phase::Connected
    }
}

/// Brings the rows of what changed up to date. It follows each event at once, so `now` is the time of the event.
pub(super) fn update(
    resources: &mut SharedMap<(ResourceKind, Arc<str>), Arc<ResourceStatus>>,
    sources: Sources<'_>,
    changed: Vec<Changed>,
    now: Option<SystemTime>,
) {
    for key in changed {
        match sources.row(key.0, &key.1) {
            Some(row) => {
                let before = resources.get(&key).map(|before| &**before);
                let status = ResourceStatus::of_row(&row, before, now);
                resources.insert(key, Arc::new(status));
            }
            None => drop(resources.remove(&key)),
        }
    }
}

impl ResourceStatus {
    #[cfg(test)]
    pub(crate) fn new(kind: ResourceKind, name: &str, state: CacheState) -> Self {
        Self {
            kind,
            name: name.into(),
            state,
            received: "".into(),
            accepted: None,
            notes: Vec::new(),
            bytes: None,
            updated: None,
            is_from_disk: false,
            failed: None,
            rejected: None,
            rejected_bytes: None,
            absent: None,
            unavailable: None,
        }
    }

    /// Of a row in which something happened at `now`, which stood as `before` until then.
    fn of_row(row: &Row<'_>, before: Option<&Self>, now: Option<SystemTime>) -> Self {
        let is_same = |before: &&Self| {
            let bytes = before.bytes.as_ref().map(|bytes| &bytes.0);
            let shared = bytes.zip(row.bytes).is_some_and(|(old, new)| Arc::ptr_eq(old, new));
            shared && before.accepted.as_ref() == row.accepted
        };
        let updated = match (before.filter(is_same), row.recalled) {
            (_, Some(recalled)) => recalled.told,
            (Some(before), None) => before.updated,
            (None, None) => row.accepted.and(now),
        };
        Self {
            state: CacheState::of(row),
            updated,
            is_from_disk: row.recalled.is_some(),
            failed: row.trouble.and(now),
            kind: row.kind,
            name: Arc::clone(row.name),
            received: Arc::clone(row.received),
            accepted: row.accepted.cloned(),
            notes: row.notes.to_vec(),
            bytes: row.bytes.cloned().map(RawBytes),
            rejected: match row.trouble {
                Some(Trouble::Refused(rejected)) => Some(rejected.clone()),
                _ => None,
            },
            rejected_bytes: row.refused.cloned().map(RawBytes),
            absent: match row.trouble {
                Some(Trouble::Absent(why)) => Some(Arc::clone(why)),
                _ => None,
            },
            unavailable: match row.trouble {
                Some(Trouble::Failed(why) | Trouble::TimedOut(why)) => Some(Arc::clone(why)),
                _ => None,
            },
        }
    }
}
