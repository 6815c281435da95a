//! The register of counters: who counts finds them here once per configuration, and who reads takes windows of them.
//!
//! An entry lives while somebody counts in it, and after that until every reader has seen its last numbers; so endpoints
//! that come and go leave nothing behind. Everything here is off the request path: it runs when hosts are made and when a
//! report is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::calls::Calls;
use super::load::{Drops, Load, Totals};
use super::window::{ClusterLoad, Counts, Figure, LocalityLoad, Window};
use crate::config::{ClusterName, LoadReporting, Locality, ReportedMetric};
use crate::live;

/// The most entries kept that nobody counts in any more and some reader has not seen yet. A reader may be away for hours (its
/// control plane is down), and a cluster's localities may change all the while; what is beyond is lost to it.
const MAX_UNREAD: usize = 4096;
/// How many entries there may be before a new one looks for some to let go; after that, twice as many as were left.
const FIRST_SWEEP: usize = 64;

/// Counters of calls, by cluster and locality. Clones share them.
#[derive(Clone)]
pub struct Loads {
    shared: Arc<Shared>,
}

struct Shared {
    register: Mutex<Register>,
    bell: live::Writer<u64>,
}

impl Default for Loads {
    fn default() -> Self {
        let shared = Shared {
            register: Mutex::default(),
            bell: live::channel(0).0,
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl Loads {
    /// Where calls to `locality` of `cluster` are counted.
    pub fn load(&self, cluster: &ClusterName, reporting: &LoadReporting, locality: &Arc<Locality>) -> Arc<Load> {
        let mut register = self.lock();
        let entries = &mut register.cluster(cluster, &reporting.service).localities;
        let key = (Arc::clone(locality), Arc::clone(&reporting.metrics));
        if let Some(known) = entries.get(&key) {
            return Arc::clone(&known.load);
        }
        let load = Arc::new(Load::new(reporting.of_endpoints()));
        let entry = LocalityEntry {
            load: Arc::clone(&load),
            seen: BTreeMap::new(),
        };
        entries.insert(key, entry);
        register.grew();
        drop(register);
        self.shared.bell.publish(0);
        load
    }

    /// Where dropped calls of `cluster` are counted.
    pub fn drops(&self, cluster: &ClusterName, reporting: &LoadReporting) -> Arc<Drops> {
        let mut register = self.lock();
        let drops = Arc::clone(&register.cluster(cluster, &reporting.service).drops);
        register.grew();
        drop(register);
        self.shared.bell.publish(0);
        drops
    }

    /// Where it is counted how the calls of `cluster` end. They are told while their counter says so ([`Calls::ask`]).
    pub fn calls(&self, cluster: &ClusterName, reporting: &LoadReporting) -> Arc<Calls> {
        let mut register = self.lock();
        let entry = register.cluster(cluster, &reporting.service);
        let calls = Arc::clone(&entry.calls.get_or_insert_default().calls);
        register.grew();
        drop(register);
        self.shared.bell.publish(0);
        calls
    }

    /// Whether no cluster is counted, and nothing is left to be read.
    pub fn is_empty(&self) -> bool {
        self.lock().clusters.is_empty()
    }

    /// Calls `callback` whenever something began to be counted, until the subscription is dropped.
    pub fn on_change(&self, callback: impl Fn() + Send + Sync + 'static) -> live::Subscription {
        self.shared.bell.reader().on_change(callback)
    }

    /// A reader, to which everything that is counted now is new.
    pub fn reader(&self, now: Instant) -> LoadReader {
        self.reader_of(now, |_| true)
    }

    /// A reader of the clusters in `scope`; nothing is kept for it of any other. `scope` runs under a lock: it must not come
    /// back here.
    pub fn reader_of(&self, now: Instant, scope: impl Fn(&ClusterName) -> bool + Send + Sync + 'static) -> LoadReader {
        let mut register = self.lock();
        register.last_reader += 1;
        let id = register.last_reader;
        let reader = Reader {
            since: now,
            scope: Box::new(scope),
        };
        register.readers.insert(id, reader);
        drop(register);
        LoadReader {
            loads: self.clone(),
            id,
        }
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let register = self.lock();
        register.clusters.values().map(|cluster| cluster.localities.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.shared.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes windows, one after the other; other readers lose nothing by it.
#[derive(Debug)]
pub struct LoadReader {
    loads: Loads,
    id: u64,
}

impl LoadReader {
    /// What happened since this reader last looked. A cluster of which there is nothing to tell is left out, except once
    /// after there was something, so that whoever is told knows that it has gone quiet.
    pub fn take(&self, now: Instant) -> Window {
        self.loads.lock().take(self.id, now)
    }

    /// Whether none of its clusters is counted, and nothing is left for it to read.
    pub fn is_idle(&self) -> bool {
        let register = self.loads.lock();
        let scope = register.readers.get(&self.id).map(|reader| &reader.scope);
        let mut names = register.clusters.keys().map(|(cluster, _)| cluster);
        !names.any(|cluster| scope.is_some_and(|scope| scope(cluster)))
    }

    /// What it reads.
    pub fn loads(&self) -> &Loads {
        &self.loads
    }
}

impl Drop for LoadReader {
    fn drop(&mut self) {
        self.loads.lock().forget(self.id);
    }
}

type ReaderId = u64;

#[derive(Default)]
struct Register {
    clusters: BTreeMap<(ClusterName, Arc<str>), ClusterEntry>,
    readers: BTreeMap<ReaderId, Reader>,
    last_reader: ReaderId,
    /// The number of entries, more or less: entries that were swept are still in it until the next sweep.
    size: usize,
    sweep_at: usize,
}

struct Reader {
    /// When it last looked.
    since: Instant,
    scope: Box<dyn Fn(&ClusterName) -> bool + Send + Sync>,
}

#[derive(Default)]
struct ClusterEntry {
    drops: Arc<Drops>,
    drops_seen: BTreeMap<ReaderId, (BTreeMap<Box<str>, u64>, u64)>,
    /// By locality and by what is reported of its endpoints (gRFC A85).
    localities: HashMap<(Arc<Locality>, Arc<[ReportedMetric]>), LocalityEntry>,
    /// How its calls ended, where a control plane asks for that.
    calls: Option<CallsEntry>,
    /// The readers that were told of something the last time.
    told: BTreeSet<ReaderId>,
}

#[derive(Default)]
struct CallsEntry {
    calls: Arc<Calls>,
    seen: BTreeMap<ReaderId, Figures>,
}

type Figures = BTreeMap<Box<str>, Figure>;

struct LocalityEntry {
    load: Arc<Load>,
    seen: BTreeMap<ReaderId, Totals>,
}

impl Register {
    fn cluster(&mut self, cluster: &ClusterName, service: &Arc<str>) -> &mut ClusterEntry {
        self.clusters.entry((cluster.clone(), Arc::clone(service))).or_default()
    }

    fn take(&mut self, reader: ReaderId, now: Instant) -> Window {
        let Some(Reader { since, scope }) = self.readers.get_mut(&reader) else {
            return Window::default();
        };
        let since = std::mem::replace(since, now);
        let clusters = self.clusters.iter_mut().filter(|((cluster, _), _)| scope(cluster));
        let clusters = clusters.filter_map(|((cluster, service), entry)| {
            let load = entry.take(reader, ClusterLoad::new(cluster.clone(), Arc::clone(service)));
            let worth = if load.is_quiet() {
                entry.told.remove(&reader)
            } else {
                entry.told.insert(reader);
                true
            };
            worth.then_some(load)
        });
        let clusters = clusters.collect();
        self.sweep();
        Window {
            span: now.saturating_duration_since(since),
            clusters,
        }
    }

    fn grew(&mut self) {
        self.size += 1;
        if self.size > self.sweep_at.max(FIRST_SWEEP) {
            self.sweep();
            self.sweep_at = 2 * self.size;
        }
    }

    /// Lets go of what nobody counts in and every reader has seen.
    fn sweep(&mut self) {
        let (readers, mut unread, mut size) = (&self.readers, 0, 0);
        let mut keep = |is_used: bool, is_read: bool| {
            if !is_used && !is_read {
                unread += 1;
            }
            is_used || (!is_read && unread <= MAX_UNREAD)
        };
        self.clusters.retain(|(cluster, _), entry| {
            let readers: Vec<ReaderId> = readers
                .iter()
                .filter(|(_, reader)| (reader.scope)(cluster))
                .map(|(id, _)| *id)
                .collect();
            entry.localities.retain(|_, locality| {
                let (is_used, totals) = (is_used(&locality.load), locality.load.totals());
                let is_read = |reader| locality.seen.get(reader).is_some_and(|seen| *seen == totals);
                keep(is_used, readers.iter().all(is_read))
            });
            let (drops, totals) = (is_used(&entry.drops), entry.drops.totals());
            let is_read = |reader| {
                let nothing = (BTreeMap::new(), 0);
                let seen = entry.drops_seen.get(reader).unwrap_or(&nothing);
                *seen == totals && !entry.told.contains(reader)
            };
            let kept = !entry.localities.is_empty() || keep(drops, readers.iter().all(is_read));
            let told = entry.calls.as_ref();
            let told = told.is_some_and(|calls| keep(is_used(&calls.calls), calls.are_read_by(&readers)));
            if !told {
                entry.calls = None;
            }
            let kept = kept || told;
            size += entry.localities.len() + usize::from(kept);
            kept
        });
        self.size = size;
    }

    fn forget(&mut self, reader: ReaderId) {
        self.readers.remove(&reader);
        for entry in self.clusters.values_mut() {
            entry.told.remove(&reader);
            entry.drops_seen.remove(&reader);
            if let Some(calls) = &mut entry.calls {
                calls.seen.remove(&reader);
            }
            for locality in entry.localities.values_mut() {
                locality.seen.remove(&reader);
            }
        }
        self.sweep();
    }
}

/// Whether somebody but the register holds it. Only under the register's lock, which is where new holders come from. What the
/// last holder counted before it let go is visible after this.
fn is_used<T>(shared: &Arc<T>) -> bool {
    let is_used = Arc::strong_count(shared) > 1;
    fence(Ordering::Acquire);
    is_used
}

impl ClusterEntry {
    fn take(&mut self, reader: ReaderId, mut load: ClusterLoad) -> ClusterLoad {
        let (by_category, uncategorised) = self.drops.totals();
        let now = (by_category.clone(), uncategorised);
        let (seen, seen_uncategorised) = self.drops_seen.insert(reader, now).unwrap_or_default();
        load.uncategorised_drops = uncategorised - seen_uncategorised;
        load.drops = by_category
            .into_iter()
            .map(|(category, count)| (seen.get(&category).map_or(count, |seen| count - seen), category))
            .filter(|(count, _)| *count > 0)
            .map(|(count, category)| (category, count))
            .collect();
        let mut localities: HashMap<Arc<Locality>, LocalityLoad> = HashMap::new();
        for ((locality, _), entry) in &mut self.localities {
            let (counts, figures) = entry.take(reader);
            match localities.get_mut(locality) {
                // The same place, counted under what was reported of it before and since.
                Some(sum) => {
                    let in_progress = sum.counts.in_progress + counts.in_progress;
                    sum.counts.add(&counts);
                    sum.counts.in_progress = in_progress;
                    for (name, figure) in figures {
                        sum.figures.entry(name).or_default().add(&figure);
                    }
                }
                None => {
                    let locality = Arc::clone(locality);
                    let load = LocalityLoad {
                        locality: Arc::clone(&locality),
                        counts,
                        figures,
                    };
                    localities.insert(locality, load);
                }
            }
        }
        // They are no locality's: who reads one as any other finds nothing but names that it does not know.
        let figures = self.calls.as_mut().map(|calls| calls.take(reader)).unwrap_or_default();
        if !figures.is_empty() {
            let nowhere = Arc::<Locality>::default();
            let entry = localities.entry(Arc::clone(&nowhere)).or_insert_with(|| LocalityLoad {
                locality: nowhere,
                counts: Counts::default(),
                figures: BTreeMap::new(),
            });
            entry.figures.extend(figures);
        }
        load.localities = localities.into_values().collect();
        load.localities
            .sort_by(|a, b| place(&a.locality).cmp(&place(&b.locality)));
        load
    }
}

fn place(locality: &Locality) -> [&str; 3] {
    [&locality.region, &locality.zone, &locality.sub_zone]
}

impl CallsEntry {
    fn take(&mut self, reader: ReaderId) -> Figures {
        let Some(now) = self.calls.told() else {
            return Figures::new();
        };
        let seen = self.seen.insert(reader, now.clone()).unwrap_or_default();
        let added = now.into_iter().filter_map(|(name, now)| {
            let before = seen.get(&name).copied().unwrap_or_default();
            let added = Figure {
                calls: now.calls.saturating_sub(before.calls),
                sum: now.sum - before.sum,
            };
            (added.calls > 0).then_some((name, added))
        });
        added.collect()
    }

    fn are_read_by(&self, readers: &[ReaderId]) -> bool {
        let Some(now) = self.calls.told() else {
            return true;
        };
        let nothing = Figures::new();
        readers
            .iter()
            .all(|reader| *self.seen.get(reader).unwrap_or(&nothing) == now)
    }
}

impl LocalityEntry {
    fn take(&mut self, reader: ReaderId) -> (Counts, BTreeMap<Box<str>, Figure>) {
        let totals = self.load.totals();
        let seen = self.seen.insert(reader, totals.clone()).unwrap_or_default();
        totals.since(&seen)
    }
}

impl fmt::Debug for Loads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let register = self.lock();
        f.debug_struct("Loads")
            .field("clusters", &register.clusters.len())
            .field("readers", &register.readers.len())
            .finish_non_exhaustive()
    }
}
