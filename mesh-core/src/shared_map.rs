//! A map whose clones share all that neither changed since: what lets one changed endpoint among ten thousand clusters cost
//! one cluster's work.
//!
//! Configuration is published as whole, immutable values, and a plain map of ten thousand entries would be copied for every
//! small update. Entries are spread over a fixed number of shards by a hash that is the same in every map, and a change
//! copies its own shard only. Two maps of one lineage are compared shard by shard, by pointer first. A tree of a general
//! persistent-map library does the same with more pointers to follow; those that are kept are under licences that this
//! house does not link.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

/// Into how many parts the entries are spread: a change of a map of 10,000 entries copies about 40 of them.
const SHARDS: usize = 256;

/// Keyed with zeros in every map, so that a key has the same shard in all of them.
type Fixed = BuildHasherDefault<DefaultHasher>;
type Shard<K, V> = HashMap<K, V, Fixed>;

/// A map whose clones share all that neither changed since: one changed entry of ten thousand copies about forty.
///
/// ```
/// use mesh_core::SharedMap;
/// let before: SharedMap<&str, u32> = [("a", 1), ("b", 2)].into_iter().collect();
/// let mut after = before.clone();
/// after.insert("b", 3);
/// let changed: Vec<_> = after.changed_since(&before).map(|(key, _)| *key).collect();
/// assert_eq!((changed, before.get("b")), (vec!["b"], Some(&2)));
/// ```
pub struct SharedMap<K, V> {
    shards: Arc<[Arc<Shard<K, V>>]>,
    len: usize,
}

impl<K, V> SharedMap<K, V> {
    /// An empty one.
    pub fn new() -> Self {
        let empty = Arc::new(Shard::default());
        Self {
            shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(),
            len: 0,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Every key, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Every value, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Eq + Hash, V> SharedMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[shard_of(key)].get(key)
    }

    /// Whether there is a value.
    pub fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries that `before` lacks or has with another value. Costs what differs, when one came of the other.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        V: PartialEq,
    {
        self.touched_since(before)
            .flat_map(|(new, old)| new.iter().filter(|(key, value)| old.get(*key) != Some(*value)))
    }

    /// The keys that `before` has and this lacks.
    pub fn removed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a K> {
        self.touched_since(before)
            .flat_map(|(new, old)| old.keys().filter(|key| !new.contains_key(*key)))
    }

    fn touched_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (&'a Shard<K, V>, &'a Shard<K, V>)> {
        let pairs = self.shards.iter().zip(before.shards.iter());
        pairs
            .filter(|(new, old)| !Arc::ptr_eq(new, old))
            .map(|(new, old)| (&**new, &**old))
    }
}

impl<K: Eq + Hash + Clone, V: Clone> SharedMap<K, V> {
    /// Sets the value of a key; what it was before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.shard_mut(&key).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a key out; what it was.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // A look first: one that is not there must not cost a copy.
        self.get(key)?;
        let before = self.shard_mut(key).remove(key);
        self.len -= usize::from(before.is_some());
        before
    }

    fn shard_mut<Q: Hash + ?Sized>(&mut self, key: &Q) -> &mut Shard<K, V> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard_of(key)])
    }
}

fn shard_of<Q: Hash + ?Sized>(key: &Q) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as usize % SHARDS
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            shards: Arc::clone(&self.shards),
            len: self.len,
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Eq + Hash, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.touched_since(other).all(|(new, old)| new == old)
    }
}

impl<K: Eq + Hash, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Eq + Hash + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(until: u32) -> SharedMap<u32, u32> {
        (0..until).map(|number| (number, number)).collect()
    }

    #[test]
    fn a_change_is_seen_by_one_and_copies_one_shard() {
        let before = numbers(10_000);
        let mut after = before.clone();
        assert_eq!(after.insert(7, 70), Some(7));
        assert_eq!(after.insert(10_000, 1), None);
        assert_eq!(after.remove(&8), Some(8));
        assert_eq!(after.remove(&8), None);
        assert_eq!((before.len(), after.len()), (10_000, 10_000));
        assert_eq!((before.get(&7), after.get(&7)), (Some(&7), Some(&70)));
        let mut changed: Vec<_> = after.changed_since(&before).collect();
        changed.sort_unstable();
        assert_eq!(changed, [(&7, &70), (&10_000, &1)]);
        assert_eq!(after.removed_since(&before).collect::<Vec<_>>(), [&8]);
        let touched = after.touched_since(&before).count();
        assert!((1..=3).contains(&touched), "{touched}");
    }

    #[test]
    fn equality_is_of_entries_and_not_of_history() {
        let (a, mut b) = (numbers(500), numbers(501));
        assert_ne!(a, b);
        b.remove(&500);
        assert_eq!(a, b);
        b.insert(3, 4);
        assert_ne!(a, b);
        assert_eq!(format!("{:?}", numbers(1)), "{0: 0}");
    }
}
