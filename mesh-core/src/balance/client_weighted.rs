//! Each in turn, as often as what it reports of itself says (gRFC A58).
//!
//! Reports are kept with the host, which outlives pickers ([`Reported`]); the picker takes them over now and then, apart from
//! any pick. Between, a pick is the static stride of gRPC: hosts come round in order, and one of less than the greatest weight
//! lets as many of its turns pass as it weighs less. Weights can then be written in place while others pick, which a rotation
//! over breadths ([`super::wheel`]) could not.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Load;
use crate::config::ClientWeights;
use crate::entropy::Draw;
use crate::report::orca::Metric;

/// The greatest weight.
const MAX: u16 = u16::MAX;
/// No host counts for more than this many times the mean: gRPC's bound.
const MAX_RATIO: f64 = 10.0;
/// Nor for less than this part of it, or it would never report again.
const MIN_RATIO: f64 = 0.01;
/// How many turns a pick passes; whatever comes after as many is taken. Where no host stands out it passes one or two.
const MAX_PASSED: u32 = 256;

/// Hosts weighted by what they report.
#[derive(Debug)]
pub struct ClientWeighted {
    settings: ClientWeights,
    weights: Box<[AtomicU16]>,
    next: AtomicU64,
}

impl ClientWeighted {
    pub(super) fn new<L: Load>(settings: &ClientWeights, hosts: &[L], draw: &mut Draw) -> Self {
        Self {
            settings: settings.clone(),
            weights: hosts.iter().map(|_| AtomicU16::new(MAX)).collect(),
            next: AtomicU64::new(draw.next() >> 1),
        }
    }

    /// Takes over what hosts reported until now. How long until that is due again.
    pub(super) fn reweigh<L: Load>(&self, hosts: &[L], now: Instant) -> Duration {
        let weight = |host: &L| {
            host.reported()
                .and_then(|reported| reported.weight(&self.settings, now))
        };
        let (mut sum, mut known, mut greatest) = (0.0, 0u32, 0.0f64);
        for weight in hosts.iter().filter_map(weight) {
            sum += weight;
            known += 1;
            greatest = greatest.max(weight);
        }
        let mean = sum / f64::from(known.max(1));
        let scale = f64::from(MAX) / greatest.min(MAX_RATIO * mean);
        // With fewer than two there is nothing to compare (gRFC A58).
        let comparable = known >= 2 && scale.is_finite();
        for (host, place) in hosts.iter().zip(&self.weights) {
            let scaled = match comparable {
                // Who has no weight yet counts for the mean.
                true => weight(host).unwrap_or(mean).max(MIN_RATIO * mean) * scale,
                false => f64::from(MAX),
            };
            // Saturates.
            place.store((scaled.round() as u16).max(1), Ordering::Relaxed);
        }
        self.settings.update
    }

    pub(super) fn next(&self) -> usize {
        let hosts = self.weights.len() as u64;
        let mut index = 0;
        for _ in 0..=MAX_PASSED {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let round = turn / hosts;
            index = turn % hosts;
            let weight = u64::from(self.weights[index as usize].load(Ordering::Relaxed));
            // Where a host's weight, added up, passes the greatest: once in every `MAX / weight` rounds. Hosts are set off
            // against one another, so that not all of the light ones come in the same round.
            let offset = index * u64::from(MAX / 2);
            let at = (u128::from(weight) * u128::from(round) + u128::from(offset)) % u128::from(MAX);
            if at as u64 >= u64::from(MAX) - weight {
                break;
            }
        }
        index as usize
    }
}

/// What a host last reported, as a weight; kept with the host.
#[derive(Debug)]
pub struct Reported {
    since: Instant,
    /// An `f64`; zero: nothing was reported.
    weight: AtomicU64,
    /// In nanoseconds from `since`.
    last: AtomicU64,
    /// Since when it has reported without a gap; [`NEVER`]: it does not.
    first: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Reported {
    /// Nothing reported so far. `now` is only what later times are told apart by.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            weight: AtomicU64::new(0),
            last: AtomicU64::new(NEVER),
            first: AtomicU64::new(NEVER),
        }
    }

    /// Takes a report. One without a rate or a utilisation says nothing (gRFC A58).
    pub fn told(&self, report: &LoadReport, settings: &ClientWeights, now: Instant) {
        let Some(weight) = report.weight(settings.error_penalty_per_mille) else {
            return;
        };
        let now = self.nanos(now);
        let _ = self
            .first
            .compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
    }

    /// Its connection is new: what it reports must stand for a while before it counts (gRFC A58).
    pub fn reconnected(&self) {
        self.first.store(NEVER, Ordering::Relaxed);
    }

    /// What it weighs, if that is known and neither too new nor too old.
    pub fn weight(&self, settings: &ClientWeights, now: Instant) -> Option<f64> {
        let weight = f64::from_bits(self.weight.load(Ordering::Relaxed));
        let (first, last) = (self.first.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        if weight == 0.0 || last == NEVER {
            return None;
        }
        let now = self.nanos(now);
        let passed = |from: u64| Duration::from_nanos(now.saturating_sub(from));
        if passed(last) >= settings.expiration {
            self.first.store(NEVER, Ordering::Relaxed);
            return None;
        }
        let young = first == NEVER || passed(first) < settings.blackout;
        (settings.blackout.is_zero() || !young).then_some(weight)
    }

    fn nanos(&self, now: Instant) -> u64 {
        // Some 580 years.
        now.saturating_duration_since(self.since).as_nanos() as u64
    }
}

/// The figures of one report that make a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadReport {
    rate: f64,
    errors: f64,
    application: f64,
    cpu: f64,
    /// The greatest of the figures that the settings name.
    named: f64,
}

impl LoadReport {
    /// Adds a figure. Of those that `settings` name, the greatest counts (gRFC A114).
    pub fn add(&mut self, metric: Metric<'_>, value: f64, settings: &ClientWeights) {
        match metric {
            Metric::Rate => self.rate = value,
            Metric::Errors => self.errors = value,
            Metric::Application => self.application = value,
            Metric::Cpu => self.cpu = value,
            Metric::Memory | Metric::Named(_) => {}
        }
        if settings.metrics.iter().any(|wanted| metric.is(wanted)) {
            self.named = self.named.max(value);
        }
    }

    /// Calls a second for each part of utilisation, where errors count as utilisation (gRFC A58).
    fn weight(&self, penalty_per_mille: u32) -> Option<f64> {
        let used = [self.named, self.application, self.cpu];
        let mut used = *used.iter().find(|used| **used > 0.0)?;
        if self.rate <= 0.0 {
            return None;
        }
        if self.errors > 0.0 {
            used += self.errors / self.rate * f64::from(penalty_per_mille) / 1_000.0;
        }
        let weight = self.rate / used;
        (weight.is_finite() && weight > 0.0).then_some(weight)
    }
}
