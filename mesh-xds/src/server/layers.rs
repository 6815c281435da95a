//! The resources of one kind as one client sees them: those of its group, shared by all of it, and a few of its own.
//!
//! Layers and not a copy with more in it: a group of a thousand servers that each ask for a listener of their own address shares one map.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

type Map<V> = BTreeMap<Arc<str>, V>;

/// See the module. No name is in both layers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layers<V> {
    shared: Arc<Map<V>>,
    own: Map<V>,
}

impl<V> Layers<V> {
    /// The same with `own` above; what is shared already stays as it is.
    pub(super) fn with(&self, own: Map<V>) -> Self {
        let new = own.into_iter().filter(|(name, _)| !self.shared.contains_key(name));
        Self {
            own: new.collect(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Those of the group.
    pub(super) fn shared(&self) -> &Map<V> {
        &self.shared
    }

    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        self.own.get(name).or_else(|| self.shared.get(name))
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.own.iter().chain(self.shared.iter())
    }
}

impl<V> From<Map<V>> for Layers<V> {
    fn from(shared: Map<V>) -> Self {
        Self {
            shared: Arc::new(shared),
            own: Map::new(),
        }
    }
}

impl<V> Index<&str> for Layers<V> {
    type Output = V;

    fn index(&self, name: &str) -> &V {
        self.get(name).expect("whoever indexes took the name from here")
    }
}

#[cfg(test)]
impl<V> Layers<V> {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }
}
