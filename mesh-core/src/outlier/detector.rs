//! The memory of a cluster's ejections: who is out, for how long, and how often it was.
//!
//! Its invariant, whatever happens in whatever order: no more of the cluster's hosts are out than
//! [`OutlierDetection::max_ejected`] allows. That is asked at every ejection, as Envoy and gRPC do, and here also when hosts
//! leave, return or the limit is lowered: those whose time is nearest come back early then.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::judge::{self, Origin};
use super::record::Record;
use super::{Cause, Monitor};
use crate::config::OutlierDetection;
use crate::entropy::Draw;

/// How long an endpoint that was removed keeps what is held against it: as long as the longest ejection lasts by default, so
/// that no one is pardoned by leaving the endpoint list and coming back.
const KEEP_GONE: Duration = OutlierDetection::DEFAULT_MAX_EJECTION_TIME;
/// The most removed endpoints that are remembered, so that a cluster whose addresses change all the time stays small. Those
/// gone longest are forgotten first.
const MAX_GONE: usize = 1024;

/// The ejections of one cluster.
#[derive(Debug, Default)]
pub struct OutlierDetector {
    records: HashMap<SocketAddr, Record>,
    /// Hosts that are in the cluster now.
    members: usize,
    /// Those of them that are out.
    ejected: usize,
    /// Counts reconciliations, so that hosts which are not there any more are found without a second map.
    round: u64,
}

/// What happened to a host. Whoever was ejected is told to be back once, also when it left the cluster meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub address: SocketAddr,
    /// Why; of one that returned, why it had been ejected.
    pub cause: Cause,
    /// What.
    pub event: Event,
}

/// See [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is out of service for so long at least; it returns with the first interval that ends later.
    Ejected(Duration),
    /// It is back in service.
    Returned,
    /// It would have been ejected, but the chance given for that (`enforcing_*`) did not fall.
    NotEnforced,
    /// It would have been ejected, but as many hosts are out as may be (`max_ejection_percent`).
    OverLimit,
}

/// A host that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Which.
    pub address: SocketAddr,
    /// Why.
    pub cause: Cause,
    /// Until when at least.
    pub until: Instant,
}

impl OutlierDetector {
    /// Takes over which hosts there are, each with the monitor it has already, if it has one. Without a `config` everybody is
    /// pardoned and forgotten.
    pub fn reconcile(
        &mut self,
        config: Option<&OutlierDetection>,
        hosts: impl IntoIterator<Item = (SocketAddr, Option<Arc<Monitor>>)>,
        now: Instant,
    ) -> Vec<Change> {
        let Some(config) = config else {
            return self.forget();
        };
        self.round += 1;
        (self.members, self.ejected) = (0, 0);
        for (address, own) in hosts {
            let record = self.records.entry(address).or_insert_with(Record::new);
            if record.round == self.round {
                continue;
            }
            record.round = self.round;
            record.gone = None;
            record.adopt(own);
            record.monitor.split(config.split_external_local_origin_errors);
            self.members += 1;
            self.ejected += usize::from(record.out.is_some());
        }
        let mut changes = self.let_go(now);
        changes.extend(self.keep_the_limit(config));
        changes
    }

    /// The monitor of a host.
    pub fn monitor(&self, address: SocketAddr) -> Option<&Arc<Monitor>> {
        self.records.get(&address).map(|record| &record.monitor)
    }

    /// Failures in a row of this host reached their count ([`Monitor::observe`]): it is ejected at once, or not.
    pub fn suspect(
        &mut self,
        config: &OutlierDetection,
        address: SocketAddr,
        now: Instant,
        draw: &mut Draw,
    ) -> Vec<Change> {
        let Some(record) = self.records.get(&address).filter(|record| record.is_in_service()) else {
            return Vec::new();
        };
        // Of several calls that suspect a host at once the first is heard; the others find its counts begun anew.
        let monitor = Arc::clone(&record.monitor);
        let reached: Vec<Cause> = monitor.reached(config).collect();
        let mut changes = Vec::new();
        for cause in reached {
            monitor.restart(cause);
            changes.extend(self.try_eject(config, address, cause, now, draw));
        }
        changes
    }

