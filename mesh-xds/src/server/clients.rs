//! Who is connected, and what each said to what it was sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use mesh_core::identity::SpiffeId;
use tokio::sync::watch;

use crate::node::Node;
use crate::resource::ResourceKind;

/// One connected client.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientReport {
    /// Numbers streams in the order in which they came.
    pub stream: u64,
    /// Who it says it is.
    pub node: Arc<Node>,
    /// Who its certificate says it is.
    pub peer: Option<SpiffeId>,
    /// Where it is.
    pub address: Option<SocketAddr>,
    /// The group it belongs to.
    pub group: Arc<str>,
    /// What it is subscribed to.
    pub subscriptions: Vec<SubscriptionReport>,
}

/// One kind of resource that a client is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionReport {
    /// The kind.
    pub kind: ResourceKind,
    /// The names; empty for all of them.
    pub names: Vec<Arc<str>>,
    /// The version it was sent last; on an incremental stream, the one it was brought to by what it was sent or held.
    pub sent: Option<Arc<str>>,
    /// The newest version of which it uses everything, as far as this stream knows: the one sent last once it is accepted, and
    /// until then, or when that is refused in part or whole, the one before. `None` until it accepts one; an older stream's
    /// word does not count.
    pub accepted: Option<Arc<str>>,
    /// What it said to the version it was sent last.
    pub acknowledged: Acknowledged,
    /// When it refused it.
    pub refused_at: Option<SystemTime>,
}

/// What a client said to what it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Acknowledged {
    /// Nothing yet, or nothing certain: its refusal was cut before it had named everything.
    #[default]
    Waiting,
    /// It uses it.
    Accepted,
    /// It does not, and why.
    Refused(Arc<str>),
}

/// The list of them. Clones are one list.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    reports: Arc<Mutex<BTreeMap<u64, ClientReport>>>,
    next: Arc<AtomicU64>,
    changes: Arc<watch::Sender<u64>>,
}

impl Registry {
    pub(super) fn list(&self) -> Vec<ClientReport> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Adds a client until the guard is dropped.
    pub(super) fn add(&self, mut report: ClientReport) -> Registered {
        let stream = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        report.stream = stream;
        self.lock().insert(stream, report);
        self.rang();
        Registered {
            registry: self.clone(),
            stream,
        }
    }

    fn rang(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, ClientReport>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place in the list.
#[derive(Debug)]
pub(super) struct Registered {
    registry: Registry,
    stream: u64,
}

impl Registered {
    pub(super) fn update(&self, mut subscriptions: Vec<SubscriptionReport>) {
        if let Some(report) = self.registry.lock().get_mut(&self.stream) {
            for subscription in &mut subscriptions {
                let before = report.subscriptions.iter().find(|one| one.kind == subscription.kind);
                subscription.refused_at = refused_at(subscription, before);
            }
            report.subscriptions = subscriptions;
        }
        self.registry.rang();
    }
}

/// A refusal is as old as the first report that has it: what is sent again is waited for in between.
fn refused_at(now: &SubscriptionReport, before: Option<&SubscriptionReport>) -> Option<SystemTime> {
    if !matches!(now.acknowledged, Acknowledged::Refused(_)) {
        return None;
    }
    let is_known =
        |before: &&SubscriptionReport| (&before.acknowledged, &before.sent) == (&now.acknowledged, &now.sent);
    let known = before.filter(is_known).and_then(|before| before.refused_at);
    Some(known.unwrap_or_else(SystemTime::now))
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.stream);
        self.registry.rang();
    }
}
