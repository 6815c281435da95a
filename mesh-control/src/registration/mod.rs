//! Workloads that register themselves: one whose stream is there, and which says of what `WorkloadGroup` it is, is a `WorkloadEntry` of that
//! group (Istio's auto-registration), and is none any more when its stream has been gone for a while.
//!
//! Whoever has a certificate of the group's service account is believed, and nobody else: it could serve under that name anyway, and its
//! callers expect that identity wherever it says that it is. With a state directory a control plane that starts anew begins with who was
//! registered last (`kept`), and gives them the same while to come back.

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_xds::server::{ClientReport, SnapshotCache};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::istio::{Document, Documents, Meta, WorkloadEntry};
use crate::publish::Publisher;
use crate::translate::{DEFAULT_SERVICE_ACCOUNT, Mesh};

pub(crate) use kept::Kept;

/// How long a workload stays registered whose stream has gone (Istio `PILOT_WORKLOAD_ENTRY_GRACE_PERIOD`).
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// How long streams that come and go are gathered before who is there is looked at again.
const GATHER: Duration = Duration::from_millis(50);
/// The most workloads that are registered: as many as streams that two machines hold.
const MAX_REGISTERED: usize = 100_000;
/// What a node calls its group, and its addresses (Istio).
const GROUP: &str = "AUTO_REGISTER_GROUP";
const ADDRESSES: &str = "INSTANCE_IPS";

/// A workload that is there and says of what group it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Registration {
    namespace: Box<str>,
    group: Box<str>,
    account: Box<str>,
    address: IpAddr,
}

impl Registration {
    /// What a client asks to be, where its certificate is of the mesh.
    fn asked(client: &ClientReport, mesh: &Mesh) -> Option<Self> {
        let group = client.node.metadata_text(GROUP).filter(|group| !group.is_empty())?;
        let peer = client.peer.as_ref()?;
        mesh.trust_domains()
            .find(|domain| *domain == peer.trust_domain().as_str())?;
        let (namespace, account) = peer.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        let said = client.node.metadata_text(ADDRESSES).unwrap_or_default();
        let said = said.split(',').next().and_then(|text| text.trim().parse().ok());
        Some(Self {
            namespace: namespace.into(),
            group: group.into(),
            account: account.into(),
            address: said.or_else(|| client.address.map(|address| address.ip()))?,
        })
    }

    /// What it is by the documents; `None`: they have no such group, or it is another service account's.
    fn entry(&self, documents: &Documents) -> Option<Document<WorkloadEntry>> {
        let mut groups = documents.workload_groups.iter();
        let group = groups.find(|group| group.meta.namespace() == &*self.namespace && group.meta.name == self.group)?;
        let account = group.spec.service_account().unwrap_or(DEFAULT_SERVICE_ACCOUNT);
        if account != &*self.account {
            return None;
        }
        let meta = Meta {
            kind: "WorkloadEntry",
            name: format!("{}-{}", self.group, self.address).into(),
            ..group.meta.clone()
        };
        let spec = group.spec.workload(self.address);
        Some(Document { meta, spec })
    }
}

/// Adds those who registered themselves to what is written.
pub(crate) fn add(registered: &[Registration], documents: &mut Documents) {
    let entries: Vec<_> = registered.iter().filter_map(|one| one.entry(documents)).collect();
    documents.workload_entries.extend(entries);
}

/// Who is registered.
#[derive(Debug, Default)]
struct Registrations {
    /// And until when, if its stream is gone.
    all: BTreeMap<Registration, Option<Instant>>,
}

impl Registrations {
    /// Those whose streams were somebody else's, and went with it.
    fn restored(all: Vec<Registration>, now: Instant, grace: Duration) -> Self {
        let all = all.into_iter().take(MAX_REGISTERED);
        Self {
            all: all.map(|one| (one, Some(now + grace))).collect(),
        }
    }

    /// Takes who is there now. Whether others are registered than before.
    fn see(&mut self, there: &BTreeSet<Registration>, now: Instant, grace: Duration) -> bool {
        let before = self.all.len();
        for (one, until) in &mut self.all {
            match there.contains(one) {
                true => *until = None,
                false => drop(until.get_or_insert(now + grace)),
            }
        }
        self.all.retain(|_, until| until.is_none_or(|until| until > now));
        let left = self.all.len();
        // Those who left count too while they stay, so that nobody fills the memory by coming and going.
        for one in there {
            if self.all.len() >= MAX_REGISTERED {
                break;
            }
            self.all.entry(one.clone()).or_insert(None);
        }
        left < before || self.all.len() > left
    }

    /// When the next one leaves.
    fn next(&self) -> Option<Instant> {
        self.all.values().flatten().min().copied()
    }

    fn registered(&self) -> Vec<Registration> {
        self.all.keys().cloned().collect()
    }
}

/// Has who is there published and, where there is a place for it, written down, until dropped. It begins with those who are `restored`, of
/// whom the publisher knows.
pub(crate) async fn keep(
    cache: SnapshotCache,
    publisher: Arc<Publisher>,
    grace: Duration,
    (kept, restored): (Option<Kept>, Vec<Registration>),
) {
    let (mut clients, mut status) = (cache.client_changes(), publisher.status());
    let mut registrations = Registrations::restored(restored, Instant::now(), grace);
    let kept = kept.map(Arc::new);
    loop {
        clients.borrow_and_update();
        status.borrow_and_update();
        // Nobody looks at ten thousand streams for nothing.
        let there = match publisher.has_groups() {
            true => {
                let all = cache.clients();
                all.iter()
                    .filter_map(|client| Registration::asked(client, publisher.mesh()))
                    .collect()
            }
            false => BTreeSet::new(),
        };
        if registrations.see(&there, Instant::now(), grace) {
            let (publisher, registered) = (Arc::clone(&publisher), registrations.registered());
            let kept = kept.clone();
            let published = tokio::task::spawn_blocking(move || {
                publisher.take_registered(registered.clone());
                if let Some(kept) = kept {
                    kept.keep(&registered);
                }
            });
            let published = published.await;
            if published.is_err() {
                return;
            }
        }
        let next = registrations.next();
        let leaves = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            changed = clients.changed() => changed.is_err(),
            changed = status.changed() => changed.is_err(),
            () = leaves => false,
        };
        if ended {
            return;
        }
        tokio::time::sleep(GATHER).await;
    }
}

#[cfg(test)]
mod tests;
