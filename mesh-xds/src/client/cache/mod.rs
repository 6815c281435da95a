//! What is known of each subscribed resource: the last good value, and what happened to it since.
//!
//! A value that was good once is served until a better one comes, whatever is refused, deleted or lost meanwhile (gRFC A88's
//! default). So an error matters only where there never was a value; beside one it is something to show.
//!
//! It notes which names changed in any way, so that whoever follows it (assembly, status) does no more than that much work:
//! one changed endpoint among ten thousand clusters is one name.

use std::sync::Arc;

use mesh_core::config::RouteTree;

use crate::decode::{Rejected, Resource};
use crate::resource::{ClusterSpec, Endpoints, Extension, Listener, ResourceKind};

mod table;

pub(crate) use table::Table;

/// A table for each kind.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    listeners: Table<Listener>,
    routes: Table<RouteTree>,
    clusters: Table<ClusterSpec>,
    endpoints: Table<Endpoints>,
    extensions: Table<Extension>,
}

/// What is wrong with a resource since its last good value, or from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It came and was refused.
    Refused(Rejected),
    /// The control plane does not have it: it said so, or did not answer in time, or stopped listing it.
    Absent(Arc<str>),
}

/// A name of which something changed: its value, its trouble, or whether it is subscribed to.
pub(crate) type Changed = (ResourceKind, Arc<str>);

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
    /// The accepted resource as it came.
    pub(crate) bytes: Option<&'a Arc<[u8]>>,
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
            ResourceKind::ExtensionConfig => self.extensions.insert(name),
        }
    }

    pub(crate) fn remove(&mut self, kind: ResourceKind, name: &str) {
        match kind {
            ResourceKind::Listener => self.listeners.remove(name),
            ResourceKind::Route => self.routes.remove(name),
            ResourceKind::Cluster => self.clusters.remove(name),
            ResourceKind::Endpoints => self.endpoints.remove(name),
            ResourceKind::ExtensionConfig => self.extensions.remove(name),
        }
    }

    /// Notes that the control plane does not have it.
    pub(crate) fn absent(&mut self, kind: ResourceKind, name: &Arc<str>, why: &Arc<str>) {
        match kind {
            ResourceKind::Listener => self.listeners.absent(name, why),
            ResourceKind::Route => self.routes.absent(name, why),
            ResourceKind::Cluster => self.clusters.absent(name, why),
            ResourceKind::Endpoints => self.endpoints.absent(name, why),
            ResourceKind::ExtensionConfig => self.extensions.absent(name, why),
        }
    }

    /// Names and versions of what is held without dispute.
    pub(crate) fn held(&self, kind: ResourceKind) -> Vec<(Arc<str>, Arc<str>)> {
        match kind {
            ResourceKind::Listener => self.listeners.held(),
            ResourceKind::Route => self.routes.held(),
            ResourceKind::Cluster => self.clusters.held(),
            ResourceKind::Endpoints => self.endpoints.held(),
            ResourceKind::ExtensionConfig => self.extensions.held(),
        }
    }

    /// What changed since this was last asked, in order of events; a name may come more than once.
    pub(crate) fn take_changed(&mut self) -> Vec<Changed> {
        let listeners = self.listeners.take_changed();
        let routes = self.routes.take_changed();
        let clusters = self.clusters.take_changed();
        let endpoints = self.endpoints.take_changed();
        let extensions = self.extensions.take_changed();
        let of = |kind, names: Vec<Arc<str>>| names.into_iter().map(move |name| (kind, name));
        of(ResourceKind::Listener, listeners)
            .chain(of(ResourceKind::Route, routes))
            .chain(of(ResourceKind::Cluster, clusters))
            .chain(of(ResourceKind::Endpoints, endpoints))
            .chain(of(ResourceKind::ExtensionConfig, extensions))
            .collect()
    }

    /// One row for the status page; `None` when the name is not subscribed to.
    pub(crate) fn row(&self, kind: ResourceKind, name: &str) -> Option<Row<'_>> {
        match kind {
            ResourceKind::Listener => self.listeners.row(name),
            ResourceKind::Route => self.routes.row(name),
            ResourceKind::Cluster => self.clusters.row(name),
            ResourceKind::Endpoints => self.endpoints.row(name),
            ResourceKind::ExtensionConfig => self.extensions.row(name),
        }
    }

    /// Every subscribed name.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.listeners
            .rows()
            .chain(self.routes.rows())
            .chain(self.clusters.rows())
            .chain(self.endpoints.rows())
            .chain(self.extensions.rows())
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

impl Cached for Extension {
    fn table(cache: &Cache) -> &Table<Self> {
        &cache.extensions
    }

    fn table_mut(cache: &mut Cache) -> &mut Table<Self> {
        &mut cache.extensions
    }
}
