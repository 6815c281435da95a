//! How fast requests may come (Envoy `TokenBucket`).

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// A bucket that begins full, and from which each request takes a token. It fills evenly, as Envoy's does: `per_fill` tokens in each
/// `interval`, and not all of them at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenBucket {
    max: u32,
    per_fill: NonZeroU32,
    interval: Duration,
}

impl TokenBucket {
    /// The shortest interval (Envoy).
    pub const MIN_INTERVAL: Duration = Duration::from_millis(50);

    /// The longest interval, which fits the clock of the buckets.
    pub const MAX_INTERVAL: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Holds `max` tokens, none at all where that is zero: every request is limited then (Envoy).
    ///
    /// # Errors
    ///
    /// When no token ever comes, or the interval is shorter than [`TokenBucket::MIN_INTERVAL`] or longer than
    /// [`TokenBucket::MAX_INTERVAL`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use mesh_core::config::TokenBucket;
    /// let bucket = TokenBucket::new(100, 10, Duration::from_secs(1)).unwrap();
    /// assert_eq!(bucket.max(), 100);
    /// assert!(TokenBucket::new(100, 10, Duration::from_millis(1)).is_err());
    /// ```
    pub fn new(max: u32, per_fill: u32, interval: Duration) -> Result<Self, InvalidBucket> {
        let per_fill = NonZeroU32::new(per_fill).ok_or(InvalidBucket::NoTokens)?;
        match interval {
            short if short < Self::MIN_INTERVAL => Err(InvalidBucket::TooOften),
            long if long > Self::MAX_INTERVAL => Err(InvalidBucket::TooSeldom),
            interval => Ok(Self {
                max,
                per_fill,
                interval,
            }),
        }
    }

    /// How many tokens it holds at most.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// How many come in each interval.
    pub fn per_fill(&self) -> u32 {
        self.per_fill.get()
    }

    /// See [`TokenBucket::per_fill`].
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How long one token takes to come, in nanoseconds, at least one. Rounded down, so that a whole interval brings all of its tokens:
    /// up to a million tokens a second that is exact to a thousandth.
    pub(crate) fn token_ns(&self) -> i64 {
        let interval = i64::try_from(self.interval.as_nanos()).unwrap_or(i64::MAX);
        (interval / i64::from(self.per_fill.get())).max(1)
    }
}

/// A bucket that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidBucket {
    /// Nothing ever fills it.
    NoTokens,
    /// [`TokenBucket::MIN_INTERVAL`]
    TooOften,
    /// [`TokenBucket::MAX_INTERVAL`]
    TooSeldom,
}

impl fmt::Display for InvalidBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTokens => f.write_str("tokens_per_fill must be at least 1"),
            Self::TooOften => f.write_str("fill_interval must be at least 50 ms"),
            Self::TooSeldom => f.write_str("fill_interval must be at most a year"),
        }
    }
}

impl std::error::Error for InvalidBucket {}
