//! Readings to published snapshots: all namespaces or none, and the last good ones otherwise.
//!
//! Clients are grouped by namespace, since that is what Istio's visibility and short names depend on. All those in namespaces
//! that no document names are one group: nothing tells them apart, and a client that invents names costs nothing. When a
//! document begins or ceases to name a namespace, streams that were grouped otherwise are ended; their clients keep what they
//! have and come again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::Snapshot;
use mesh_core::report::Tally;
use mesh_xds::server::{SnapshotCache, Versions};
use tokio::sync::watch;

use crate::diagnostic::{Diagnostic, Severity};
use crate::emptied::Emptied;
use crate::jwks::JwksStore;
use crate::registration::{self, Registration};
use crate::source::Reading;
use crate::translate::{self, ClientPlace, ClientScope, Mesh};

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
    /// The versions that clients of a namespace are told now; `None` before anything was published.
    pub fn versions(&self, namespace: &str) -> Option<&Versions> {
        let unnamed = || self.versions.get(&ClientScope::unnamed().namespace);
        self.versions.get(namespace).or_else(unnamed)
    }

    /// Whether the newest reading was refused.
    pub fn is_rejected(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Everything there is to say about a folder, as the control plane says it before it publishes, in the order of files and positions.
pub fn analyze(reading: &Reading, mesh: &Mesh) -> Vec<Diagnostic> {
    translate_all(reading, mesh).1.into_iter().collect()
}

/// A snapshot for each namespace that the documents name, and one for all others; of each, one for each place that matters.
fn translate_all(reading: &Reading, mesh: &Mesh) -> (BTreeMap<Box<str>, Snapshot>, BTreeSet<Diagnostic>) {
    let mut snapshots = BTreeMap::new();
    let mut diagnostics: BTreeSet<Diagnostic> = reading.diagnostics.iter().cloned().collect();
    // Documents with holes would be told of again, as if what is missing had never been written.
    if diagnostics.iter().any(Diagnostic::is_error) {
        return (snapshots, diagnostics);
    }
    diagnostics.extend(translate::analysis(&reading.documents, mesh));
    let named = translate::namespaces(&reading.documents, mesh);
    let places = translate::places(&reading.documents, mesh);
    let scopes = named
        .into_iter()
        .map(ClientScope::namespace)
        .chain([ClientScope::unnamed()]);
    let scopes = scopes.flat_map(|scope| {
        let there = places.iter().cloned().map(|place| scope.clone().at(place));
        there.chain([scope.clone()]).collect::<Vec<_>>()
    });
    for scope in scopes {
        let translation = translate::translate(&reading.documents, mesh, &scope);
        diagnostics.extend(translation.diagnostics);
        snapshots.extend(translation.snapshot.map(|snapshot| (scope.group(), snapshot)));
    }
    (snapshots, diagnostics)
}

/// The groups whose streams end, since clients of theirs belong to another one from now on: before this they were among those that no
/// document names, or will be.
fn regrouped(groups: &BTreeSet<Box<str>>, new: &BTreeSet<Box<str>>) -> BTreeSet<Box<str>> {
    let mut leaving: BTreeSet<Box<str>> = groups.difference(new).cloned().collect();
    if !new.is_subset(groups) {
        leaving.insert(ClientScope::unnamed().namespace);
    }
    // Who was told what holds anywhere, or in a wider place, may be told of its own from now on.
    let narrowed = |group: &str| {
        let mut added = new.difference(groups);
        added.any(|new| new.strip_prefix(group).is_some_and(|rest| rest.starts_with(['@', '/'])))
    };
    leaving.extend(groups.iter().filter(|group| narrowed(group)).cloned());
    leaving
}

/// A reading with those who registered themselves.
fn with_registered<'r>(reading: &'r Reading, registered: &[Registration]) -> Cow<'r, Reading> {
    if registered.is_empty() {
        return Cow::Borrowed(reading);
    }
    let mut reading = reading.clone();
    registration::add(registered, &mut reading.documents);
    Cow::Owned(reading)
}

/// Translates and publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    mesh: Mesh,
    cache: SnapshotCache,
    tally: Tally,
    /// Keys of issuers, which are no part of any reading.
    jwks: Arc<JwksStore>,
    published: Mutex<Published>,
    status: watch::Sender<Status>,
}

#[derive(Debug, Default)]
struct Published {
    /// The groups that something was published to.
    groups: BTreeSet<Box<str>>,
    /// What they were told last.
    snapshots: BTreeMap<Box<str>, Snapshot>,
    /// The last good reading: what is published again when keys change.
    good: Reading,
    /// Who registered itself, which is no part of any reading either.
    registered: Vec<Registration>,
    /// What the newest reading, good or not, has to be told of its documents.
    found: BTreeSet<Diagnostic>,
    /// Whether there is too little of it to be meant.
    emptied: Emptied,
}

