//! What changed between two snapshots: the same value under the same name is kept, whatever else was resent.
//!
//! Compared by pointer first, since a source that hears the same bytes again keeps the old `Arc`, and by value second.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::config::Resolved;

/// How `new` differs from `old`.
#[derive(Debug)]
pub struct Changes<'a, K, T> {
    /// Names in both, with equal values.
    pub kept: Vec<&'a K>,
    /// Names that are new, or whose value is.
    pub changed: Vec<(&'a K, &'a Resolved<T>)>,
    /// Names that are gone.
    pub removed: Vec<&'a K>,
}

/// Compares two sets of resolved names.
pub fn reconcile<'a, K: Eq + Hash, T: Eq>(
    old: &'a HashMap<K, Resolved<T>>,
    new: &'a HashMap<K, Resolved<T>>,
) -> Changes<'a, K, T> {
    let mut changes = Changes {
        kept: Vec::new(),
        changed: Vec::new(),
        removed: Vec::new(),
    };
    for (name, value) in new {
        match old.get(name) {
            Some(before) if same(before, value) => changes.kept.push(name),
            _ => changes.changed.push((name, value)),
        }
    }
    changes
        .removed
        .extend(old.keys().filter(|name| !new.contains_key(*name)));
    changes
}

fn same<T: Eq>(a: &Resolved<T>, b: &Resolved<T>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => Arc::ptr_eq(a, b) || a == b,
        (Err(a), Err(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_changed_removed() {
        let one = Arc::new(1);
        let old = HashMap::from([
            ("a", Ok(Arc::clone(&one))),
            ("b", Ok(Arc::new(2))),
            ("c", Ok(Arc::new(3))),
        ]);
        let new = HashMap::from([("a", Ok(one)), ("b", Ok(Arc::new(20))), ("d", Ok(Arc::new(4)))]);
        let changes = reconcile(&old, &new);
        let mut changed: Vec<_> = changes.changed.iter().map(|(name, _)| **name).collect();
        changed.sort_unstable();
        assert_eq!(
            (changes.kept, changed, changes.removed),
            (vec![&"a"], vec!["b", "d"], vec![&"c"])
        );
    }
}
