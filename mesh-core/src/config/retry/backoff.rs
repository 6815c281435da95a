//! How long to wait before another try.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

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

/// The pause that an answer asks for in its headers (Envoy `rate_limited_retry_back_off`): `Retry-After`,
/// `X-RateLimit-Reset`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RateLimitedBackoff {
    /// Where it may stand; the first that stands and can be read counts. Never empty.
    pub headers: Arc<[ResetHeader]>,
    /// A header that asks for more is passed over.
    pub max: Duration,
}

impl RateLimitedBackoff {
    /// The bound when nothing is said (Envoy).
    pub const DEFAULT_MAX: Duration = Duration::from_secs(300);
}

/// A header that says when to come again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResetHeader {
    /// Its name.
    pub name: HeaderName,
    /// What its number is.
    pub format: ResetFormat,
}

/// What the number of a [`ResetHeader`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(Backoff::new(ms(25), None).unwrap(), Backoff::DEFAULT);
        assert!(Backoff::new(ms(0), None).is_err());
        assert!(Backoff::new(ms(10), Some(ms(5))).is_err());
        assert_eq!(Backoff::new(Duration::from_micros(5), None).unwrap().base(), ms(1));
    }
}
