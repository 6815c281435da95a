//! How many retries a cluster takes at once, as its circuit breakers say. The house's own budget
//! ([`crate::retry::Budget`]) holds whatever stands here.

/// The circuit breakers of a cluster that are about retries (Envoy `Thresholds`, default priority).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RetryLimits {
    /// A share of the calls in flight. Where it is set, `max` does not count (Envoy).
    pub budget: Option<RetryBudget>,
    /// The most retries in flight; `None`: no limit of their own.
    pub max: Option<u32>,
}

/// Retries in flight as a share of the calls in flight (Envoy `RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// The share, in hundredths of a percent: 2,000 is 20 %. At most 10,000.
    pub share: u32,
    /// As many are always allowed.
    pub min_retry_concurrency: u32,
}

impl Default for RetryBudget {
    /// Envoy's: 20 %, and 3 in any case.
    fn default() -> Self {
        Self {
            share: 2_000,
            min_retry_concurrency: 3,
        }
    }
}

impl RetryLimits {
    /// What Envoy allows when nothing is said.
    pub const ENVOY_MAX: u32 = 3;
    /// No limit of their own.
    pub const NONE: Self = Self {
        budget: None,
        max: None,
    };
    /// [`ENVOY_MAX`](Self::ENVOY_MAX).
    pub const ENVOY: Self = Self {
        budget: None,
        max: Some(Self::ENVOY_MAX),
    };

    /// How many may be in flight beside `calls` calls; `None`: any number.
    ///
    /// ```
    /// use mesh_core::config::{RetryBudget, RetryLimits};
    /// let limits = RetryLimits { budget: Some(RetryBudget::default()), max: Some(1) };
    /// assert_eq!((limits.allowed(100), limits.allowed(5)), (Some(20), Some(3)));
    /// ```
    pub fn allowed(&self, calls: u32) -> Option<u32> {
        match self.budget {
            Some(budget) => {
                let share = u64::from(calls) * u64::from(budget.share) / 10_000;
                Some((share as u32).max(budget.min_retry_concurrency))
            }
            None => self.max,
        }
    }
}
