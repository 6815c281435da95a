//! What the hosts of a cluster are called with, each value once: so that hosts are compared by pointer, however many there are.

use std::sync::Arc;

use mesh_core::config::{Cluster, TlsMode};

/// The TLS modes of a cluster, each value as one `Arc`: that of the hosts there are, where they are called with it already.
pub(super) struct Modes<'a> {
    /// By the place that `Cluster::tls_for` points to.
    places: Vec<(&'a TlsMode, Option<Arc<TlsMode>>)>,
}

impl<'a> Modes<'a> {
    pub(super) fn new(cluster: &'a Cluster, old: &[Arc<TlsMode>]) -> Self {
        let mut distinct = old.to_vec();
        let all = std::iter::once(&cluster.tls).chain(cluster.tls_matches.iter().map(|one| &one.mode));
        let places = all.map(|mode| {
            if *mode == TlsMode::Plaintext {
                return (mode, None);
            }
            let known = distinct.iter().find(|known| ***known == *mode).cloned();
            let tls = known.unwrap_or_else(|| {
                let new = Arc::new(mode.clone());
                distinct.push(Arc::clone(&new));
                new
            });
            (mode, Some(tls))
        });
        Self {
            places: places.collect(),
        }
    }

    pub(super) fn of(&self, mode: &TlsMode) -> Option<&Arc<TlsMode>> {
        let place = self.places.iter().find(|(place, _)| std::ptr::eq(*place, mode));
        place
            .expect("a cluster's endpoints are called with modes of the cluster")
            .1
            .as_ref()
    }

    pub(super) fn used(self) -> Vec<Arc<TlsMode>> {
        let mut used: Vec<Arc<TlsMode>> = Vec::new();
        for tls in self.places.into_iter().filter_map(|(_, tls)| tls) {
            if !used.iter().any(|known| Arc::ptr_eq(known, &tls)) {
                used.push(tls);
            }
        }
        used
    }
}

/// Whether connections made with the one are those of the other.
pub(super) fn same(a: Option<&Arc<TlsMode>>, b: Option<&Arc<TlsMode>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}
