//! What a run found, as it is kept: `BENCHMARKS.md` and the picture are made of this and nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::load::{Histogram, Loop};
use crate::running::Measured;
use crate::setups::{Family, Setup};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) about: About,
    pub(crate) setups: Vec<SetupResults>,
    pub(crate) demands: Vec<Demand>,
    /// Of `scale`.
    pub(crate) curves: Vec<Curve>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// How, when and on what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) command: String,
    pub(crate) when: String,
    pub(crate) commit: String,
    pub(crate) turns: usize,
    pub(crate) turn_ms: u64,
    pub(crate) took_s: u64,
    pub(crate) one_core: bool,
    pub(crate) build: String,
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    /// Of crates and programs, by name.
    pub(crate) versions: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SetupResults {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) family: Family,
    pub(crate) ours: bool,
    /// By the name of the load.
    pub(crate) loads: BTreeMap<String, Figures>,
    /// Of client, server, sidecars.
    pub(crate) resident_mib: [f64; 3],
    /// Of the client, by calls in flight.
    pub(crate) counted: BTreeMap<usize, Counted>,
}

/// The middle of the turns, and where a quarter of them is below and above.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) per_second: f64,
    /// Of all turns together, in microseconds: p50, p90, p99, p99.9.
    pub(crate) latency_us: [f64; 4],
    /// Of a call, all processes.
    pub(crate) cpu_us: Spread,
    /// Of client, server, sidecars; each the median for itself.
    pub(crate) cpu_us_of: [f64; 3],
    pub(crate) stolen_percent: f64,
    pub(crate) others_percent: f64,
    /// Turn by turn, beside the base of the family.
    pub(crate) beside: Option<Beside>,
}

/// Ratios: above 1 is worse than what is compared with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Beside {
    pub(crate) cpu: Spread,
    pub(crate) p50: Spread,
    pub(crate) p99: Spread,
    /// Of a call, in a closed loop: how much longer it takes.
    pub(crate) slower: Spread,
}

/// Of one call, at the client.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) allocations: f64,
    pub(crate) bytes: f64,
    pub(crate) writes: Option<f64>,
    pub(crate) instructions: Option<f64>,
    pub(crate) system_calls: Option<f64>,
}

/// What is wanted, and what was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Demand {
    pub(crate) what: String,
    pub(crate) wanted: f64,
    pub(crate) at_least: bool,
    pub(crate) found: Option<Spread>,
}

impl Demand {
    pub(crate) fn is_kept(&self) -> Option<bool> {
        let found = self.found?.median;
        Some(match self.at_least {
            true => found >= self.wanted,
            false => found <= self.wanted,
        })
    }
}

/// How a cost grows with a size, by powers of ten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Curve {
    pub(crate) what: String,
    pub(crate) by: String,
    pub(crate) unit: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Where both are logarithms.
    pub(crate) slope: f64,
}

impl Curve {
    /// To the digits that it has.
    pub(crate) fn shortened(mut self) -> Self {
        self.points.iter_mut().for_each(|(_, cost)| *cost = short(*cost));
        self.slope = (self.slope * 100.0).round() / 100.0;
        self
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) what: String,
    pub(crate) why: String,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * values.len().saturating_sub(1) as f64;
            let (below, above) = (values.get(place.floor() as usize), values.get(place.ceil() as usize));
            let (below, above) = (below.copied().unwrap_or(0.0), above.copied().unwrap_or(0.0));
            short(below + (above - below) * place.fract())
        };
        Self {
            low: at(0.25),
            median: at(0.5),
            high: at(0.75),
        }
    }

    /// A figure that does not vary.
    pub(crate) fn exactly(value: f64) -> Self {
        let value = short(value);
        Self {
            low: value,
            median: value,
            high: value,
        }
    }
}

/// Four digits are more than any of these figures has.
pub(crate) fn short(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// The turns of one setup under one load.
pub(crate) type Turns = Vec<Measured>;

pub(crate) fn cpu_us(measured: &Measured) -> f64 {
    measured.cpu.iter().sum::<u64>() as f64 / 1000.0 / measured.turn.calls as f64
}

impl Figures {
    /// Of the turns, beside those of the base, which were in the same rounds.
    pub(crate) fn of(turns: &Turns, base: Option<&Turns>) -> Self {
        let median = |each: &dyn Fn(&Measured) -> f64| Spread::of(turns.iter().map(each).collect()).median;
        let mean = |each: &dyn Fn(&Measured) -> f64| short(turns.iter().map(each).sum::<f64>() / turns.len() as f64);
        let mut latencies = Histogram::default();
        turns
            .iter()
            .for_each(|measured| latencies.merge(&measured.turn.latencies));
        let of = |part: usize| median(&|measured| measured.cpu[part] as f64 / 1000.0 / measured.turn.calls as f64);
        Self {
            calls: turns.iter().map(|measured| measured.turn.calls).sum(),
            failed: turns.iter().map(|measured| measured.turn.failed).sum(),
            per_second: median(&rate),
            latency_us: [0.5, 0.9, 0.99, 0.999].map(|share| short(latencies.quantile(share))),
            cpu_us: Spread::of(turns.iter().map(cpu_us).collect()),
            cpu_us_of: [of(0), of(1), of(2)],
            stolen_percent: mean(&|measured| 100.0 * measured.stolen),
            others_percent: mean(&|measured| 100.0 * measured.others),
            beside: base.map(|base| Beside {
                cpu: ratio(turns, base, &cpu_us),
                p50: ratio(turns, base, &|measured| measured.turn.latencies.quantile(0.5)),
                p99: ratio(turns, base, &|measured| measured.turn.latencies.quantile(0.99)),
                slower: ratio(turns, base, &|measured| 1.0 / rate(measured)),
            }),
        }
    }
}

fn rate(measured: &Measured) -> f64 {
    measured.turn.calls as f64 / measured.turn.seconds
}

/// Turn by turn, so that what disturbs a round disturbs both.
pub(crate) fn ratio(turns: &Turns, base: &Turns, each: &dyn Fn(&Measured) -> f64) -> Spread {
    Spread::of(
        turns
            .iter()
            .zip(base)
            .map(|(one, base)| each(one) / each(base))
            .collect(),
    )
}

impl SetupResults {
    pub(crate) fn new(setup: &Setup) -> Self {
        Self {
            name: setup.name.to_owned(),
            title: setup.title.to_owned(),
            family: setup.family,
            ours: setup.ours,
            loads: BTreeMap::new(),
            resident_mib: [0.0; 3],
            counted: BTreeMap::new(),
        }
    }

    pub(crate) fn is_base(&self) -> bool {
        self.name == self.family.base()
    }
}

impl Results {
    pub(crate) fn named(&self, name: &str) -> Option<&SetupResults> {
        self.setups.iter().find(|setup| setup.name == name)
    }
}

/// As it is called in results and tables.
pub(crate) fn load_name(how: Loop) -> String {
    match how {
        Loop::Closed { concurrent } => format!("closed_{concurrent}"),
        Loop::Open { rate } => format!("open_{rate}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_quartiles() {
        let spread = Spread::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!([spread.low, spread.median, spread.high], [2.0, 3.0, 4.0]);
        let spread = Spread::of(vec![1.0, 2.0]);
        assert_eq!([spread.low, spread.median, spread.high], [1.25, 1.5, 1.75]);
        assert_eq!(Spread::of(Vec::new()).median, 0.0);
    }

    #[test]
    fn figures_are_kept_to_four_digits() {
        assert_eq!([short(1234.56), short(0.123456), short(0.0)], [1235.0, 0.1235, 0.0]);
    }
}
