//! What is known of each subscribed resource: the last good value, and what happened to it since.
//!
//! A value that was good once is served until a better one comes, whatever is refused, deleted or lost meanwhile (gRFC A88's
//! default). So an error matters only where there never was a value; beside one it is something to show.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::config::RouteTree;

use crate::decode::{Decoded, Rejected, Resource};
use crate::resource::{ClusterSpec, Endpoints, Listener, ResourceKind};

/// The four tables.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    listeners: Table<Listener>,
    routes: Table<RouteTree>,
    clusters: Table<ClusterSpec>,
    endpoints: Table<Endpoints>,
}

/// Resources of one kind, by name.
#[derive(Debug)]
pub(crate) struct Table<R> {
    entries: BTreeMap<Arc<str>, Entry<R>>,
}

/// One subscribed resource.
#[derive(Debug)]
pub(crate) struct Entry<R> {
    good: Option<Good<R>>,
    /// The version that the last word on it came with.
    received: Arc<str>,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Good<R> {
    value: Arc<R>,
    bytes: Vec<u8>,
    version: Arc<str>,
    notes: Vec<Box<str>>,
}

/// What is wrong with a resource since its last good value, or from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It came and was refused.
    Refused(Rejected),
    /// The control plane does not have it: it said so, or did not answer in time, or stopped listing it.
    Absent(Arc<str>),
}

/// The answer to "what is this name?"
#[derive(Debug)]
pub(crate) enum Found<R> {
    /// A value.
    Value(Arc<R>),
    /// Definitely none.
    None(Trouble),
    /// Not known yet.
    Pending,
}

/// One row for the status page.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) kind: ResourceKind,
    pub(crate) name: &'a Arc<str>,
    pub(crate) received: &'a Arc<str>,
    pub(crate) accepted: Option<&'a Arc<str>>,
    pub(crate) notes: &'a [Box<str>],
    pub(crate) trouble: Option<&'a Trouble>,
}

/// A kind of resource that has a table.
pub(crate) trait Cached: Resource {
    fn table(cache: &Cache) -> &Table<Self>;
    fn table_mut(cache: &mut Cache) -> &mut Table<Self>;
}

impl Cache {
    pub(crate) fn find<R: Cached>(&self, name: &str) -> Found<R> {
        R::table(self).find(name)
    }

    /// Begins or ends the memory of names, so that it holds exactly the subscribed ones.
    pub(crate) fn insert(&mut self, kind: ResourceKind, name: &Arc<str>) {
        match kind {
            ResourceKind::Listener => self.listeners.insert(name),
            ResourceKind::Route => self.routes.insert(name),
            ResourceKind::Cluster => self.clusters.insert(name),
            ResourceKind::Endpoints => self.endpoints.insert(name),
        }
    }

    pub(crate) fn remove(&mut self, kind: ResourceKind, name: &str) {
        match kind {
            ResourceKind::Listener => drop(self.listeners.entries.remove(name)),
            ResourceKind::Route => drop(self.routes.entries.remove(name)),
            ResourceKind::Cluster => drop(self.clusters.entries.remove(name)),
            ResourceKind::Endpoints => drop(self.endpoints.entries.remove(name)),
        }
    }

    /// Notes that the control plane does not have it.
    pub(crate) fn absent(&mut self, kind: ResourceKind, name: &str, why: &Arc<str>) {
        match kind {
            ResourceKind::Listener => self.listeners.absent(name, why),
            ResourceKind::Route => self.routes.absent(name, why),
            ResourceKind::Cluster => self.clusters.absent(name, why),
            ResourceKind::Endpoints => self.endpoints.absent(name, why),
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.listeners
            .rows()
            .chain(self.routes.rows())
            .chain(self.clusters.rows())
            .chain(self.endpoints.rows())
    }
}

impl<R: Resource> Table<R> {
    fn find(&self, name: &str) -> Found<R> {
        match self.entries.get(name) {
            Some(Entry { good: Some(good), .. }) => Found::Value(Arc::clone(&good.value)),
            Some(Entry {
                trouble: Some(trouble), ..
            }) => Found::None(trouble.clone()),
            _ => Found::Pending,
        }
    }

    fn insert(&mut self, name: &Arc<str>) {
        self.entries.entry(Arc::clone(name)).or_insert_with(|| Entry {
            good: None,
            received: "".into(),
            trouble: None,
        });
    }

    /// Whether `bytes` are the last good ones: the same value again, which keeps its `Arc`. If so, what was wrong since is
    /// forgotten.
    pub(crate) fn confirm(&mut self, name: &str, bytes: &[u8], version: &Arc<str>) -> bool {
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        match &mut entry.good {
            Some(good) if good.bytes == bytes => {
                good.version = Arc::clone(version);
                entry.received = Arc::clone(version);
                entry.trouble = None;
                true
            }
            _ => false,
        }
    }

    /// Stores what came, if it is subscribed.
    pub(crate) fn receive(&mut self, decoded: Decoded<R>, bytes: Vec<u8>, version: &Arc<str>) {
        let Some(entry) = self.entries.get_mut(&decoded.name) else {
            return;
        };
        entry.received = Arc::clone(version);
        match decoded.value {
            Err(rejected) => entry.trouble = Some(Trouble::Refused(rejected)),
            Ok(value) => {
                entry.trouble = None;
                entry.good = Some(Good {
                    value: Arc::new(value),
                    bytes,
                    version: Arc::clone(version),
                    notes: decoded.notes,
                });
            }
        }
    }

    /// The subscribed names that have a good value.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.good.is_some())
            .map(|(name, _)| name)
    }

    pub(crate) fn absent(&mut self, name: &str, why: &Arc<str>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.trouble = Some(Trouble::Absent(Arc::clone(why)));
        }
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.entries.iter().map(|(name, entry)| Row {
            kind: R::KIND,
            name,
            received: &entry.received,
            accepted: entry.good.as_ref().map(|good| &good.version),
            notes: entry.good.as_ref().map_or(&[], |good| &good.notes),
            trouble: entry.trouble.as_ref(),
        })
    }
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl Cached for Listener {
    fn table(cache: &Cache) -> &Table<Self> {
        &cache.listeners
    }

    fn table_mut(cache: &mut Cache) -> &mut Table<Self> {
        &mut cache.listeners
    }
}

impl Cached for RouteTree {
    fn table(cache: &Cache) -> &Table<Self> {
        &cache.routes
    }

    fn table_mut(cache: &mut Cache) -> &mut Table<Self> {
        &mut cache.routes
    }
}

impl Cached for ClusterSpec {
    fn table(cache: &Cache) -> &Table<Self> {
        &cache.clusters
    }

    fn table_mut(cache: &mut Cache) -> &mut Table<Self> {
        &mut cache.clusters
    }
}

impl Cached for Endpoints {
    fn table(cache: &Cache) -> &Table<Self> {
        &cache.endpoints
    }

    fn table_mut(cache: &mut Cache) -> &mut Table<Self> {
        &mut cache.endpoints
    }
}