    /// An interval has ended: hosts whose time is over return, the others are judged by what they did in it.
    pub fn sweep(&mut self, config: &OutlierDetection, now: Instant, draw: &mut Draw) -> Vec<Change> {
        let mut changes = Vec::new();
        for (address, record) in &mut self.records {
            match record.out {
                Some(out) if out.until <= now => {
                    changes.extend(returned(*address, record));
                    self.ejected -= usize::from(record.gone.is_none());
                }
                Some(_) => {}
                None => record.times = record.times.saturating_sub(1),
            }
        }
        // In the order of addresses, so that what happens does not depend on a map's.
        changes.sort_unstable_by_key(|change| change.address);
        changes.extend(self.let_go(now));
        let mut members: Vec<_> = self
            .records
            .iter()
            .filter(|(_, record)| record.gone.is_none())
            .collect();
        members.sort_unstable_by_key(|(address, _)| **address);
        let mut suspected: Vec<SocketAddr> = Vec::new();
        let mut windows = Vec::with_capacity(members.len());
        for (address, record) in members {
            let window = record.monitor.take();
            if record.out.is_none() {
                // A call that found the detector busy left its suspicion in the counts.
                suspected.extend(record.monitor.reached(config).next().map(|_| *address));
                windows.push((*address, window));
            }
        }
        for address in suspected {
            changes.extend(self.suspect(config, address, now, draw));
        }
        for origin in [Origin::External, Origin::Local] {
            if origin == Origin::Local && !config.split_external_local_origin_errors {
                continue;
            }
            for (address, cause) in judge::outliers(config, origin, &windows) {
                changes.extend(self.try_eject(config, address, cause, now, draw));
            }
        }
        changes
    }

    /// How many of the cluster's hosts are out.
    pub fn ejected(&self) -> usize {
        self.ejected
    }

    /// Whether it knows no host.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The cluster's hosts that are out, in no order.
    pub fn ejections(&self) -> impl Iterator<Item = Ejection> {
        self.records.iter().filter_map(|(address, record)| {
            let out = record.out.filter(|_| record.gone.is_none())?;
            Some(Ejection {
                address: *address,
                cause: out.cause,
                until: out.until,
            })
        })
    }

    fn try_eject(
        &mut self,
        config: &OutlierDetection,
        address: SocketAddr,
        cause: Cause,
        now: Instant,
        draw: &mut Draw,
    ) -> Option<Change> {
        let most = config.max_ejected(self.members);
        let record = self.records.get_mut(&address).filter(|record| record.is_in_service())?;
        let event = if self.ejected >= most {
            Event::OverLimit
        } else if draw.below(100) >= u64::from(cause.enforcing(config).get()) {
            Event::NotEnforced
        } else {
            self.ejected += 1;
            Event::Ejected(record.eject(config, cause, now, draw))
        };
        Some(Change { address, cause, event })
    }

    /// Lets those whose time is nearest return while too many are out.
    fn keep_the_limit(&mut self, config: &OutlierDetection) -> Vec<Change> {
        let excess = self.ejected.saturating_sub(config.max_ejected(self.members));
        if excess == 0 {
            return Vec::new();
        }
        let mut ejections: Vec<Ejection> = self.ejections().collect();
        ejections.sort_unstable_by_key(|ejection| (ejection.until, ejection.address));
        let early = ejections.into_iter().take(excess);
        let changes: Vec<Change> = early
            .filter_map(|ejection| returned(ejection.address, self.records.get_mut(&ejection.address)?))
            .collect();
        self.ejected -= changes.len();
        changes
    }

    /// Marks hosts that are gone, and forgets those with nothing held against them, or gone for long.
    fn let_go(&mut self, now: Instant) -> Vec<Change> {
        let round = self.round;
        let mut changes = Vec::new();
        self.records.retain(|address, record| {
            if record.round == round {
                return true;
            }
            let gone = *record.gone.get_or_insert(now);
            let keep = (record.out.is_some() || record.times > 0) && now < gone + KEEP_GONE;
            if !keep {
                changes.extend(returned(*address, record));
            }
            keep
        });
        let excess = (self.records.len() - self.members).saturating_sub(MAX_GONE);
        if excess > 0 {
            let gone = self.records.iter();
            let mut gone: Vec<_> = gone
                .filter_map(|(address, record)| Some((record.gone?, *address)))
                .collect();
            gone.sort_unstable();
            for (_, address) in gone.into_iter().take(excess) {
                let forgotten = self.records.remove(&address);
                changes.extend(forgotten.and_then(|mut record| returned(address, &mut record)));
            }
        }
        changes
    }

    fn forget(&mut self) -> Vec<Change> {
        (self.members, self.ejected) = (0, 0);
        let mut changes: Vec<Change> = self
            .records
            .drain()
            .filter_map(|(address, mut record)| returned(address, &mut record))
            .collect();
        changes.sort_unstable_by_key(|change| change.address);
        changes
    }
}

fn returned(address: SocketAddr, record: &mut Record) -> Option<Change> {
    record.pardon().map(|cause| Change {
        address,
        cause,
        event: Event::Returned,
    })
}
