//! What each group of clients is told, and who listens.
//!
//! Publishing is one store per group; streams are woken and each sends the newest state when its client can take it, so a
//! slow reader costs no memory and a hundred publishes are one response to it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::Snapshot;
use mesh_core::report::Tally;
use tokio::sync::watch;

use super::beside::Beside;
use super::clients::{ClientReport, Registry};
use super::encoded::{Encoded, Unpublishable};
use crate::encode::Dialect;
use crate::resource::ResourceKind;

/// Snapshots by group. Clones are one cache.
#[derive(Clone, Default)]
pub struct SnapshotCache {
    groups: Arc<Mutex<Groups>>,
    publishing: Arc<Mutex<()>>,
    clients: Registry,
    tally: Tally,
}

#[derive(Default)]
struct Groups {
    by_key: BTreeMap<Arc<str>, Group>,
    closed: bool,
}

struct Group {
    sender: watch::Sender<Option<Arc<Encoded>>>,
}

/// The versions that a published snapshot goes by on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions([Arc<str>; ResourceKind::COUNT]);

impl Versions {
    /// Of one kind of resource, as our own client is told it.
    pub fn of(&self, kind: ResourceKind) -> &str {
        &self.0[kind.index()]
    }
}

impl SnapshotCache {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one whose streams are counted in `tally`: `xds_stream_refused` when one did not begin, `xds_stream_dropped`
    /// when one was ended from this side.
    pub fn counting(tally: Tally) -> Self {
        Self {
            tally,
            ..Self::default()
        }
    }

    /// Publishes `snapshot` to a group of clients, and says under which versions. Kinds that did not change keep theirs and
    /// are not sent again.
    ///
    /// # Errors
    ///
    /// When a client would refuse it. The group keeps what it had.
    pub fn publish(&self, group: &str, snapshot: &Snapshot) -> Result<Versions, Unpublishable> {
        self.publish_with(group, snapshot, &Beside::default())
    }

    /// As [`publish`](Self::publish), with resources that somebody else encoded beside the snapshot's. They are there until the
    /// next publish, which says anew what there is beside.
    ///
    /// # Errors
    ///
    /// When a client would refuse any of them. The group keeps what it had.
    pub fn publish_with(&self, group: &str, snapshot: &Snapshot, beside: &Beside) -> Result<Versions, Unpublishable> {
        let _turn = self.turn();
        let written = self.write(group, snapshot, beside)?;
        Ok(self.lock().put(group, written))
    }

    /// Publishes to several groups as [`publish`](Self::publish) does to one, after it has [retired](Self::retire) others: all of it, or
    /// nothing.
    ///
    /// # Errors
    ///
    /// When a client would refuse any of them. Every group keeps what it had, and none is retired.
    pub fn publish_all<'a>(
        &self,
        snapshots: impl IntoIterator<Item = (&'a str, &'a Snapshot)>,
        retired: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<Box<str>, Versions>, Unpublishable> {
        let _turn = self.turn();
        let beside = Beside::default();
        let written = |(group, snapshot)| Ok((group, self.write(group, snapshot, &beside)?));
        let written = snapshots
            .into_iter()
            .map(written)
            .collect::<Result<Vec<(&str, _)>, _>>()?;
        let mut groups = self.lock();
        for group in retired {
            groups.by_key.remove(group);
        }
        let put = |(group, encoded): (&str, _)| (group.into(), groups.put(group, encoded));
        Ok(written.into_iter().map(put).collect())
    }

    /// What a group would be told. It may take a while, in which streams come and go: so the groups are not locked meanwhile.
    fn write(&self, group: &str, snapshot: &Snapshot, beside: &Beside) -> Result<Encoded, Unpublishable> {
        let previous = self
            .lock()
            .by_key
            .get(group)
            .and_then(|group| group.sender.borrow().clone());
        let generation = previous.as_ref().map_or(0, |previous| previous.generation());
        Encoded::with(snapshot, beside, previous.as_deref(), generation + 1)
    }

    /// Of those who publish, one at a time: each goes on from what the last has said.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a group and ends its streams. Their clients keep what they have, come again and are grouped anew: this is how
    /// one is moved to another group.
    pub fn retire(&self, group: &str) {
        self.lock().by_key.remove(group);
    }

    /// The connected clients and what they said to what they were sent.
    pub fn clients(&self) -> Vec<ClientReport> {
        self.clients.list()
    }

    /// Waits for a change among the clients: one came, went, or acknowledged something.
    pub fn client_changes(&self) -> watch::Receiver<u64> {
        self.clients.changes()
    }

    /// Ends every stream, now and from now on: a server that shuts down gracefully would wait for them for ever.
    pub fn close(&self) {
        let mut groups = self.lock();
        groups.closed = true;
        groups.by_key.clear();
    }

    /// What a group is told, to be watched; `None` when the cache is closed. A group may be watched before anything is
    /// published to it.
    pub(super) fn watch(&self, group: &str) -> Option<watch::Receiver<Option<Arc<Encoded>>>> {
        let mut groups = self.lock();
        (!groups.closed).then(|| groups.entry(group).sender.subscribe())
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.clients
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Groups {
    fn entry(&mut self, group: &str) -> &mut Group {
        self.by_key.entry(group.into()).or_insert_with(|| Group {
            sender: watch::Sender::new(None),
        })
    }

    fn put(&mut self, group: &str, encoded: Encoded) -> Versions {
        let ours = encoded.view(Dialect::Mesh);
        let versions = ResourceKind::ALL.map(|kind| Arc::clone(&ours.of(kind).version));
        self.entry(group).sender.send_replace(Some(Arc::new(encoded)));
        Versions(versions)
    }
}

impl fmt::Debug for SnapshotCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotCache")
            .field("groups", &self.lock().by_key.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
