//! Again or not, and after which pause.
//!
//! A try is repeated only when three things hold: the policy names what happened, repeating cannot run the work twice (or the
//! user asked for it by writing the policy), and the budget has something left. One exception, once per call: a peer that
//! provably did not process the request (it never got it, or said so) is asked again without asking anything else (gRFC A6,
//! "transparent retry").
//!
//! What the answer says about itself comes before all that: one that was pushed back, or comes from a place that is overloaded
//! or has retried already, is never repeated, or a chain of services would multiply its tries.

mod answer;
mod budget;
mod overrides;
mod pause;
mod words;

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

use crate::config::{RetryLimits, RetryOn, RetryPolicy, RoutingPriority};
use crate::entropy::Draw;
use crate::route::{RequestHead, header_passes};

pub use answer::{DO_NOT_RETRY, OVERLOADED, PUSHBACK, RATE_LIMITED};
pub use budget::{Budget, MAX_SAVED, SHARE};
pub use overrides::Overrides;

/// How one try ended, as far as repeating it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryEnd {
    /// No connection could be made: the request went nowhere.
    ConnectFailed,
    /// The peer provably did not process it: REFUSED_STREAM, or a GOAWAY below its stream.
    NotProcessed,
    /// The peer ended the stream, or broke the rules; it may have processed it.
    Reset,
    /// The connection was lost with it; the peer may have processed it.
    Lost,
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
            Self::Reset | Self::Lost | Self::PerTryTimeout => true,
            Self::ConnectFailed | Self::NotProcessed => false,
        }
    }

    /// Whether the request provably was not processed.
    pub fn is_untouched(self) -> bool {
        matches!(self, Self::ConnectFailed | Self::NotProcessed)
    }

    /// A plain success: most calls end so, and most policies have nothing to say about it.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Answered { status, grpc: None | Some(0) } if status.is_success())
    }
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand the result to the caller, and why.
    GiveUp(Why),
    /// Try again.
    Again(Again),
}

/// Why there is no other try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The policy does not name what happened, or it is a success.
    NotNamed,
    /// It may have been processed, is not idempotent, and nobody asked for that risk.
    Unsafe,
    /// Every try that the policy gives was made (Envoy's flag `URX`).
    Exhausted,
    /// The budget or a limit of retries in flight has nothing left (Envoy's flag `UO`).
    OverBudget,
    /// The answer itself says so.
    Told,
}

/// Another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// How long to wait before it.
    pub pause: Duration,
    /// It was paid for out of the budget, which gets it back ([`Budget::refund`]) if the try is not made after all.
    pub paid: bool,
    /// It holds a place among the retries in flight, which is to be given back ([`Budget::end_retry`]).
    pub placed: bool,
}

/// What a call's tries go by: its route's policy, and what its own request asked for instead.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    policy: &'a RetryPolicy,
    asked: Option<&'a Overrides>,
}

impl<'a> Rules<'a> {
    /// The policy, and over it what the request asked for.
    pub fn new(policy: &'a RetryPolicy, asked: Option<&'a Overrides>) -> Self {
        Self { policy, asked }
    }

    /// Tries after the first.
    pub fn retries(&self) -> u32 {
        // Envoy: a request that names conditions has one retry unless it says how many.
        let names_all = |asked: &Overrides| asked.on != RetryOn::NONE && self.policy.on == RetryOn::NONE;
        match self.asked {
            None => self.policy.retries,
            Some(Overrides {
                retries: Some(asked), ..
            }) => *asked,
            Some(asked) if names_all(asked) => self.policy.retries.max(1),
            Some(_) => self.policy.retries,
        }
    }

    /// Conditions of the request are added to the policy's (Envoy).
    pub fn on(&self) -> RetryOn {
        self.asked.map_or(self.policy.on, |asked| asked.on | self.policy.on)
    }

    /// The longest one try may take.
    pub fn per_try_timeout(&self) -> Option<Duration> {
        let asked = self.asked.and_then(|asked| asked.per_try_timeout);
        asked.or(self.policy.per_try_timeout).filter(|limit| !limit.is_zero())
    }

    /// Whether a slow try is raced rather than ended. It needs a time to be slow by.
    pub fn hedges(&self) -> bool {
        let asked = self.asked.and_then(|asked| asked.hedge);
        asked.unwrap_or(self.policy.hedge) && self.per_try_timeout().is_some()
    }

    /// Whether the policy names this end, and the answer does not forbid another try.
    pub fn names(&self, end: TryEnd, answer: Option<&HeaderMap>) -> bool {
        let never = answer.is_some_and(|headers| matches!(answer::told(headers, self.on()), answer::Told::Never));
        !never && words::named(self, end, answer)
    }

    /// Why there is no other try after an answer, where the answer and the policy alone say so: nothing else of the world needs to
    /// be looked at then.
    pub fn settle(&self, end: TryEnd, answer: Option<&HeaderMap>) -> Option<Why> {
        match answer.map(|headers| answer::told(headers, self.on())) {
            Some(answer::Told::Never) => Some(Why::Told),
            _ if !words::named(self, end, answer) => Some(Why::NotNamed),
            _ => None,
        }
    }

    /// Whether nobody wrote what is to be tried again, and the request is one that may run twice, whose connection was lost: a peer that is
    /// killed, or that closes an idle connection at this moment, need not fail it. (RFC 9110 9.2.2. Istio's list does not name it, since
    /// an Envoy's words know no methods.)
    fn repeats_lost(&self, method: &Method, end: TryEnd) -> bool {
        end == TryEnd::Lost && !self.is_explicit() && self.retries() > 0 && method.is_idempotent()
    }

