//! What is held against one host: how often it was ejected, and until when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Cause, Monitor};
use crate::config::OutlierDetection;
use crate::entropy::Draw;

#[derive(Debug)]
pub(super) struct Record {
    pub(super) monitor: Arc<Monitor>,
    /// How often in succession it was ejected: up by one with each ejection, down by one with each interval in service.
    pub(super) times: u32,
    pub(super) out: Option<Out>,
    /// Since when it is no endpoint of the cluster.
    pub(super) gone: Option<Instant>,
    /// In which reconciliation it was one last.
    pub(super) round: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    pub(super) cause: Cause,
    pub(super) until: Instant,
}

/// How long an ejection lasts that no clock could count: the configuration's reader allows ten thousand years.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Record {
    pub(super) fn new() -> Self {
        Self {
            monitor: Arc::default(),
            times: 0,
            out: None,
            gone: None,
            round: 0,
        }
    }

    pub(super) fn is_in_service(&self) -> bool {
        self.out.is_none() && self.gone.is_none()
    }

    /// A host that has a monitor is told through that one.
    pub(super) fn adopt(&mut self, own: Option<Arc<Monitor>>) {
        if let Some(own) = own.filter(|own| !Arc::ptr_eq(own, &self.monitor)) {
            own.pardon();
            if self.out.is_some() {
                own.eject();
            }
            self.monitor = own;
        }
    }

    /// Ejects; for how long. Envoy: the base time by how often, at most the maximum, and jitter on top.
    pub(super) fn eject(&mut self, config: &OutlierDetection, cause: Cause, now: Instant, draw: &mut Draw) -> Duration {
        let max = config.max_ejection_time.max(config.base_ejection_time);
        // No more than brings it to the maximum, or a host that was bad for a day would be out for as long again.
        if config.base_ejection_time.saturating_mul(self.times) < max {
            self.times = self.times.saturating_add(1);
        }
        let jitter = config.max_ejection_time_jitter.as_nanos().min(u128::from(u64::MAX)) as u64;
        let lasts = config.base_ejection_time.saturating_mul(self.times.max(1)).min(max);
        let lasts = lasts.saturating_add(Duration::from_nanos(draw.below(jitter.saturating_add(1))));
        let until = now.checked_add(lasts).unwrap_or(now + FOREVER);
        self.out = Some(Out { cause, until });
        self.monitor.eject();
        lasts
    }

    /// Back in service; why it had been out, if it was.
    pub(super) fn pardon(&mut self) -> Option<Cause> {
        let out = self.out.take()?;
        self.monitor.pardon();
        Some(out.cause)
    }
}
