//! Whether there is a token for one more request: [`RateLimits`](crate::config::RateLimits) applied to a request, and the buckets behind them.
//!
//! Two things, since one outlives the other. [`Buckets`] are what was taken so far; they belong to a process, or to a connection, and are
//! found by what they are for: the chain, the filter, the route, the descriptor. A [`Limiter`] is one configuration with its buckets found.
//! So a push that says the same again, or raises a limit, gives nobody a token: a control plane that pushes ten times a second must not
//! lift every limit.
//!
//! Pure but for the counts: it takes the time and a draw, and answers. What passes allocates nothing, unless it is the first of a value
//! that a bucket is made for, or has a header several times that it is described by.

mod bucket;
mod describe;
mod limiter;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{DescriptorEntry, Domain, GlobalRateLimit, LocalRateLimit, RouteMatch, TokenBucket};
use crate::route::RequestHead;
use bucket::{Bucket, Dynamic};
pub use limiter::Limiter;

/// What a limit is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The head of the request.
    pub head: RequestHead<'a>,
    /// Where its connection comes from.
    pub source: Option<IpAddr>,
}

/// What comes of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The limit by which the request goes no further.
    pub limited: Option<Arc<LocalRateLimit>>,
    /// Limits that had no token for it and are not enforced on it: it goes on, with their
    /// [`request_headers`](LocalRateLimit::request_headers).
    pub passed_over: Vec<Arc<LocalRateLimit>>,
    /// What answers say of what is left, where a limit asks for that.
    pub quota: Option<Quota>,
}

/// What is to be asked of a rate limit service about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// By which limit.
    pub limit: Arc<GlobalRateLimit>,
    /// What the request is described by: keys and their values.
    pub descriptors: Vec<Vec<(String, String)>>,
}

/// What is left in the bucket that is nearest to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The most tokens.
    pub limit: u32,
    /// Those that are left.
    pub remaining: u32,
    /// When the bucket is full again.
    pub reset: Duration,
}

/// Buckets, by what they are for. See the module.
#[derive(Debug)]
pub struct Buckets {
    origin: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    buckets: HashMap<Key, (Arc<Bucket>, TokenBucket)>,
    dynamic: HashMap<Key, Arc<Dynamic>>,
    /// So many, and it is looked which of them nobody needs.
    look_at: usize,
}

/// What a bucket is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    scope: Arc<Scope>,
    filter: Box<str>,
    place: Place,
    /// `None`: the filter's own bucket.
    descriptor: Option<Vec<DescriptorEntry>>,
}

/// Whose limits they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The listener's name.
    pub listener: Box<str>,
    /// The chain's.
    pub chain: Box<str>,
    /// The port that its connections are made to.
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Chain,
    Host(Vec<Domain>),
    Route(Vec<Domain>, RouteMatch),
}

/// Fewer buckets than this are not worth looking through.
const FEW: usize = 64;

impl Buckets {
    /// None yet. What is asked later is asked at `now` or after it.
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            kept: Mutex::default(),
        }
    }

    fn at(&self, now: Instant) -> i64 {
        nanoseconds(self.origin, now)
    }

    fn bucket(&self, key: Key, of: TokenBucket, now: i64) -> Arc<Bucket> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.tidy(now);
        let held = kept.buckets.entry(key).or_insert_with(|| (Arc::default(), of));
        held.1 = of;
        Arc::clone(&held.0)
    }

    fn dynamic(&self, key: Key, now: i64) -> Arc<Dynamic> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.tidy(now);
        Arc::clone(kept.dynamic.entry(key).or_default())
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.buckets.len() + kept.dynamic.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn nanoseconds(origin: Instant, now: Instant) -> i64 {
    i64::try_from(now.saturating_duration_since(origin).as_nanos()).unwrap_or(i64::MAX)
}

impl Kept {
    /// Lets go of what no configuration names, once nothing can be told from its absence: a bucket that is full is like one that was
    /// never made. Looked at when there are twice as many as were left, so that configurations without end keep a bounded number.
    fn tidy(&mut self, now: i64) {
        if self.buckets.len() + self.dynamic.len() < self.look_at.max(FEW) {
            return;
        }
        self.buckets
            .retain(|_, (bucket, of)| Arc::strong_count(bucket) > 1 || !bucket.is_full(of, now));
        self.dynamic.retain(|_, dynamic| Arc::strong_count(dynamic) > 1);
        self.look_at = 2 * (self.buckets.len() + self.dynamic.len());
    }
}

/// Where a [`Limiter`] finds its buckets.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The process's.
    pub shared: &'a Buckets,
    /// The connection's, for limits that are kept [per connection](LocalRateLimit::per_connection).
    pub connection: &'a Buckets,
}