    fn is_explicit(&self) -> bool {
        self.policy.explicit || self.asked.is_some_and(|asked| asked.on != RetryOn::NONE)
    }
}

/// What a decision needs of the world.
#[derive(Debug)]
pub struct World<'a> {
    /// The destination's budget.
    pub budget: &'a Budget,
    /// Where its retries in flight are counted: the same, but for a destination that stands for others, each of which has a limit of
    /// its own.
    pub places: &'a Budget,
    /// The priority of the call, each of which has limits and counts of its own.
    pub priority: RoutingPriority,
    /// What limits retries in flight.
    pub limits: RetryLimits,
    /// The calls in flight beside them.
    pub calls: u32,
    /// Chance.
    pub draw: &'a mut Draw,
    /// Seconds since 1970, for answers that say when by the calendar; `None`: not known.
    pub unix_seconds: Option<u64>,
}

/// The memory of one call's tries.
#[derive(Debug, Default)]
pub struct RetryState {
    retried: u32,
    /// Of those, what was taken from what the policy gives: the transparent one is not (gRFC A6).
    taken: u32,
    /// Tries since a pushback, which begins the pauses anew (gRFC A6).
    paused: u32,
    transparent_used: bool,
    /// Nothing is repeated that may have been processed.
    forbidden: bool,
    /// The policy leaves this request out.
    left_out: bool,
}

impl RetryState {
    /// For a request with this head. Inside a call that is itself a retry nothing is repeated that may have been processed
    /// (`retried_above`): whoever began the other try has tries left, and two levels that repeat each other multiply. Of a request that
    /// the policy leaves out nothing is repeated at all, but for the transparent try (Envoy `retriable_request_headers`).
    pub fn begin(policy: &RetryPolicy, head: &RequestHead<'_>, retried_above: bool) -> Self {
        let listed = &policy.request_headers;
        Self {
            forbidden: retried_above,
            left_out: !(listed.is_empty() || listed.iter().any(|test| header_passes(test, head))),
            ..Self::default()
        }
    }

    /// Tries made beyond the first.
    pub fn retried(&self) -> u32 {
        self.retried
    }

    /// Decides about another try. A verdict of [`Verdict::Again`] has already drawn on the budget;
    /// what a try's end does to the budget otherwise is told to it by whoever saw the whole answer, trailers and all.
    pub fn judge(
        &mut self,
        rules: &Rules<'_>,
        method: &Method,
        end: TryEnd,
        answer: Option<&HeaderMap>,
        world: &mut World<'_>,
    ) -> Verdict {
        if end == TryEnd::PerTryTimeout {
            // A try that is abandoned tells nobody else how it ended.
            world.budget.failed();
        }
        if end == TryEnd::NotProcessed && !self.transparent_used {
            self.transparent_used = true;
            self.retried += 1;
            return Verdict::Again(Again {
                pause: Duration::ZERO,
                paid: false,
                placed: false,
            });
        }
        if self.left_out {
            return Verdict::GiveUp(Why::NotNamed);
        }
        // A call that found no connection put no load on the destination, and another endpoint is not to blame for the first:
        // it is picked anew (gRPC never fails a call over one of several connections), and dials have a pause of their own.
        let pays = end != TryEnd::ConnectFailed;
        let told = match answer.map(|headers| answer::told(headers, rules.on())) {
            Some(answer::Told::Never) => return Verdict::GiveUp(Why::Told),
            Some(answer::Told::After(pause)) => Some(pause),
            Some(answer::Told::Nothing) | None => None,
        };
        if !words::named(rules, end, answer) && !rules.repeats_lost(method, end) {
            return Verdict::GiveUp(Why::NotNamed);
        }
        let safe = end.is_untouched() || (!self.forbidden && (rules.is_explicit() || method.is_idempotent()));
        if !safe {
            return Verdict::GiveUp(Why::Unsafe);
        }
        if let Err(why) = self.take(rules, pays, world) {
            return Verdict::GiveUp(why);
        }
        let pause = match told {
            Some(pause) => {
                self.paused = 0;
                pause
            }
            None => {
                self.paused += 1;
                let asked = answer.and_then(|headers| pause::asked_for(rules.policy, headers, world));
                asked.unwrap_or_else(|| pause::jittered(rules.policy.backoff, self.paused, world.draw))
            }
        };
        Verdict::Again(Again {
            pause,
            paid: pays,
            placed: true,
        })
    }

    /// Decides about another try beside one that has reached its own time and goes on. Envoy hedges whatever conditions the
    /// policy names; who may run twice and what it may cost are asked as ever.
    pub fn hedge(&mut self, rules: &Rules<'_>, method: &Method, world: &mut World<'_>) -> Verdict {
        world.budget.failed();
        if self.forbidden || self.left_out || !(rules.is_explicit() || method.is_idempotent()) {
            return Verdict::GiveUp(Why::Unsafe);
        }
        match self.take(rules, true, world) {
            Err(why) => Verdict::GiveUp(why),
            Ok(()) => Verdict::Again(Again {
                pause: Duration::ZERO,
                paid: true,
                placed: true,
            }),
        }
    }

    /// Takes one retry from what the policy gives, and from the budget.
    fn take(&mut self, rules: &Rules<'_>, pays: bool, world: &World<'_>) -> Result<(), Why> {
        if self.taken >= rules.retries() {
            return Err(match rules.retries() {
                // None was to be had, so none was used up.
                0 => Why::NotNamed,
                _ => Why::Exhausted,
            });
        }
        if !world.places.begin_retry(world.priority, &world.limits, world.calls) {
            return Err(Why::OverBudget);
        }
        if pays && !world.budget.withdraw() {
            world.places.end_retry(world.priority);
            return Err(Why::OverBudget);
        }
        self.retried += 1;
        self.taken += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
