//! Again or not, and after which pause.
//!
//! A try is repeated only when three things hold: the policy names what happened, repeating cannot run the work twice (or the
//! user asked for it by writing the policy), and the budget has something left. One exception, once per call: a peer that
//! provably did not process the request (it never got it, or said so) is asked again without asking anything else (gRFC A6,
//! "transparent retry").

mod budget;

use std::time::Duration;

use http::{Method, StatusCode};

use crate::config::{Backoff, RetryOn, RetryPolicy};
use crate::entropy::Draw;

pub use budget::Budget;

/// How one try ended, as far as repeating it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryEnd {
    /// No connection could be made: the request went nowhere.
    ConnectFailed,
    /// The peer provably did not process it: REFUSED_STREAM, or a GOAWAY below its stream.
    NotProcessed,
    /// The stream or connection broke; the peer may have processed it.
    Reset,
    /// The try ran out of its own time; the peer may have processed it.
    PerTryTimeout,
    /// Response headers came.
    Answered {
        /// The HTTP status.
        status: StatusCode,
        /// `grpc-status`, when it stood in the headers: a trailers-only answer.
        grpc: Option<u8>,
    },
}

impl TryEnd {
    /// Whether this end is held against the destination: what its budget counts as a failure. What it provably did not
    /// process is not (gRFC A6 leaves transparent retries out of its throttle as well).
    pub fn is_failure(self) -> bool {
        match self {
            Self::Answered { status, grpc } => {
                status.is_server_error() || matches!(grpc, Some(2 | 4 | 8 | 13 | 14 | 15))
            }
            Self::Reset | Self::PerTryTimeout => true,
            Self::ConnectFailed | Self::NotProcessed => false,
        }
    }
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand the result to the caller.
    GiveUp,
    /// Try again after this pause.
    After(Duration),
}

/// The memory of one call's tries.
#[derive(Debug, Default)]
pub struct RetryState {
    retried: u32,
    transparent_used: bool,
}

impl RetryState {
    /// Tries made beyond the first.
    pub fn retried(&self) -> u32 {
        self.retried
    }

    /// Decides about another try. A verdict of [`Verdict::After`] has already drawn on the budget;
    /// what a try's end does to the budget otherwise is told to it by whoever saw the whole answer, trailers and all.
    pub fn judge(
        &mut self,
        policy: &RetryPolicy,
        method: &Method,
        end: TryEnd,
        budget: &Budget,
        draw: &mut Draw,
    ) -> Verdict {
        if end == TryEnd::PerTryTimeout {
            // A try that is abandoned tells nobody else how it ended.
            budget.failed();
        }
        let untouched = matches!(end, TryEnd::ConnectFailed | TryEnd::NotProcessed);
        if end == TryEnd::NotProcessed && !self.transparent_used {
            self.transparent_used = true;
            self.retried += 1;
            return Verdict::After(Duration::ZERO);
        }
        let safe = untouched || policy.explicit || method.is_idempotent();
        if self.retried >= policy.retries || !named(policy.on, end) || !safe {
            return Verdict::GiveUp;
        }
        // A call that found no connection put no load on the destination, and another endpoint is not to blame for the first:
        // it is picked anew (gRPC never fails a call over one of several connections), and dials have a pause of their own.
        if end != TryEnd::ConnectFailed && !budget.withdraw() {
            return Verdict::GiveUp;
        }
        self.retried += 1;
        Verdict::After(pause(policy.backoff, self.retried, draw))
    }
}

/// Whether the policy names this end, by Envoy's definition of each word.
fn named(on: RetryOn, end: TryEnd) -> bool {
    let any = |conditions: &[RetryOn]| conditions.iter().any(|one| on.contains(*one));
    match end {
        TryEnd::ConnectFailed => any(&[RetryOn::CONNECT_FAILURE, RetryOn::SERVER_ERROR, RetryOn::GATEWAY_ERROR]),
        TryEnd::NotProcessed => any(&[RetryOn::REFUSED_STREAM, RetryOn::SERVER_ERROR]),
        TryEnd::Reset | TryEnd::PerTryTimeout => any(&[RetryOn::RESET, RetryOn::SERVER_ERROR, RetryOn::GATEWAY_ERROR]),
        TryEnd::Answered { status, grpc } => {
            let by_grpc = match grpc {
                Some(1) => any(&[RetryOn::CANCELLED]),
                Some(4) => any(&[RetryOn::DEADLINE_EXCEEDED]),
                Some(8) => any(&[RetryOn::RESOURCE_EXHAUSTED]),
                Some(13) => any(&[RetryOn::INTERNAL]),
                Some(14) => any(&[RetryOn::UNAVAILABLE]),
                _ => false,
            };
            by_grpc
                || (status.is_server_error() && any(&[RetryOn::SERVER_ERROR]))
                || (matches!(status.as_u16(), 502..=504) && any(&[RetryOn::GATEWAY_ERROR]))
        }
    }
}

/// Envoy's full jitter: uniform below `base * (2^n - 1)`, at most `max`.
fn pause(backoff: Backoff, retry: u32, draw: &mut Draw) -> Duration {
    let factor = 2u32.saturating_pow(retry.min(31)) - 1;
    let bound = backoff.base().saturating_mul(factor).min(backoff.max());
    Duration::from_nanos(draw.below(bound.as_nanos().min(u128::from(u64::MAX)) as u64))
}

#[cfg(test)]
mod tests;
