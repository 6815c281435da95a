//! What keeps retries from becoming the outage.
//!
//! A percentage alone lets a slow caller repeat every call: at 5 calls a second a floor of 10 retries is 4 times the load.
//! So two gates must both be open: a token bucket that successful first tries fill (20 %), and gRPC's failure gate (gRFC A6:
//! 10 tokens, a failure takes 1, a success gives 0.1, no retry at or below half), which closes after about 5 failures of a
//! dead destination whatever the rate.
//!
//! One budget belongs to one cluster of one process and lives outside the snapshot: were it rebuilt at each swap, a control
//! plane that pushes ten times a second would make it unlimited.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::{RetryLimits, RoutingPriority};

/// The share of the calls that may be tried again: 20 % (Finagle, Envoy).
pub const SHARE: f64 = DEPOSIT as f64 / COST as f64;
/// The most retries that may be saved up: a burst that a recovering destination can take.
pub const MAX_SAVED: u32 = MAX_BALANCE / COST;

/// Deposits per call, in thousandths of a retry.
const DEPOSIT: u32 = 200;
/// One retry.
const COST: u32 = 1_000;
/// The most that may be saved up.
const MAX_BALANCE: u32 = 10 * COST;
/// The balance of a budget that was never used: 3 retries (Envoy `min_retry_concurrency`).
const FIRST_BALANCE: u32 = 3 * COST;
/// gRFC A6, in tenths: full, what a success gives, what a failure takes, and the level at or below which nothing is retried.
const MAX_TOKENS: u32 = 100;
const SUCCESS: u32 = 1;
const FAILURE: u32 = 10;
const CLOSED_AT: u32 = MAX_TOKENS / 2;

/// The retry budget of a cluster: shared by all its calls, lock-free.
///
/// Published bound: in any period, retries are at most `0.2 * calls + 10`, and at most 5 once every call fails. Nothing is given
/// for the time that passes: a floor of so many per second is what makes a slow caller repeat everything.
#[derive(Debug)]
pub struct Budget {
    balance: AtomicU32,
    tokens: AtomicU32,
    /// Of the default priority, and of high.
    retrying: [AtomicU32; 2],
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            balance: AtomicU32::new(FIRST_BALANCE),
            tokens: AtomicU32::new(MAX_TOKENS),
            retrying: Default::default(),
        }
    }
}

impl Budget {
    /// A call (not a retry) begins.
    pub fn deposit(&self) {
        if self.balance.load(Ordering::Relaxed) < MAX_BALANCE {
            update(&self.balance, |balance| Some((balance + DEPOSIT).min(MAX_BALANCE)));
        }
    }

    /// A try succeeded.
    pub fn succeeded(&self) {
        // Read first: in good times every call ends here and must not write a line that all cores share.
        if self.tokens.load(Ordering::Relaxed) < MAX_TOKENS {
            update(&self.tokens, |tokens| Some((tokens + SUCCESS).min(MAX_TOKENS)));
        }
    }

    /// A try failed. Tries that failed since one connection, which had served, ended under them all are to be told as one: it is one
    /// thing that happened.
    pub fn failed(&self) {
        update(&self.tokens, |tokens| Some(tokens.saturating_sub(FAILURE)));
    }

    /// Takes one retry out; `false` when there is none.
    pub fn withdraw(&self) -> bool {
        self.tokens.load(Ordering::Relaxed) > CLOSED_AT && update(&self.balance, |balance| balance.checked_sub(COST))
    }

    /// Puts one retry back that was taken out and not made.
    pub fn refund(&self) {
        update(&self.balance, |balance| Some((balance + COST).min(MAX_BALANCE)));
    }

    /// Takes a place among the retries in flight of a priority; `false` when `limits` allow no more beside `calls` calls in flight.
    pub fn begin_retry(&self, priority: RoutingPriority, limits: &RetryLimits, calls: u32) -> bool {
        let allowed = limits.allowed(calls).unwrap_or(u32::MAX);
        update(self.of(priority), |retrying| (retrying < allowed).then(|| retrying + 1))
    }

    /// Gives the place back.
    pub fn end_retry(&self, priority: RoutingPriority) {
        update(self.of(priority), |retrying| Some(retrying.saturating_sub(1)));
    }

    /// Retries in flight of whatever priority, their pauses included.
    pub fn retrying(&self) -> u32 {
        self.retrying
            .iter()
            .map(|retrying| retrying.load(Ordering::Relaxed))
            .sum()
    }

    fn of(&self, priority: RoutingPriority) -> &AtomicU32 {
        let [default, high] = &self.retrying;
        match priority {
            RoutingPriority::Default => default,
            RoutingPriority::High => high,
        }
    }

    /// Retries that may be taken out now, were the gate open.
    pub fn saved(&self) -> u32 {
        self.balance.load(Ordering::Relaxed) / COST
    }
}

fn update(cell: &AtomicU32, change: impl Fn(u32) -> Option<u32>) -> bool {
    cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_destination_costs_few_retries_at_any_rate() {
        for calls in [5, 50, 500, 5_000] {
            let budget = Budget::default();
            let mut retries = 0;
            for _ in 0..calls {
                budget.deposit();
                budget.failed();
                while budget.withdraw() {
                    retries += 1;
                    budget.failed();
                }
            }
            assert!(retries <= 5, "{retries} retries for {calls} calls");
        }
    }

    #[test]
    fn retries_stay_below_a_fifth_while_most_calls_succeed() {
        let budget = Budget::default();
        let mut retries = 0;
        for call in 0..10_000 {
            budget.deposit();
            if call % 20 == 0 {
                budget.failed();
                retries += u32::from(budget.withdraw());
            }
            for _ in 0..10 {
                budget.succeeded();
            }
        }
        assert!((490..=500).contains(&retries), "{retries}");
    }
}