impl Publisher {
    pub(crate) fn new(mesh: Mesh, cache: SnapshotCache, tally: Tally, jwks: Arc<JwksStore>, emptied: Emptied) -> Self {
        Self {
            mesh,
            cache,
            tally,
            jwks,
            published: Mutex::new(Published {
                emptied,
                ..Published::default()
            }),
            status: watch::Sender::default(),
        }
    }

    /// Begins with those who were registered when another control plane ended: they are part of what is published first.
    pub(crate) fn restore(&self, registered: Vec<Registration>) {
        self.published().registered = registered;
    }

    /// The namespace that the mesh is administered from.
    pub(crate) fn root_namespace(&self) -> &str {
        &self.mesh.root_namespace
    }

    /// What each group of clients is told now. Clones of a snapshot share everything.
    pub(crate) fn snapshots(&self) -> BTreeMap<Box<str>, Snapshot> {
        self.published().snapshots.clone()
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Takes a new reading: published when nothing in it is an error, told in any case.
    pub(crate) fn take(&self, mut reading: Reading) {
        let mut published = self.published();
        let now = tokio::time::Instant::now().into_std();
        // Documents with holes say nothing of what is there.
        if !reading.diagnostics.iter().any(Diagnostic::is_error)
            && let Some(emptied) = published.emptied.judge(&reading.documents, now)
        {
            self.tally.count("configuration", "emptied");
            reading.diagnostics.push(emptied);
        }
        self.jwks.fill(&mut reading.documents);
        let (snapshots, found) = translate_all(&with_registered(&reading, &published.registered), &self.mesh);
        let accepted = !found.iter().any(Diagnostic::is_error) && self.publish(&mut published.groups, &snapshots);
        if accepted {
            published.snapshots = snapshots;
            published.emptied.published(&reading.documents, now);
            self.jwks.want(&reading.documents);
            published.good = reading;
        }
        published.found = found;
        let diagnostics = self.diagnostics(&published);
        drop(published);
        self.tell(diagnostics, accepted);
    }

    /// Takes what became of fetching keys: the last good reading is published again with those that are others now.
    pub(crate) fn take_keys(&self) {
        let mut published = self.published();
        let Published {
            groups,
            good,
            snapshots: told,
            registered,
            ..
        } = &mut *published;
        if self.jwks.fill(&mut good.documents) {
            let (snapshots, _) = translate_all(&with_registered(good, registered), &self.mesh);
            let accepted = self.publish(groups, &snapshots);
            if accepted {
                *told = snapshots;
            }
            self.tally
                .count("jwks_published", if accepted { "accepted" } else { "rejected" });
            tracing::info!(accepted, "keys of issuers have changed");
        }
        let diagnostics = self.diagnostics(&published);
        drop(published);
        self.status
            .send_modify(|status| status.diagnostics = diagnostics.into_iter().collect());
    }

    /// Takes who is registered now: the last good reading is published again with them.
    pub(crate) fn take_registered(&self, registered: Vec<Registration>) {
        let mut published = self.published();
        let count = registered.len();
        published.registered = registered;
        let Published {
            groups,
            good,
            snapshots: told,
            registered,
            ..
        } = &mut *published;
        let (snapshots, found) = translate_all(&with_registered(good, registered), &self.mesh);
        let accepted = !found.iter().any(Diagnostic::is_error) && self.publish(groups, &snapshots);
        if accepted {
            *told = snapshots;
        }
        self.tally
            .count("registered_published", if accepted { "accepted" } else { "rejected" });
        tracing::info!(accepted, count, "other workloads are registered");
    }

    /// Whether the documents have groups of workloads that register themselves.
    pub(crate) fn has_groups(&self) -> bool {
        !self.published().good.documents.workload_groups.is_empty()
    }

    /// What holds for the whole mesh.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    fn diagnostics(&self, published: &Published) -> BTreeSet<Diagnostic> {
        let of_keys = self.jwks.findings(&published.good.documents);
        published.found.iter().cloned().chain(of_keys).collect()
    }

    /// The group of clients of `namespace`, its own when a document names it; of those at `place`, as narrowly as anything turns
    /// on that.
    pub(crate) fn group(&self, namespace: &str, place: &ClientPlace) -> Box<str> {
        let published = self.published();
        let groups = &published.groups;
        let scope = match groups.contains(namespace) {
            true => ClientScope::namespace(namespace),
            false => ClientScope::unnamed(),
        };
        let there = place.wider().map(|place| scope.clone().at(place).group());
        let mut there = there.filter(|group| groups.contains(group));
        there.next().unwrap_or(scope.namespace)
    }

