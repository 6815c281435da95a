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

mod refused;
mod sources;
mod table;

pub(crate) use sources::{Authorities, Sources, normal_form};
pub(crate) use table::{MAX_RESOURCES, Names, Recalled, Table};

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
    /// The control plane could not say, for a reason of its own that passes (xRFC TP3): whether there is one is not known.
    Failed(Arc<str>),
    /// The control plane did not say in time, where that means that it is ill (gRFC A88).
    TimedOut(Arc<str>),
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
    pub(crate) bytes: Option<&'a Arc<Vec<u8>>>,
    /// Set if that is from disk.
    pub(crate) recalled: Option<Recalled>,
    pub(crate) trouble: Option<&'a Trouble>,
    /// What was refused, as it came: of the trouble that says so, if it was small enough to be kept.
    pub(crate) refused: Option<&'a Arc<Vec<u8>>>,
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

    /// Every good value of a kind and its name, in order of names; last those that are kept although they were deleted.
    pub(crate) fn values<R: Cached + 'static>(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<R>)> {
        R::table(self).values()
    }

    /// Whether a good value is kept that the control plane no longer has.
    pub(crate) fn is_deleted<R: Cached>(&self, name: &str) -> bool {
        R::table(self).is_deleted(name)
    }

    /// Whether the control plane has said of everything what there is.
    pub(crate) fn is_complete<R: Cached>(&self) -> bool {
        R::table(self).is_complete()
    }

    /// Begins or ends the memory of names, so that it holds exactly the subscribed ones.
    pub(crate) fn insert(&mut self, kind: ResourceKind, name: &Arc<str>) {
        self.of_mut(kind).insert(name);
    }

    pub(crate) fn remove(&mut self, kind: ResourceKind, name: &str) {
        self.of_mut(kind).remove(name);
    }

    /// Whether resources that nobody named are kept too.
    pub(crate) fn open(&mut self, kind: ResourceKind, everything: bool) {
        self.of_mut(kind).open(everything);
    }

    /// Ends a resource that is not to outlive its time, however good it was.
    pub(crate) fn end(&mut self, kind: ResourceKind, name: &Arc<str>, why: &Arc<str>) {
        self.of_mut(kind).end(name, why);
    }

    /// Notes what is wrong with a name. A good value stays.
    pub(crate) fn trouble(&mut self, kind: ResourceKind, name: &Arc<str>, trouble: Trouble) {
        self.of_mut(kind).trouble(name, trouble);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        for kind in ResourceKind::ALL {
            self.of_mut(kind).clear();
        }
    }

    /// Whether nothing definite was heard of a subscribed name: nothing at all, or silence that was the control plane's trouble.
    pub(crate) fn is_unknown(&self, kind: ResourceKind, name: &str) -> bool {
        self.of(kind).is_unknown(name)
    }

    /// Whether everything of some kind was asked for and is not told yet.
    pub(crate) fn awaits_everything(&self) -> bool {
        ResourceKind::ALL
            .into_iter()
            .any(|kind| self.of(kind).awaits_everything())
    }

    /// The kinds of which everything was asked for and told.
    pub(crate) fn listed(&self) -> [bool; ResourceKind::COUNT] {
        ResourceKind::ALL.map(|kind| self.of(kind).is_listed())
    }

    /// Whether there is a good value of any name that `belongs`.
    pub(crate) fn has_any(&self, belongs: impl Fn(&str) -> bool) -> bool {
        ResourceKind::ALL
            .into_iter()
            .any(|kind| self.of(kind).has_any(&belongs))
    }

    /// Every name of which something is remembered.
    pub(crate) fn names(&self) -> impl Iterator<Item = Changed> {
        let kinds = ResourceKind::ALL.into_iter();
        kinds.flat_map(|kind| self.of(kind).names().into_iter().map(move |name| (kind, name)))
    }

    /// Takes over the last good values of another cache where this one has none, and says which.
    pub(crate) fn inherit(&mut self, from: &Self, belongs: impl Fn(&str) -> bool) -> Vec<Changed> {
        fn of<R: Cached>(
            to: &mut Cache,
            from: &Cache,
            belongs: &dyn Fn(&str) -> bool,
        ) -> impl Iterator<Item = Changed> + use<R> {
            let inherited = R::table_mut(to).inherit(R::table(from), belongs);
            inherited.into_iter().map(|name| (R::KIND, name))
        }
        let mut inherited: Vec<Changed> = of::<Listener>(self, from, &belongs).collect();
        inherited.extend(of::<RouteTree>(self, from, &belongs));
        inherited.extend(of::<ClusterSpec>(self, from, &belongs));
        inherited.extend(of::<Endpoints>(self, from, &belongs));
        inherited.extend(of::<Extension>(self, from, &belongs));
        inherited
    }

    /// Names and versions of what is held without dispute.
    pub(crate) fn held(&self, kind: ResourceKind) -> Vec<(Arc<str>, Arc<str>)> {
        self.of(kind).held()
    }

    /// Names of what was refused.
    pub(crate) fn refused(&self, kind: ResourceKind) -> Vec<Arc<str>> {
        self.of(kind).refused()
    }

    /// What changed since this was last asked, kind by kind; a name may come more than once.
    pub(crate) fn take_changed(&mut self) -> Vec<Changed> {
        let mut changed = Vec::new();
        for kind in ResourceKind::ALL {
            let names = self.of_mut(kind).take_changed();
            changed.extend(names.into_iter().map(|name| (kind, name)));
        }
        changed
    }

    /// One row for the status page; `None` when the name is not subscribed to. The empty name is that of what was refused without one.
    pub(crate) fn row(&self, kind: ResourceKind, name: &str) -> Option<Row<'_>> {
        self.of(kind).row(name)
    }

    /// Every subscribed name.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        ResourceKind::ALL.into_iter().flat_map(|kind| self.of(kind).rows())
    }

    fn of(&self, kind: ResourceKind) -> &dyn Names {
        match kind {
            ResourceKind::Listener => &self.listeners,
            ResourceKind::Route => &self.routes,
            ResourceKind::Cluster => &self.clusters,
            ResourceKind::Endpoints => &self.endpoints,
            ResourceKind::ExtensionConfig => &self.extensions,
        }
    }

    fn of_mut(&mut self, kind: ResourceKind) -> &mut dyn Names {
        match kind {
            ResourceKind::Listener => &mut self.listeners,
            ResourceKind::Route => &mut self.routes,
            ResourceKind::Cluster => &mut self.clusters,
            ResourceKind::Endpoints => &mut self.endpoints,
            ResourceKind::ExtensionConfig => &mut self.extensions,
        }
    }
}

/// Fits each kind of resource to its table.
macro_rules! cached {
    ($($resource:ty => $table:ident),* $(,)?) => {
        $(impl Cached for $resource {
            fn table(cache: &Cache) -> &Table<Self> {
                &cache.$table
            }

            fn table_mut(cache: &mut Cache) -> &mut Table<Self> {
                &mut cache.$table
            }
        })*
    };
}

cached! {
    Listener => listeners,
    RouteTree => routes,
    ClusterSpec => clusters,
    Endpoints => endpoints,
    Extension => extensions,
}
