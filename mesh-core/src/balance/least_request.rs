//! The fewest calls in flight, of a few hosts drawn at random (Mitzenmacher's power of two choices; gRFC A48, Envoy).
//!
//! Where weights differ, hosts are drawn as often as they weigh, and of those drawn the one wins that has the fewest calls for
//! its weight. So an idle cluster is shared exactly by weight and a busy one by what its hosts can take. Envoy's weighted form
//! orders all hosts in a queue by `weight / (calls + 1)^bias`; this has its effect without a queue, and its bias.

use super::Load;
use super::wheel::{self, Wheel};
use crate::config::LeastRequest as Settings;
use crate::entropy::Draw;

/// The power of so many choices: the fewest calls in flight per weight of a few hosts drawn (Envoy, gRFC A48).
#[derive(Debug)]
pub struct LeastRequest {
    choices: u32,
    wheel: Option<Wheel>,
    bias_per_mille: u32,
}

impl LeastRequest {
    pub(super) fn new(settings: Settings, weights: impl Iterator<Item = u32> + Clone) -> Self {
        Self {
            choices: settings.choices.clamp(2, Settings::MAX_CHOICES),
            wheel: Wheel::new(weights),
            bias_per_mille: settings.bias_per_mille,
        }
    }

    /// The best of those drawn; one that is not `good` only if none is.
    pub(super) fn draw<L: Load>(&self, hosts: &[L], good: impl Fn(usize) -> bool, draw: &mut Draw) -> usize {
        let wheel = self.wheel.as_ref();
        let mut best = wheel::any(wheel, hosts.len(), draw);
        let mut best_is_good = good(best);
        for _ in 1..self.choices {
            let other = wheel::any(wheel, hosts.len(), draw);
            let other_is_good = good(other);
            let better = match (best_is_good, other_is_good) {
                (true, false) => false,
                (false, true) => true,
                _ => self.lighter(&hosts[other], &hosts[best]),
            };
            if better {
                (best, best_is_good) = (other, other_is_good);
            }
        }
        best
    }

    /// Whether `a` has fewer calls than `b`, for its weight. Cross-multiplied, so that no division is needed.
    fn lighter<L: Load>(&self, a: &L, b: &L) -> bool {
        if self.wheel.is_none() {
            return a.in_flight() < b.in_flight();
        }
        let (calls_a, calls_b) = (a.in_flight(), b.in_flight());
        match self.bias_per_mille {
            // Weights alone: whichever was drawn first.
            0 => false,
            1_000 => u64::from(calls_a) * u64::from(b.weight()) < u64::from(calls_b) * u64::from(a.weight()),
            bias => {
                let bias = f64::from(bias) / 1_000.0;
                let counted = |calls: u32, weight: u32| f64::from(calls).powf(bias) / f64::from(weight.max(1));
                counted(calls_a, a.weight()) < counted(calls_b, b.weight())
            }
        }
    }
}