    /// Publishes to every group, or to none when clients could not use what one would be told.
    fn publish(&self, groups: &mut BTreeSet<Box<str>>, snapshots: &BTreeMap<Box<str>, Snapshot>) -> bool {
        let new: BTreeSet<Box<str>> = snapshots.keys().cloned().collect();
        let leaving = regrouped(groups, &new);
        let each = snapshots.iter().map(|(group, snapshot)| (&**group, snapshot));
        let published = self.cache.publish_all(each, leaving.iter().map(|group| &**group));
        match published {
            Ok(versions) => {
                *groups = new;
                self.status.send_modify(|status| status.versions = versions);
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

    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, diagnostics: BTreeSet<Diagnostic>, accepted: bool) {
        for finding in &diagnostics {
            match finding.severity {
                Severity::Error => tracing::error!("{finding}"),
                Severity::Warning => tracing::warn!("{finding}"),
                Severity::Info => tracing::info!("{finding}"),
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
            let (accepted_so_far, rejected_so_far) = (status.accepted, status.rejected);
            if accepted {
                tracing::info!(accepted_so_far, rejected_so_far, "the folder was read and is published");
            } else {
                tracing::warn!(
                    accepted_so_far,
                    rejected_so_far,
                    "the folder was read and refused: the last good configuration stays"
                );
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::istio::Documents;
    use crate::jwks::REFRESH_INTERVAL;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reading(text: &str) -> Reading {
        let mut documents = Documents::default();
        let diagnostics = documents.read("f.yaml", text);
        Reading { documents, diagnostics }
    }

    fn publisher() -> Publisher {
        let jwks = Arc::new(JwksStore::new(REFRESH_INTERVAL, None));
        let emptied = Emptied::open(std::path::Path::new("f"), None, true).unwrap();
        Publisher::new(Mesh::default(), SnapshotCache::new(), Tally::default(), jwks, emptied)
    }

    #[test]
    fn each_reading_is_logged_as_what_it_was() {
        let (log, publisher) = (Log::default(), publisher());
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            publisher.take(reading(""));
            publisher.take(reading("["));
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("the folder was read"))
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains("and is published") && lines[0].contains("accepted_so_far=1"),
            "{text}"
        );
        assert!(
            lines[1].contains("and refused") && lines[1].contains("rejected_so_far=1"),
            "{text}"
        );
    }

    #[test]
    fn invented_namespaces_are_one_group_until_a_document_names_them() {
        const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
                             metadata: {name: a, namespace: late}\nspec: {address: 127.0.0.1}\n";
        let (publisher, nowhere) = (publisher(), ClientPlace::default());
        publisher.take(reading(""));
        for number in 0..1000 {
            assert_eq!(&*publisher.group(&format!("invented-{number}"), &nowhere), "");
        }
        assert_eq!(
            (
                &*publisher.group("late", &nowhere),
                &*publisher.group("default", &nowhere)
            ),
            ("", "default")
        );
        publisher.take(reading(ENTRY));
        assert_eq!(&*publisher.group("late", &nowhere), "late");
        // A bad reading changes nobody's group.
        publisher.take(reading("["));
        assert_eq!(&*publisher.group("late", &nowhere), "late");
        publisher.take(reading(""));
        assert_eq!(&*publisher.group("late", &nowhere), "");
    }

    /// Places matter only where a rule looks at them; a client is told what holds in the narrowest that is known.
    #[test]
    fn places_are_told_apart_where_something_turns_on_them() {
        const RULE: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: shop}\n\
                            spec: {host: a.shop.svc.cluster.local, trafficPolicy: {outlierDetection: {}}}\n---\n";
        const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
                             metadata: {name: a, namespace: shop}\nspec: {address: 127.0.0.1, locality: eu/a}\n";
        let publisher = publisher();
        let here = ClientPlace::new(["eu", "a", "rack-1"]);
        publisher.take(reading(ENTRY));
        assert_eq!(&*publisher.group("shop", &here), "shop");
        publisher.take(reading(&format!("{RULE}{ENTRY}")));
        assert_eq!(&*publisher.group("shop", &here), "shop@eu/a");
        assert_eq!(&*publisher.group("shop", &ClientPlace::new(["eu", "b"])), "shop@eu");
        assert_eq!(&*publisher.group("shop", &ClientPlace::new(["us"])), "shop");
        assert_eq!(&*publisher.group("elsewhere", &here), "@eu/a");
        publisher.take(reading(ENTRY));
        assert_eq!(&*publisher.group("shop", &here), "shop");
    }
}
