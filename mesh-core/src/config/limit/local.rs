//! A limit that a server keeps by itself (Envoy `LocalRateLimit`).

use http::StatusCode;

use super::super::{Fraction, HeaderEdits};
use super::{Describing, DescriptorEntry, TokenBucket};

/// One limit, with its buckets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalRateLimit {
    /// For requests that no descriptor is for, and for the others, too, unless
    /// [`always_consume_default`](Self::always_consume_default) says otherwise. `None`: those are not limited.
    pub bucket: Option<TokenBucket>,
    /// Buckets for descriptors.
    pub descriptors: Vec<LocalDescriptor>,
    /// Of how many requests tokens are taken.
    pub enabled: Fraction,
    /// Of how many of those the answer counts; the others pass.
    pub enforced: Fraction,
    /// What who is limited is answered. One that is no error is 429 (Envoy).
    pub status: StatusCode,
    /// What a gRPC caller who is limited is told: RESOURCE_EXHAUSTED, and not what `status` means to gRPC.
    pub resource_exhausted: bool,
    /// Put into that answer. Only values that are the same for all requests are put in.
    pub response_headers: HeaderEdits,
    /// Put into a request that would be limited and is let through.
    pub request_headers: HeaderEdits,
    /// Which descriptions are looked at: those of this stage.
    pub stage: u32,
    /// Each connection has buckets of its own.
    pub per_connection: bool,
    /// Answers say what is left, as `x-ratelimit-*` (draft-polli-ratelimit-headers-03).
    pub quota_headers: bool,
    /// Whether what the virtual host describes requests by is looked at.
    pub host: VirtualHostLimits,
    /// A token of [`bucket`](Self::bucket) is taken, too, of requests that a descriptor is for.
    pub always_consume_default: bool,
    /// What requests are described by; where there is anything, what routes say of that is not looked at.
    pub describing: Vec<Describing>,
    /// How many values a descriptor without one has buckets for, at least one; the one that was asked for longest ago makes room.
    pub max_dynamic: u32,
}

impl LocalRateLimit {
    /// The most values of one descriptor without one where nothing is said (Envoy).
    pub const DEFAULT_MAX_DYNAMIC: u32 = 20;

    /// The most descriptors of one limit: each request is held against them.
    pub const MAX_DESCRIPTORS: usize = 256;

    /// The most values of one descriptor without one, whatever is said: each request is held against them.
    pub const MAX_DYNAMIC: u32 = 1024;

    /// `bucket` for all requests together, enforced, and 429 for whom it has no token.
    pub fn new(bucket: TokenBucket) -> Self {
        Self {
            bucket: Some(bucket),
            descriptors: Vec::new(),
            enabled: Fraction::ALL,
            enforced: Fraction::ALL,
            status: StatusCode::TOO_MANY_REQUESTS,
            resource_exhausted: false,
            response_headers: HeaderEdits::default(),
            request_headers: HeaderEdits::default(),
            stage: 0,
            per_connection: false,
            quota_headers: false,
            host: VirtualHostLimits::default(),
            always_consume_default: true,
            describing: Vec::new(),
            max_dynamic: Self::DEFAULT_MAX_DYNAMIC,
        }
    }
}

/// A bucket for the requests that are described so, and no otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalDescriptor {
    /// What they are described by, all of it and in this order.
    pub entries: Vec<DescriptorEntry>,
    /// The bucket.
    pub bucket: TokenBucket,
    /// Tokens are taken, and none that is missing changes anything.
    pub shadow: bool,
}

/// Whether what the virtual host describes requests by is looked at (Envoy `VhRateLimitsOptions`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VirtualHostLimits {
    /// Where the route says nothing of its own.
    #[default]
    Override,
    /// Always.
    Include,
    /// Never.
    Ignore,
}
