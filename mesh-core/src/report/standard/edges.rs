//! All pairs that a process knows.
//!
//! An edge lives while somebody counts in it, which is as long as a connection of the pair does, and is let go of when scrapes have
//! seen it unchanged for a while: what Prometheus has not seen yet is not lost, and pods that come and go leave nothing behind.
//! Looking an edge up takes a lock and compares texts; that is done once for a connection, not for a call.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::edge::{Edge, Room};
use super::{EdgeLabels, Reporter, Service, Workload};

/// Everything that is counted by pair. Clones share it.
#[derive(Clone, Default)]
pub struct Edges {
    shared: Arc<Shared>,
}

struct Shared {
    known: Mutex<BTreeMap<EdgeLabels, Known>>,
    /// Those who found no place, of either reporter.
    others: [Arc<Edge>; 2],
    refused: AtomicU64,
    room: Arc<Room>,
}

struct Known {
    edge: Arc<Edge>,
    /// What it stood at in the last scrape, and since when it has stood there.
    seen: Option<(u64, Instant)>,
}

impl Default for Shared {
    fn default() -> Self {
        let other = |reporter| {
            let labels = EdgeLabels {
                service: Arc::new(Service::new("other", "other", "")),
                ..EdgeLabels::new(reporter, Workload::unknown(), Workload::unknown())
            };
            // They have room of their own: they are where what finds none is counted.
            Arc::new(Edge::new(labels, Arc::new(Room::new(u32::MAX))))
        };
        Self {
            known: Mutex::default(),
            others: [other(Reporter::Source), other(Reporter::Destination)],
            refused: AtomicU64::new(0),
            room: Arc::new(Room::new(Edges::MAX_SERIES)),
        }
    }
}

impl Edges {
    /// The most pairs of a process. What is beyond counts as one pair that names nobody, whose service is `other`.
    pub const MAX_EDGES: usize = 1024;
    /// The most pairs of one caller at a server: what it calls the server is its own to say, and must not take the place of other callers. What
    /// is beyond counts as one pair of that caller, whose service is `other`. Callers without a certificate are one.
    pub const MAX_EDGES_OF_PEER: usize = 32;
    /// The most series of all pairs together; what is beyond counts in one series of its pair, whose `response_code` is `other`. Each
    /// is 67 samples of about 1 KiB, so this is what bounds a scrape: to some 130 MiB, where a process really has so many.
    pub const MAX_SERIES: u32 = 2048;
    /// The most series of one pair, for the same reason: a server chooses its status codes.
    pub const SERIES_OF_EDGE: u32 = super::edge::MAX_SERIES;
    /// How long scrapes must have seen a pair unchanged before it is let go of: three times what Prometheus looks back, so that no
    /// rate is cut short.
    pub const KEPT: Duration = Duration::from_secs(15 * 60);

    /// Where the pair of these labels is counted.
    pub fn edge(&self, labels: &EdgeLabels) -> Arc<Edge> {
        let mut known = self.lock();
        let is_full = known.len() >= Self::MAX_EDGES;
        let mut labels = labels.clone();
        if labels.reporter == Reporter::Destination && !known.contains_key(&labels) {
            let is_of_peer = |other: &&EdgeLabels| {
                other.reporter == Reporter::Destination && other.source_principal == labels.source_principal
            };
            if known.keys().filter(is_of_peer).count() >= Self::MAX_EDGES_OF_PEER {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                labels.service = Arc::new(Service::new("other", "other", ""));
            }
        }
        match known.entry(labels.clone()) {
            Entry::Occupied(known) => Arc::clone(&known.get().edge),
            Entry::Vacant(_) if is_full => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                Arc::clone(&self.shared.others[labels.reporter as usize])
            }
            Entry::Vacant(place) => {
                let edge = Arc::new(Edge::new(labels, Arc::clone(&self.shared.room)));
                let known = Known {
                    edge: Arc::clone(&edge),
                    seen: None,
                };
                place.insert(known);
                edge
            }
        }
    }

    /// All pairs in which anything was counted, in order; lets go of those that nobody has called for long.
    pub(super) fn scraped(&self, now: Instant) -> Vec<Arc<Edge>> {
        let mut known = self.lock();
        known.retain(|_, known| {
            let activity = known.edge.activity();
            let since = match known.seen {
                Some((seen, since)) if seen == activity => since,
                _ => now,
            };
            known.seen = Some((activity, since));
            Arc::strong_count(&known.edge) > 1 || now.saturating_duration_since(since) < Self::KEPT
        });
        let edges = known.values().map(|known| &known.edge).chain(&self.shared.others);
        edges.filter(|edge| edge.activity() > 0).cloned().collect()
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many series there are.
    pub fn series(&self) -> u32 {
        self.shared.room.taken()
    }

    /// How often a pair found no place, and how many calls found no place for how they ended.
    pub fn overflown(&self) -> [u64; 2] {
        let of_others = self.shared.others.iter().map(|edge| edge.overflown()).sum::<u64>();
        let refused = self.shared.refused.load(Ordering::Relaxed);
        [refused, self.shared.room.overflown() + of_others]
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EdgeLabels, Known>> {
        // A map is whole whatever its holder was doing when it panicked.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Edges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edges")
            .field("edges", &self.len())
            .field("series", &self.series())
            .finish_non_exhaustive()
    }
}
