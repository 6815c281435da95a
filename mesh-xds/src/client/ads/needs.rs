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
