//! What of a request says which host it belongs to, where a cluster's balancing goes by that (Envoy `RouteAction.hash_policy`,
//! gRFC A42). [`crate::route::hash`] computes it.

use std::time::Duration;

use super::{Subject, Substitution};

/// One thing of a request that is hashed. What of several is found is mixed in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HashPolicy {
    /// What is looked at.
    pub by: HashBy,
    /// Whether those after it are passed over once there is a hash. Default: no.
    pub terminal: bool,
}

impl HashPolicy {
    /// Looks at this, and at those after it too.
    pub fn new(by: HashBy) -> Self {
        Self { by, terminal: false }
    }
}

/// What is hashed. Where it is not there, nothing is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashBy {
    /// A header. Several values are hashed one after the other, sorted, so that their order says nothing (Envoy).
    Header {
        /// Which.
        subject: Subject,
        /// What is made of each value first.
        rewrite: Option<Substitution>,
    },
    /// A cookie, which a caller that has none may be given.
    Cookie(Box<HashCookie>),
    /// The address that the request came from for which this one is made. One that is made for none has none.
    SourceIp,
    /// A parameter of the query, as it is written; of several the first.
    Query(Box<str>),
    /// The channel: all calls of one go to one host (gRPC's `io.grpc.channel_id`).
    Channel,
}

/// A cookie that callers are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HashCookie {
    /// Its name.
    pub name: Box<str>,
    /// Set: a caller without the cookie is given one for so long, in whole seconds; zero: for as long as its session lasts.
    pub ttl: Option<Duration>,
    /// The path it is given for; empty: that of the request.
    pub path: Box<str>,
    /// What else is said of it when it is given; an empty value is a flag.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}
