//! What is to be subscribed to.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use crate::resource::ResourceKind;

/// Names by kind, indexed by [`ResourceKind::index`], and the kinds of which everything is wanted.
///
/// A kind of which everything is wanted has names too: those that some tree looks at, which must not be forgotten when the
/// control plane stops listing them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    names: [BTreeSet<Arc<str>>; ResourceKind::COUNT],
    everything: [bool; ResourceKind::COUNT],
}

impl Needs {
    /// Asks for all there is of a kind (xDS protocol, "Wildcard"): listeners and clusters, as Envoy does.
    pub(crate) fn want_everything(&mut self, kind: ResourceKind) {
        self.everything[kind.index()] = true;
    }

    /// Whether all there is of a kind is asked for.
    pub(crate) fn wants_everything(&self, kind: ResourceKind) -> bool {
        self.everything[kind.index()]
    }

    /// Each name and its kind.
    pub(crate) fn names(&self) -> impl Iterator<Item = (ResourceKind, &Arc<str>)> {
        let kinds = ResourceKind::ALL.into_iter();
        kinds.flat_map(|kind| self.names[kind.index()].iter().map(move |name| (kind, name)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.iter().all(BTreeSet::is_empty) && !self.everything.contains(&true)
    }

    /// Whether there is a name of which `belongs` is true; or, where that counts, a kind of which everything is wanted.
    pub(crate) fn any(&self, belongs: impl Fn(&str) -> bool, everything_counts: bool) -> bool {
        (everything_counts && self.everything.contains(&true)) || self.names().any(|(_, name)| belongs(name))
    }

    /// Those names of which `belongs` is true, with or without the kinds of which everything is wanted.
    pub(crate) fn filter(&self, belongs: impl Fn(&str) -> bool, with_everything: bool) -> Self {
        let kept = |names: &BTreeSet<Arc<str>>| names.iter().filter(|name| belongs(name)).cloned().collect();
        Self {
            names: self.names.each_ref().map(kept),
            everything: self.everything.map(|everything| everything && with_everything),
        }
    }

    /// What either wants.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        for kind in ResourceKind::ALL.map(ResourceKind::index) {
            union.names[kind].extend(other.names[kind].iter().cloned());
            union.everything[kind] |= other.everything[kind];
        }
        union
    }

    /// The names of each kind.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &BTreeSet<Arc<str>>> {
        self.names.iter()
    }
}

impl Index<usize> for Needs {
    type Output = BTreeSet<Arc<str>>;

    fn index(&self, kind: usize) -> &BTreeSet<Arc<str>> {
        &self.names[kind]
    }
}

impl IndexMut<usize> for Needs {
    fn index_mut(&mut self, kind: usize) -> &mut BTreeSet<Arc<str>> {
        &mut self.names[kind]
    }
}
