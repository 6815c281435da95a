//! Faults that are put in on purpose (Envoy `HTTPFault`, gRFC A33).

use std::time::Duration;

use http::StatusCode;

use super::HeaderMatch;
use crate::config::{ClusterName, Fraction};

/// What a fault filter does to a call. Each part has its own chance; the delay comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Holds the call up.
    pub delay: Option<FaultDelay>,
    /// Ends it.
    pub abort: Option<FaultAbort>,
    /// Only calls that pass every one of these.
    pub headers: Vec<HeaderMatch>,
    /// Only calls to this cluster.
    pub upstream_cluster: Option<ClusterName>,
    /// Only calls that name one of these in `x-envoy-downstream-service-node`; empty: all.
    pub downstream_nodes: Vec<Box<str>>,
    /// The most calls of the process that faults may hold at once; `None`: any number. One more is let through unharmed.
    pub max_active: Option<u32>,
}

impl Fault {
    /// Whether it can do anything.
    pub fn is_empty(&self) -> bool {
        self.delay.is_none() && self.abort.is_none()
    }
}

/// A delay and its chance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FaultDelay {
    /// How many of the calls. For a delay that the request asks for: at most how many.
    pub fraction: Fraction,
    /// How long.
    pub delay: Delay,
}

/// How long a call is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delay {
    /// So long.
    Fixed(Duration),
    /// As many milliseconds as `x-envoy-fault-delay-request` says.
    Header,
}

/// An end and its chance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FaultAbort {
    /// How many of the calls. For an end that the request asks for: at most how many.
    pub fraction: Fraction,
    /// With what.
    pub abort: Abort,
    /// The body of the answer; empty: Envoy's own words.
    pub body: Box<str>,
}

/// What a call ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abort {
    /// An HTTP status, which a gRPC caller is told as the gRPC status it stands for.
    Http(StatusCode),
    /// A gRPC status, which another caller is told as the HTTP status that it stands for.
    Grpc(u8),
    /// What `x-envoy-fault-abort-request` says, or else `x-envoy-fault-abort-grpc-request`.
    Header,
}
