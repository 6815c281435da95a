//! The counters themselves, which only ever grow. A reader subtracts what it saw last, so any number of them can read
//! without one taking counts away from another, and a call costs two additions whoever reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

use super::orca::{self, Metric};
use super::window::{Counts, Figure};
use crate::config::{LoadReporting, ReportedMetric};

/// The most named figures kept of one locality. An endpoint chooses the names, so without a limit it could fill the memory
/// of every caller.
const MAX_NAMES: usize = 64;
/// The longest such name, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// The greatest figure taken, either way: up to here every whole number has a double of its own. What is beyond is no load,
/// and would swamp the sums that readers subtract.
const MAX_FIGURE: f64 = 9_007_199_254_740_992.0;
/// The most categories of drops kept of one cluster; drops of others are counted without a category.
const MAX_CATEGORIES: usize = 64;

/// The calls to one locality of one cluster.
#[derive(Debug, Default)]
pub struct Load {
    issued: AtomicU64,
    succeeded: AtomicU64,
    errored: AtomicU64,
    metrics: Arc<[ReportedMetric]>,
    figures: Mutex<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    cpu: Figure,
    memory: Figure,
    application: Figure,
    named: BTreeMap<Box<str>, Figure>,
}

/// What a [`Load`] stood at.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals {
    issued: u64,
    succeeded: u64,
    errored: u64,
    figures: BTreeMap<Box<str>, Figure>,
}

impl Load {
    pub(super) fn new(metrics: Arc<[ReportedMetric]>) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    pub(super) fn begin(&self) {
        self.issued.fetch_add(1, Ordering::Relaxed);
    }

    /// Releases, so that whoever sees the end has seen the beginning.
    pub(super) fn end(&self, good: bool) {
        let count = if good { &self.succeeded } else { &self.errored };
        count.fetch_add(1, Ordering::Release);
    }

    /// Adds the figures that these headers or trailers carry, if any are asked for; whether there were well-formed ones.
    pub(super) fn hear(&self, headers: &HeaderMap) -> bool {
        if self.metrics.is_empty() {
            return false;
        }
        let mut figures = None;
        orca::read(headers, |metric, value| {
            if value.abs() <= MAX_FIGURE && self.wants(metric) && !is_own(metric) {
                figures.get_or_insert_with(|| self.figures()).add(metric, value);
            }
        })
    }

    fn wants(&self, metric: Metric<'_>) -> bool {
        self.metrics.iter().any(|wanted| metric.is(wanted))
    }

    pub(super) fn totals(&self) -> Totals {
        // The ends first: a call that ends in between is in progress once more than it was, and never less than none are.
        let succeeded = self.succeeded.load(Ordering::Acquire);
        let errored = self.errored.load(Ordering::Acquire);
        Totals {
            issued: self.issued.load(Ordering::Relaxed),
            succeeded,
            errored,
            figures: self.figures().by_name(),
        }
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Figures {
    fn add(&mut self, metric: Metric<'_>, value: f64) {
        let one = Figure { calls: 1, sum: value };
        let has_room = self.named.len() < MAX_NAMES;
        match metric {
            Metric::Cpu => self.cpu.add(&one),
            Metric::Memory => self.memory.add(&one),
            Metric::Application => self.application.add(&one),
            // Not among what a control plane may ask for.
            Metric::Rate | Metric::Errors => {}
            Metric::Named(name) => match self.named.get_mut(name) {
                Some(figure) => figure.add(&one),
                None if has_room && name.len() <= MAX_NAME_BYTES => {
                    self.named.insert(name.into(), one);
                }
                None => {}
            },
        }
    }

    fn by_name(&self) -> BTreeMap<Box<str>, Figure> {
        let fixed = [
            (ReportedMetric::CpuUtilization, self.cpu),
            (ReportedMetric::MemUtilization, self.memory),
            (ReportedMetric::ApplicationUtilization, self.application),
        ];
        let named = self.named.iter();
        fixed
            .into_iter()
            .chain(named.map(|(name, figure)| (ReportedMetric::Named(name.clone()), *figure)))
            .filter(|(_, figure)| figure.calls > 0)
            .map(|(metric, figure)| (metric.to_string().into(), figure))
            .collect()
    }
}

impl Totals {
    /// What was added since it stood at `seen`.
    pub(super) fn since(&self, seen: &Self) -> (Counts, BTreeMap<Box<str>, Figure>) {
        let ended = self.succeeded + self.errored;
        let counts = Counts {
            issued: self.issued - seen.issued,
            succeeded: self.succeeded - seen.succeeded,
            errored: self.errored - seen.errored,
            in_progress: self.issued.saturating_sub(ended),
        };
        let figures = self.figures.iter().filter_map(|(name, now)| {
            let before = seen.figures.get(name).copied().unwrap_or_default();
            let added = Figure {
                calls: now.calls - before.calls,
                sum: now.sum - before.sum,
            };
            (added.calls > 0).then(|| (name.clone(), added))
        });
        (counts, figures.collect())
    }
}

/// Whether it has a name that only the caller's own figures have.
fn is_own(metric: Metric<'_>) -> bool {
    matches!(metric, Metric::Named(name) if name.starts_with(LoadReporting::CALLS))
}

/// The dropped calls of one cluster. A drop takes a lock, since it is what a cluster does that has too much already.
#[derive(Debug, Default)]
pub struct Drops {
    uncategorised: AtomicU64,
    by_category: Mutex<BTreeMap<Box<str>, u64>>,
}

impl Drops {
    /// Counts a call that was dropped because the configuration says so.
    pub fn count(&self, category: &str) {
        let mut by_category = self.by_category.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = by_category.len() < MAX_CATEGORIES;
        match by_category.get_mut(category) {
            Some(count) => *count += 1,
            None if has_room => drop(by_category.insert(category.into(), 1)),
            None => self.count_uncategorised(),
        }
    }

    /// Counts a call that was dropped because of a limit (gRFC A32).
    pub fn count_uncategorised(&self) {
        self.uncategorised.fetch_add(1, Ordering::Relaxed);
    }

    /// By category, and without one.
    pub(super) fn totals(&self) -> (BTreeMap<Box<str>, u64>, u64) {
        let by_category = self.by_category.lock().unwrap_or_else(PoisonError::into_inner);
        (by_category.clone(), self.uncategorised.load(Ordering::Relaxed))
    }
}
