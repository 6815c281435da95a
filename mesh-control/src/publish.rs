//! Readings to published snapshots: all namespaces or none, and the last good ones otherwise.
//!
//! Clients are grouped by namespace, since that is what Istio's visibility and short names depend on. A namespace that no
//! document names gets its own snapshot too, when its first client comes: even strangers see what is exported to all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::Snapshot;
use mesh_core::report::Tally;
use mesh_xds::server::{SnapshotCache, Unpublishable, Versions};
use tokio::sync::watch;

use crate::diagnostic::{Diagnostic, Severity};
use crate::istio::Documents;
use crate::source::Reading;
use crate::translate::{self, ClientScope, Mesh};

/// The most namespaces that clients may name beyond those of the documents. A plaintext client can name what it likes, and
/// each name costs a translation.
const MAX_ASKED: usize = 256;

/// What the control plane made of its folder so far.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// How many readings were published; 0 while there was no good one yet.
    pub accepted: u64,
    /// How many readings were refused; the last good configuration stayed.
    pub rejected: u64,
    /// What the newest reading, good or not, has to be told.
    pub diagnostics: Arc<[Diagnostic]>,
    versions: BTreeMap<Box<str>, Versions>,
}

impl Status {
    /// The versions that clients of a namespace are told now; `None` before anything was published to them.
    pub fn versions(&self, namespace: &str) -> Option<&Versions> {
        self.versions.get(namespace)
    }

    /// Whether the newest reading was refused.
    pub fn is_rejected(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Everything there is to say about a folder, as the control plane would say it, in the order of files and positions.
pub fn check(reading: &Reading, mesh: &Mesh) -> Vec<Diagnostic> {
    translate_all(reading, mesh, &BTreeSet::new()).1.into_iter().collect()
}

/// A snapshot for each namespace that the documents name, or that was asked for.
fn translate_all(
    reading: &Reading,
    mesh: &Mesh,
    asked: &BTreeSet<Box<str>>,
) -> (BTreeMap<Box<str>, Snapshot>, BTreeSet<Diagnostic>) {
    let mut snapshots = BTreeMap::new();
    let mut diagnostics: BTreeSet<Diagnostic> = reading.diagnostics.iter().cloned().collect();
    // Documents with holes would be told of again, as if what is missing had never been written.
    if diagnostics.iter().any(Diagnostic::is_error) {
        return (snapshots, diagnostics);
    }
    let mut namespaces = translate::namespaces(&reading.documents, mesh);
    namespaces.extend(asked.iter().cloned());
    for namespace in namespaces {
        let scope = ClientScope::namespace(namespace.clone());
        let translation = translate::translate(&reading.documents, mesh, &scope);
        diagnostics.extend(translation.diagnostics);
        snapshots.extend(translation.snapshot.map(|snapshot| (namespace, snapshot)));
    }
    (snapshots, diagnostics)
}

/// Translates and publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    mesh: Mesh,
    cache: SnapshotCache,
    tally: Tally,
    good: Mutex<Good>,
    status: watch::Sender<Status>,
}

/// The last good configuration, and who wants to know.
#[derive(Debug, Default)]
struct Good {
    documents: Option<Documents>,
    /// Namespaces that clients named and the documents may not.
    asked: BTreeSet<Box<str>>,
}

impl Publisher {
    pub(crate) fn new(mesh: Mesh, cache: SnapshotCache, tally: Tally) -> Self {
        Self {
            mesh,
            cache,
            tally,
            good: Mutex::default(),
            status: watch::Sender::default(),
        }
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Takes a new reading: published when nothing in it is an error, told in any case.
    pub(crate) fn take(&self, reading: Reading) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let (snapshots, diagnostics) = translate_all(&reading, &self.mesh, &good.asked);
        let accepted = !diagnostics.iter().any(Diagnostic::is_error) && self.publish(&snapshots);
        if accepted {
            good.documents = Some(reading.documents);
        }
        self.tell(diagnostics, accepted);
    }

    /// Makes sure that clients of `namespace` are told something; `false`: too many namespaces were asked for.
    pub(crate) fn ask(&self, namespace: &str) -> bool {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.asked.contains(namespace) {
            return true;
        }
        if good.asked.len() >= MAX_ASKED {
            let named = |documents: &Documents| translate::namespaces(documents, &self.mesh).contains(namespace);
            return good.documents.as_ref().is_some_and(named);
        }
        good.asked.insert(namespace.into());
        if let Some(documents) = &good.documents {
            // Good for every namespace it was translated for; for this one it may still not be. Then it is told nothing.
            let translation = translate::translate(documents, &self.mesh, &ClientScope::namespace(namespace));
            if let Some(snapshot) = translation.snapshot {
                self.publish(&BTreeMap::from([(namespace.into(), snapshot)]));
            }
        }
        true
    }

    /// Publishes to every namespace, or to none when clients could not use what one would be told.
    fn publish(&self, snapshots: &BTreeMap<Box<str>, Snapshot>) -> bool {
        // The cache checks what it is given, but one namespace at a time; here the first may not go out if the last is bad.
        let trial = SnapshotCache::new();
        let checked = snapshots
            .iter()
            .try_for_each(|(namespace, snapshot)| trial.publish(namespace, snapshot).map(drop));
        let published = checked.and_then(|()| {
            let mut versions = Vec::with_capacity(snapshots.len());
            for (namespace, snapshot) in snapshots {
                versions.push((namespace.clone(), self.cache.publish(namespace, snapshot)?));
            }
            Ok::<_, Unpublishable>(versions)
        });
        match published {
            Ok(versions) => {
                self.status.send_modify(|status| status.versions.extend(versions));
                true
            }
            Err(error) => {
                self.tally.count("configuration", "unpublishable");
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "clients could not use this configuration: the last good one stays"
                );
                false
            }
        }
    }

    fn tell(&self, diagnostics: BTreeSet<Diagnostic>, accepted: bool) {
        for finding in &diagnostics {
            match finding.severity {
                Severity::Error => tracing::error!("{finding}"),
                Severity::Warning => tracing::warn!("{finding}"),
                Severity::Note => tracing::info!("{finding}"),
            }
        }
        self.tally
            .count("configuration", if accepted { "accepted" } else { "rejected" });
        self.status.send_modify(|status| {
            status.diagnostics = diagnostics.into_iter().collect();
            *(if accepted {
                &mut status.accepted
            } else {
                &mut status.rejected
            }) += 1;
            tracing::info!(
                accepted = status.accepted,
                rejected = status.rejected,
                "the folder was read"
            );
        });
    }
}
