//! Retries, as configured. The memory that goes with them (budget, backoff state) lives in [`crate::retry`], outside the
//! snapshot, so that a swap never refills it.

use std::fmt;
use std::time::Duration;

/// When and how often a call is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// Tries after the first; 0 means never again.
    pub retries: u32,
    /// What counts as worth another try.
    pub on: RetryOn,
    /// The longest one try may take; `None`: as long as the call.
    pub per_try_timeout: Option<Duration>,
    /// The pause before each further try.
    pub backoff: Backoff,
    /// Somebody wrote this policy, rather than the default standing in. A default never repeats a call that may have been
    /// processed and is not idempotent; what a user wrote is obeyed.
    pub explicit: bool,
}

impl RetryPolicy {
    /// Never again.
    pub fn never() -> Self {
        Self {
            retries: 0,
            on: RetryOn::NONE,
            per_try_timeout: None,
            backoff: Backoff::DEFAULT,
            explicit: false,
        }
    }
}

impl Default for RetryPolicy {
    /// Istio's default since 1.24: two retries on `connect-failure,refused-stream,unavailable,cancelled`, 25 ms base backoff.
    fn default() -> Self {
        let on = RetryOn::CONNECT_FAILURE | RetryOn::REFUSED_STREAM | RetryOn::UNAVAILABLE | RetryOn::CANCELLED;
        Self {
            retries: 2,
            on,
            per_try_timeout: None,
            backoff: Backoff::DEFAULT,
            explicit: false,
        }
    }
}

/// A set of retry conditions, by Envoy's words (`x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryOn(u32);

impl RetryOn {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// No connection could be made.
    pub const CONNECT_FAILURE: Self = Self(1);
    /// The peer refused the stream before processing it (REFUSED_STREAM).
    pub const REFUSED_STREAM: Self = Self(1 << 1);
    /// The connection or stream ended before an answer, or a try timed out.
    pub const RESET: Self = Self(1 << 2);
    /// An answer of 5xx, or none.
    pub const SERVER_ERROR: Self = Self(1 << 3);
    /// An answer of 502, 503 or 504.
    pub const GATEWAY_ERROR: Self = Self(1 << 4);
    /// gRPC CANCELLED in the response headers.
    pub const CANCELLED: Self = Self(1 << 5);
    /// gRPC DEADLINE_EXCEEDED in the response headers.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 6);
    /// gRPC INTERNAL in the response headers.
    pub const INTERNAL: Self = Self(1 << 7);
    /// gRPC RESOURCE_EXHAUSTED in the response headers.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 8);
    /// gRPC UNAVAILABLE in the response headers.
    pub const UNAVAILABLE: Self = Self(1 << 9);

    const WORDS: [(&'static str, Self); 10] = [
        ("connect-failure", Self::CONNECT_FAILURE),
        ("refused-stream", Self::REFUSED_STREAM),
        ("reset", Self::RESET),
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("cancelled", Self::CANCELLED),
        ("deadline-exceeded", Self::DEADLINE_EXCEEDED),
        ("internal", Self::INTERNAL),
        ("resource-exhausted", Self::RESOURCE_EXHAUSTED),
        ("unavailable", Self::UNAVAILABLE),
    ];

    /// The condition one word stands for; `None` for a word that is not known here.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, on)| *on)
    }

    /// Reads a comma-separated list. Unknown words are skipped, as Envoy and gRPC do.
    pub fn parse(list: &str) -> Self {
        list.split(',')
            .filter_map(|word| Self::from_word(word.trim()))
            .fold(Self::NONE, |all, one| all | one)
    }

    /// Whether every condition of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for RetryOn {
    /// The comma-separated list that [`parse`](Self::parse) reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Self::WORDS.iter().filter(|(_, on)| self.contains(*on));
        for (index, (word, _)) in words.enumerate() {
            write!(f, "{}{word}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetryOn({self})")
    }
}

/// The pause before a retry: random between 0 and a bound that doubles with each try (Envoy's full jitter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

impl Backoff {
    /// Envoy's default: 25 ms, at most 250 ms.
    pub const DEFAULT: Self = Self {
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
    };
    /// Smaller values are raised to this (gRFC A44, Envoy).
    pub const MIN: Duration = Duration::from_millis(1);

    /// A backoff between `base` and `max`; `max` defaults to ten times `base`.
    ///
    /// # Errors
    ///
    /// When `base` is zero or `max` is smaller than `base` (gRFC A44: NACK).
    pub fn new(base: Duration, max: Option<Duration>) -> Result<Self, InvalidBackoff> {
        let max = max.unwrap_or_else(|| base.saturating_mul(10));
        if base.is_zero() || max < base {
            return Err(InvalidBackoff { base, max });
        }
        Ok(Self {
            base: base.max(Self::MIN),
            max: max.max(Self::MIN),
        })
    }

    /// The bound before the first retry.
    pub fn base(&self) -> Duration {
        self.base
    }

    /// The bound that no pause exceeds.
    pub fn max(&self) -> Duration {
        self.max
    }
}

/// A backoff that could not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidBackoff {
    base: Duration,
    max: Duration,
}

impl fmt::Display for InvalidBackoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "backoff needs 0 < base <= max, not base {:?} and max {:?}",
            self.base, self.max
        )
    }
}

impl std::error::Error for InvalidBackoff {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_words_round_trip_and_unknown_ones_are_skipped() {
        let on = RetryOn::parse("connect-failure, Unavailable,http3-post-connect-failure,5xx");
        assert_eq!(on.to_string(), "connect-failure,5xx,unavailable");
        assert_eq!(RetryOn::parse(&on.to_string()), on);
        assert_eq!(RetryOn::parse(""), RetryOn::NONE);
    }

    #[test]
    fn backoff_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(Backoff::new(ms(25), None).unwrap(), Backoff::DEFAULT);
        assert!(Backoff::new(ms(0), None).is_err());
        assert!(Backoff::new(ms(10), Some(ms(5))).is_err());
        assert_eq!(Backoff::new(Duration::from_micros(5), None).unwrap().base(), ms(1));
    }
}
