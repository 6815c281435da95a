//! How one endpoint is chosen among interchangeable ones, as configured. What is done by it is [`crate::balance`]'s.
//!
//! Policies are values of one closed set, so that a picker is an enum and a pick a jump. Times and sizes are valid by the
//! time they are here; floats of the wire are thousandths.

use std::sync::Arc;
use std::time::Duration;

use super::ReportedMetric;

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LbPolicy {
    /// The one with the fewest calls in flight of a few random ones (gRFC A48, Envoy `LEAST_REQUEST`).
    LeastRequest(LeastRequest),
    /// Each in turn, as often as its weight says.
    RoundRobin,
    /// Any, as often as its weight says.
    Random,
    /// The one that stands next on a ring to the request's hash (gRFC A42, Envoy `RING_HASH`).
    RingHash(RingHash),
    /// The one that a table says for the request's hash (Envoy `MAGLEV`).
    Maglev(Maglev),
    /// Each in turn, as often as what it reports of itself says (gRFC A58).
    ClientSideWeightedRoundRobin(ClientWeights),
    /// One for all calls, and another only when it cannot be called (gRFC A62).
    PickFirst {
        /// Whether the order in which they are tried is drawn, or that of the configuration. Default: that of the configuration.
        shuffle: bool,
    },
}

impl LbPolicy {
    /// The better of two random endpoints: what stands where nothing is said, as in Istio.
    pub const LEAST_REQUEST: Self = Self::LeastRequest(LeastRequest::DEFAULT);

    /// Whether calls that hash alike go to one endpoint: only then a request is hashed.
    pub fn is_hashed(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }

    /// How much more than its share an endpoint takes of calls that hash alike, if that is bounded.
    pub fn balance(&self) -> Option<BalanceFactor> {
        match self {
            Self::RingHash(ring) => ring.balance,
            Self::Maglev(table) => table.balance,
            _ => None,
        }
    }
}

/// Settings of [`LbPolicy::LeastRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeastRequest {
    /// How many are compared, 2 to [`MAX_CHOICES`](Self::MAX_CHOICES). Default 2.
    pub choices: u32,
    /// How much calls in flight count where weights differ, in thousandths (Envoy `active_request_bias`): a host's weight is
    /// divided by its calls to this power, and 0 looks at weights alone. Default 1,000.
    pub bias_per_mille: u32,
}

impl LeastRequest {
    /// Comparing more gains nothing (gRFC A48).
    pub const MAX_CHOICES: u32 = 10;
    /// Two, by calls per weight.
    pub const DEFAULT: Self = Self {
        choices: 2,
        bias_per_mille: 1_000,
    };
}

/// Settings of [`LbPolicy::RingHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingHash {
    /// The least places on the ring. Default 1,024. gRPC's other clients stop at 4,096 places, Envoy and this do not.
    pub min_size: u32,
    /// The most, from `min_size` to [`MAX_SIZE`](Self::MAX_SIZE), which is the default.
    pub max_size: u32,
    /// How an endpoint's places are found.
    pub function: RingFunction,
    /// How much more than its share an endpoint takes; `None`: all that hash to it.
    pub balance: Option<BalanceFactor>,
}

/// How much more than the mean an endpoint takes of the calls that hash to it: percent of the mean, by its weight (Envoy
/// `hash_balance_factor`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BalanceFactor(u32);

impl BalanceFactor {
    /// So many percent; `None` for less than 100, which all endpoints together could not take.
    pub fn new(percent: u32) -> Option<Self> {
        (percent >= 100).then_some(Self(percent))
    }

    /// The percent.
    pub fn percent(self) -> u32 {
        self.0
    }
}

impl RingHash {
    /// The most places there may be (Envoy, gRFC A42).
    pub const MAX_SIZE: u32 = 8 * 1024 * 1024;
    /// Envoy's and gRPC's.
    pub const DEFAULT: Self = Self {
        min_size: 1_024,
        max_size: Self::MAX_SIZE,
        function: RingFunction::XxHash,
        balance: None,
    };
}

/// The hash that places endpoints on a ring. A request is always hashed by XXH64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RingFunction {
    /// XXH64, seed 0. The default, and the only one that gRPC knows.
    XxHash,
    /// MurmurHash2 of 64 bits with the seed of GNU's `std::hash`, as Envoy has it for those who come from there.
    Murmur2,
}

/// Settings of [`LbPolicy::Maglev`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Maglev {
    size: u32,
    /// As [`RingHash::balance`].
    pub balance: Option<BalanceFactor>,
}

impl Maglev {
    /// The largest table (Envoy).
    pub const MAX_SIZE: u32 = 5_000_011;
    /// Envoy's.
    pub const DEFAULT: Self = Self {
        size: 65_537,
        balance: None,
    };

    /// A table of this many places; `None` unless that is a prime of at most [`MAX_SIZE`](Self::MAX_SIZE): each endpoint walks the
    /// table in steps of its own, and only in one of prime size each such walk meets all places.
    pub fn new(size: u64) -> Option<Self> {
        let size = u32::try_from(size).ok().filter(|size| *size <= Self::MAX_SIZE)?;
        let divided = (2..).take_while(|by| by * by <= size).any(|by| size % by == 0);
        let balance = None;
        (size >= 2 && !divided).then_some(Self { size, balance })
    }

    /// The same, with what an endpoint takes bounded by `balance`.
    #[must_use]
    pub fn balanced(self, balance: Option<BalanceFactor>) -> Self {
        Self { balance, ..self }
    }

    /// How many places the table has.
    pub fn size(self) -> u32 {
        self.size
    }
}

/// Settings of [`LbPolicy::ClientSideWeightedRoundRobin`]: how endpoints' reports become weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientWeights {
    /// Set: endpoints are asked for reports in a stream of their own, this often, besides those that come with answers. Default: not
    /// set.
    pub out_of_band: Option<Duration>,
    /// How long an endpoint must have reported before its weight counts; zero: at once. Default 10 s.
    pub blackout: Duration,
    /// After how long without a report its weight counts no more. Default 3 min.
    pub expiration: Duration,
    /// How often weights are taken over, at least [`MIN_UPDATE`](Self::MIN_UPDATE). Default 1 s.
    pub update: Duration,
    /// What an endpoint's share of errors adds to its utilisation, in thousandths. Default 1,000.
    pub error_penalty_per_mille: u32,
    /// The figures of which the greatest is an endpoint's utilisation (gRFC A114); where none of them was reported, and by
    /// default, its own word for it, or else its CPU's.
    pub metrics: Arc<[ReportedMetric]>,
}

impl ClientWeights {
    /// Taking weights over more often is not had (gRFC A58).
    pub const MIN_UPDATE: Duration = Duration::from_millis(100);
    /// How often reports are asked for where it is not said.
    pub const DEFAULT_OUT_OF_BAND: Duration = Duration::from_secs(10);
}

impl Default for ClientWeights {
    fn default() -> Self {
        Self {
            out_of_band: None,
            blackout: Duration::from_secs(10),
            expiration: Duration::from_secs(180),
            update: Duration::from_secs(1),
            error_penalty_per_mille: 1_000,
            metrics: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_prime_sizes() {
        for prime in [2, 3, 5, 7, 251, 65_537, 5_000_011] {
            assert_eq!(Maglev::new(prime).map(Maglev::size), Some(prime as u32));
        }
        for other in [0, 1, 4, 9, 65_536, 5_000_013, 5_000_021, u64::MAX] {
            assert_eq!(Maglev::new(other), None, "{other}");
        }
    }
}
