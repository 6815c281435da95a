//! Which hosts are taken out for how they behave, and when they come back (Envoy "Outlier detection", gRFC A50).
//!
//! Two halves. A [`Monitor`] belongs to a host and is written to from the calls: one atomic for a success, two for a failure,
//! no lock. An [`OutlierDetector`] belongs to a cluster and is asked rarely: when failures in a row reached their count, which
//! ejects at once, and at each interval, when hosts are compared and let back in. Both are memory and live outside the
//! snapshot, keyed by cluster and address: a swap never forgives a host and never forgets how often it was ejected.
//!
//! What a try tells of its host:
//!
//! | what happened | counted as |
//! |---|---|
//! | an answer below 500; gRPC OK, CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ... | a success |
//! | 502, 503, 504; gRPC UNAVAILABLE (503), DEADLINE_EXCEEDED (504) | 5xx and gateway failure |
//! | any other 5xx; gRPC UNKNOWN, INTERNAL, DATA_LOSS (500), UNIMPLEMENTED (501) | 5xx |
//! | no connection: TCP, TLS, the peer's identity, time | local origin |
//! | the stream was reset or the connection broke, before the answer or within it; REFUSED_STREAM | local origin |
//! | a try or a call ran out of time before the answer's head | local origin |
//! | the call ran out of time while the answer was being read | nothing: long answers end so |
//! | GOAWAY below the stream | nothing: a host that drains is well |
//! | the caller went away; no identity of our own; a limit of ours | nothing: the host has no part in it |
//!
//! A gRPC status counts wherever it stands, in the headers or in the trailers, so a try counts when its answer has ended. A
//! failure of local origin is a gateway failure too, unless the two origins are counted apart
//! (`split_external_local_origin_errors`): then any answer is a local success. (Envoy counts the connection as one already,
//! and so never finds a host that accepts connections and answers nothing.)

mod detector;
mod judge;
mod monitor;
mod record;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use http::StatusCode;

use crate::config::{OutlierDetection, Percent};

pub use detector::{Change, Ejection, Event, OutlierDetector};
pub use monitor::Monitor;

/// What one try tells of the host it went to; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// An answer that is no failure of the host.
    Success,
    /// An answer of 5xx that is no gateway failure.
    ServerError,
    /// An answer of 502, 503 or 504.
    GatewayFailure,
    /// No answer, as seen from here.
    LocalOriginFailure,
}

impl Observation {
    /// What an answer tells: by its gRPC status if it has one, else by its HTTP status.
    pub fn of_answer(status: StatusCode, grpc: Option<u8>) -> Self {
        match grpc.map_or(status.as_u16(), http_status) {
            502..=504 => Self::GatewayFailure,
            500.. => Self::ServerError,
            _ => Self::Success,
        }
    }
}

/// The HTTP status that a gRPC status stands for (Envoy `grpcToHttpStatus`); only its class matters here.
fn http_status(grpc: u8) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        // UNKNOWN, INTERNAL, DATA_LOSS, and what no specification names.
        _ => 500,
    }
}

/// Why a host is ejected, by Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Answers of 5xx in a row.
    Consecutive5xx,
    /// Answers of 502, 503 and 504 in a row.
    ConsecutiveGatewayFailure,
    /// No answers in a row.
    ConsecutiveLocalOriginFailure,
    /// Fewer successes than the other hosts have.
    SuccessRate,
    /// The same, of answers at all.
    SuccessRateLocalOrigin,
    /// Too many failures.
    FailurePercentage,
    /// Too few answers.
    FailurePercentageLocalOrigin,
}

impl Cause {
    /// A stable word, fit for a metric label (Envoy `OutlierEjectionType`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::SuccessRateLocalOrigin => "success_rate_local_origin",
            Self::FailurePercentage => "failure_percentage",
            Self::FailurePercentageLocalOrigin => "failure_percentage_local_origin",
        }
    }

    /// The chance that a host is ejected for it.
    fn enforcing(self, config: &OutlierDetection) -> Percent {
        match self {
            Self::Consecutive5xx => config.consecutive_5xx.enforcing,
            Self::ConsecutiveGatewayFailure => config.consecutive_gateway_failure.enforcing,
            Self::ConsecutiveLocalOriginFailure => config.consecutive_local_origin_failure.enforcing,
            Self::SuccessRate => config.success_rate.enforcing,
            Self::SuccessRateLocalOrigin => config.success_rate.enforcing_local_origin,
            Self::FailurePercentage => config.failure_percentage.enforcing,
            Self::FailurePercentageLocalOrigin => config.failure_percentage.enforcing_local_origin,
        }
    }
}
