//! Outlier detection where it lives: calls tell what they saw, hosts are taken out and let back in, and that is said.
//!
//! What is decided, and by what, is [`mesh_core::outlier`]'s. Here is who asks. A call asks only when its host's failures in a
//! row reached their count, and never waits for the answer: if somebody else holds the detector, the count stays where it is
//! and the next failure, or the end of the interval, asks again. At the end of each interval the manager's task asks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use mesh_core::config::{Cluster, ClusterName, OutlierDetection};
use mesh_core::entropy::Entropy;
use mesh_core::outlier::{Change, Ejection, Event, OutlierDetector};
use mesh_core::report::Tally;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::handle::Parts;
use super::living::Living;

/// The outlier detection of one live cluster. Without a configuration it is empty and costs nothing.
#[derive(Debug)]
pub(super) struct Outliers {
    state: Mutex<State>,
    /// Somebody was taken out or let in since the hosts were last put in order.
    stale: AtomicBool,
    entropy: Entropy,
    tally: Tally,
    attention: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    detector: OutlierDetector,
    sweep_at: Option<Instant>,
}

impl Outliers {
    pub(super) fn new(parts: &Parts) -> Self {
        Self {
            state: Mutex::default(),
            stale: AtomicBool::new(false),
            entropy: parts.entropy.clone(),
            tally: parts.tally.clone(),
            attention: Arc::clone(&parts.attention),
        }
    }

    /// Takes over what a cluster has become, and puts its live hosts under observation: one for each endpoint, in their order.
    pub(super) fn reconcile(&self, cluster: &Cluster, living: Option<&Living<'_>>) {
        let mut state = self.lock();
        if cluster.outlier.is_none() && state.detector.is_empty() {
            return;
        }
        let now = Instant::now();
        state.sweep_at = cluster.outlier.as_ref().map(|config| {
            let next = end_of_interval(config, now);
            state.sweep_at.map_or(next, |before| before.min(next))
        });
        let before = living.and_then(Living::unchanged);
        if before.is_some_and(|old| old.leaves().is_none() && old.cluster.outlier == cluster.outlier) {
            // The same hosts under the same rules: what else is to be done is done when an interval ends.
            return;
        }
        let hosts = living.map_or(&[][..], |living| living.hosts());
        let members = hosts.iter().map(|host| (host.address(), host.monitor().cloned()));
        let changes = state
            .detector
            .reconcile(cluster.outlier.as_ref(), members, now.into_std());
        for host in hosts.iter().filter(|host| host.monitor().is_none()) {
            if let Some(monitor) = state.detector.monitor(host.address()) {
                host.watch(Arc::clone(monitor));
            }
        }
        drop(state);
        self.tell(&cluster.name, &changes);
    }

    /// Whether any of the cluster's hosts is out.
    pub(super) fn some_are_out(&self) -> bool {
        self.lock().detector.ejected() > 0
    }

    /// A host's failures in a row reached their count.
    pub(super) fn suspect(&self, cluster: &ClusterName, config: &OutlierDetection, address: SocketAddr) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let now = Instant::now().into_std();
        let changes = state.detector.suspect(config, address, now, &mut self.entropy.draw());
        drop(state);
        self.tell(cluster, &changes);
    }

    /// Ends the interval if its time has come; when the next one ends.
    pub(super) fn sweep(&self, cluster: &Cluster, now: Instant) -> Option<Instant> {
        let config = cluster.outlier.as_ref()?;
        let mut state = self.lock();
        match state.sweep_at {
            Some(at) if at > now => return Some(at),
            _ => {}
        }
        let next = end_of_interval(config, now);
        state.sweep_at = Some(next);
        let changes = state.detector.sweep(config, now.into_std(), &mut self.entropy.draw());
        drop(state);
        self.tell(&cluster.name, &changes);
        Some(next)
    }

    /// Whether hosts are to be put in order anew; asking is taking it on.
    pub(super) fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::AcqRel)
    }

    /// Who is out.
    pub(super) fn ejections(&self) -> Vec<Ejection> {
        let mut ejections: Vec<Ejection> = self.lock().detector.ejections().collect();
        ejections.sort_unstable_by_key(|ejection| ejection.address);
        ejections
    }

    fn tell(&self, cluster: &ClusterName, changes: &[Change]) {
        let mut moved = false;
        for Change { address, cause, event } in changes {
            let cause = cause.as_str();
            let word = match event {
                Event::Ejected(lasts) => {
                    tracing::warn!(%cluster, endpoint = %address, cause, ?lasts, "endpoint ejected");
                    "outlier_ejected"
                }
                Event::Returned => {
                    tracing::info!(%cluster, endpoint = %address, cause, "ejected endpoint is back in service");
                    "outlier_returned"
                }
                Event::NotEnforced => {
                    tracing::debug!(%cluster, endpoint = %address, cause, "outlier not ejected: not enforced");
                    "outlier_not_enforced"
                }
                Event::OverLimit => {
                    tracing::debug!(%cluster, endpoint = %address, cause, "outlier not ejected: enough are out");
                    "outlier_over_limit"
                }
            };
            moved |= matches!(event, Event::Ejected(_) | Event::Returned);
            self.tally.count(word, cause);
        }
        if moved {
            self.disturb();
        }
    }

    fn disturb(&self) {
        self.stale.store(true, Ordering::Release);
        self.attention.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An interval that no clock could count ends as good as never.
fn end_of_interval(config: &OutlierDetection, now: Instant) -> Instant {
    const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
    now.checked_add(config.interval).unwrap_or(now + FOREVER)
}
