//! What the inbound side counts without asking who called: requests that came in, and which servers run or wait. One set per
//! [`Link`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use mesh_core::Link;
use mesh_core::config::Reason;
use mesh_core::report::{Expose, Exposition, FamilyKind, Tally};

use super::Early;

/// The counts of one link.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    requests: AtomicU64,
    /// Of each reason, in the order of [`Early::ALL`].
    early: [AtomicU64; Early::ALL.len()],
    /// That of the link, where everything is counted by event and reason.
    tally: Tally,
    servers: AtomicUsize,
    waiting: Mutex<Waiting>,
}

/// Why servers take no connections, by a number of their own.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    reasons: BTreeMap<u64, Reason>,
}

impl Inbound {
    /// Those of `link`, the same for whoever asks.
    pub(crate) fn of(link: &Link) -> Arc<Self> {
        let mut is_new = false;
        let inbound = link.attached(|| {
            is_new = true;
            Self {
                tally: link.tally().clone(),
                ..Self::default()
            }
        });
        if is_new {
            let told: Weak<dyn Expose> = Arc::<Self>::downgrade(&inbound);
            link.expose(told);
        }
        inbound
    }

    /// A request came in.
    pub(super) fn received(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was refused before [`received`](Self::received) could count it.
    pub(crate) fn refused(&self, why: Early) {
        self.early[why as usize].fetch_add(1, Ordering::Relaxed);
        why.count(&self.tally);
    }

    /// Where everything is counted by event and reason.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Says that a server accepts connections, until the guard is dropped.
    pub(crate) fn serving(self: &Arc<Self>) -> ServingGuard {
        self.servers.fetch_add(1, Ordering::Relaxed);
        ServingGuard(Arc::clone(self))
    }

    /// Whether any server accepts connections.
    pub(crate) fn is_serving(&self) -> bool {
        self.servers.load(Ordering::Relaxed) > 0
    }

    /// Says that a server takes no connections, and why, until the guard is dropped.
    pub(crate) fn waiting(self: &Arc<Self>, reason: Reason) -> WaitingGuard {
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.reasons.insert(number, reason);
        WaitingGuard(Arc::clone(self), number)
    }

    /// Why a server takes no connections, if one does not.
    pub(crate) fn waits_for(&self) -> Option<Reason> {
        self.lock().reasons.values().next().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A map is whole whatever its holder was doing when it panicked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests have come in through [`TelemetryLayer`](super::TelemetryLayer).
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Expose for Inbound {
    fn expose(&self, _: Instant, out: &mut Exposition) {
        out.family(
            "mesh_requests_received_total",
            FamilyKind::Counter,
            "Requests that came in, counted before anything may refuse them and whether or not they have ended.",
        );
        out.labelled(&[], self.requests());
        out.family(
            "mesh_requests_refused_total",
            FamilyKind::Counter,
            "Requests that were refused at the connection, before anything could count them as received.",
        );
        for why in Early::ALL {
            let count = self.early[why as usize].load(Ordering::Relaxed);
            out.labelled(&[("reason", why.as_str())], count);
        }
        out.family(
            "mesh_servers",
            FamilyKind::Gauge,
            "Servers of this process that accept connections, and those that wait to be told whom to let in.",
        );
        out.labelled(&[("state", "serving")], self.servers.load(Ordering::Relaxed));
        out.labelled(&[("state", "waiting")], self.lock().reasons.len());
    }
}

/// See [`Inbound::serving`].
#[derive(Debug)]
pub(crate) struct ServingGuard(Arc<Inbound>);

impl Drop for ServingGuard {
    fn drop(&mut self) {
        self.0.servers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See [`Inbound::waiting`].
#[derive(Debug)]
pub(crate) struct WaitingGuard(Arc<Inbound>, u64);

impl Drop for WaitingGuard {
    fn drop(&mut self) {
        self.0.lock().reasons.remove(&self.1);
    }
}
