//! The words that say what is worth another try.

use std::fmt;

/// A set of retry conditions, by Envoy's words (`x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
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
    /// An answer of 502, 503 or 504, or none.
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
    /// It ended before the request's headers were sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 10);
    /// An answer of 409, the only 4xx that another try may mend (Envoy).
    pub const RETRIABLE_4XX: Self = Self(1 << 11);
    /// An answer of the policy's status codes.
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 12);
    /// An answer with the policy's headers.
    pub const RETRIABLE_HEADERS: Self = Self(1 << 13);
    /// An answer with `x-envoy-ratelimited`, which is otherwise never tried again.
    pub const ENVOY_RATELIMITED: Self = Self(1 << 14);
    /// No connection could be made over HTTP/3. None is, so it never happens; the word is kept.
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 15);
    /// What happens only to requests that nobody processed.
    pub const UNPROCESSED: Self = Self::union([
        Self::CONNECT_FAILURE,
        Self::REFUSED_STREAM,
        Self::RESET_BEFORE_REQUEST,
        Self::ENVOY_RATELIMITED,
        Self::HTTP3_POST_CONNECT_FAILURE,
    ]);

    const WORDS: [(&'static str, Self); 16] = [
        ("connect-failure", Self::CONNECT_FAILURE),
        ("refused-stream", Self::REFUSED_STREAM),
        ("reset", Self::RESET),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
        ("envoy-ratelimited", Self::ENVOY_RATELIMITED),
        ("http3-post-connect-failure", Self::HTTP3_POST_CONNECT_FAILURE),
        ("cancelled", Self::CANCELLED),
        ("deadline-exceeded", Self::DEADLINE_EXCEEDED),
        ("internal", Self::INTERNAL),
        ("resource-exhausted", Self::RESOURCE_EXHAUSTED),
        ("unavailable", Self::UNAVAILABLE),
    ];

    /// Every condition there is.
    pub fn all() -> impl Iterator<Item = (&'static str, Self)> {
        Self::WORDS.into_iter()
    }

    /// The condition one word stands for; `None` for a word that is not known here.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, on)| *on)
    }

    /// Reads a comma-separated list. Unknown words are skipped, as Envoy and gRPC do; case and spaces do not matter, though
    /// Envoy minds case: nobody means another word by another case.
    pub fn parse(list: &str) -> Self {
        list.split(',')
            .filter_map(|word| Self::from_word(word.trim()))
            .fold(Self::NONE, |all, one| all | one)
    }

    /// Everything that is in any of `sets`.
    pub(crate) const fn union<const N: usize>(sets: [Self; N]) -> Self {
        let (mut all, mut index) = (0, 0);
        while index < N {
            all |= sets[index].0;
            index += 1;
        }
        Self(all)
    }

    /// Whether every condition of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any condition of `other` is in this set.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// This set but for what is in `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_words_round_trip_and_unknown_ones_are_skipped() {
        let on = RetryOn::parse("connect-failure, Unavailable,unheard-of,5xx");
        assert_eq!(on.to_string(), "connect-failure,5xx,unavailable");
        assert_eq!(RetryOn::parse(&on.to_string()), on);
        assert_eq!(RetryOn::parse(""), RetryOn::NONE);
        let every = RetryOn::all().fold(RetryOn::NONE, |all, (_, one)| all | one);
        assert_eq!(RetryOn::parse(&every.to_string()), every);
    }

    #[test]
    fn sets() {
        let on = RetryOn::parse("reset,5xx");
        assert!(on.intersects(RetryOn::parse("5xx,cancelled")) && !on.contains(RetryOn::parse("5xx,cancelled")));
        assert_eq!(on.without(RetryOn::RESET), RetryOn::SERVER_ERROR);
    }
}
