//! How many requests a server takes, as configured: Envoy's rate limits (`envoy.filters.http.local_ratelimit` and the `rate_limits` of
//! routes). Values only: [`crate::limit`] applies them, and holds what outlives them.
//!
//! A chain has a list of filters, in the order in which they are asked. A route, or else its virtual host, may put others in their
//! place, and says what requests are described by: a filter with descriptors has a bucket for each.

use std::fmt;
use std::sync::Arc;

use super::{Domain, RouteMatch};

mod bucket;
mod describe;
mod global;
mod local;

pub use bucket::{InvalidBucket, TokenBucket};
pub use describe::{DescribeBy, Describing, DescriptorEntry};
pub use global::{GlobalFilter, GlobalRateLimit};
pub use local::{LocalDescriptor, LocalRateLimit, VirtualHostLimits};

/// The rate limits of one filter chain. Built within limits, so that asking them is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RateLimits {
    filters: Vec<LimitFilter>,
    hosts: Vec<LimitHost>,
    global: Vec<GlobalFilter>,
}

impl RateLimits {
    /// The most filters of one chain.
    pub const MAX_FILTERS: usize = 32;

    /// The most buckets that a chain names, of all its filters and routes together: each request is held against those of its route.
    pub const MAX_BUCKETS: usize = 4096;

    /// The most lists of what requests are described by, of all routes together.
    pub const MAX_DESCRIBING: usize = 4096;

    /// `filters` are asked in their order; `hosts` say where others are asked, and how requests are described.
    ///
    /// # Errors
    ///
    /// When a limit is passed.
    pub fn new(filters: Vec<LimitFilter>, hosts: Vec<LimitHost>) -> Result<Self, TooManyLimits> {
        if filters.len() > Self::MAX_FILTERS {
            return Err(TooManyLimits::Filters);
        }
        let routes = || hosts.iter().flat_map(|host| &host.routes);
        let replaced = hosts.iter().flat_map(|host| &host.instead);
        let replaced = replaced.chain(routes().flat_map(|route| &route.instead));
        let all = filters.iter().filter_map(|filter| filter.limit.as_ref());
        let all = all.chain(replaced.filter_map(|instead| instead.limit.as_ref()));
        if all
            .clone()
            .any(|limit| limit.descriptors.len() > LocalRateLimit::MAX_DESCRIPTORS)
        {
            return Err(TooManyLimits::Descriptors);
        }
        let (buckets, own) = all.fold((0, 0), |(buckets, own), limit| {
            (buckets + 1 + limit.descriptors.len(), own + limit.describing.len())
        });
        if buckets > Self::MAX_BUCKETS {
            return Err(TooManyLimits::Buckets);
        }
        let of_hosts: usize = hosts.iter().map(|host| host.describing.len()).sum();
        let of_routes: usize = routes().map(|route| route.describing.len()).sum();
        if own + of_hosts + of_routes > Self::MAX_DESCRIBING {
            return Err(TooManyLimits::Describing);
        }
        Ok(Self {
            filters,
            hosts,
            global: Vec::new(),
        })
    }

    /// One limit, of a server that says so in code.
    ///
    /// # Errors
    ///
    /// When it names more than [`RateLimits::MAX_BUCKETS`] buckets.
    pub fn of(limit: LocalRateLimit) -> Result<Self, TooManyLimits> {
        let filter = LimitFilter {
            name: "local".into(),
            limit: Some(Arc::new(limit)),
            after_guards: false,
        };
        Self::new(vec![filter], Vec::new())
    }

    /// With limits that somebody else keeps: they are asked where those of this server have let a request pass, in their order.
    ///
    /// # Errors
    ///
    /// When there are more than [`RateLimits::MAX_FILTERS`].
    pub fn with_global(self, global: Vec<GlobalFilter>) -> Result<Self, TooManyLimits> {
        match global.len() > Self::MAX_FILTERS {
            true => Err(TooManyLimits::Filters),
            false => Ok(Self { global, ..self }),
        }
    }

    /// The limits that somebody else keeps.
    pub fn global(&self) -> &[GlobalFilter] {
        &self.global
    }

    /// The filters, in the order in which they are asked.
    pub fn filters(&self) -> &[LimitFilter] {
        &self.filters
    }

    /// What hosts say.
    pub fn hosts(&self) -> &[LimitHost] {
        &self.hosts
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty() && self.global.is_empty()
    }
}

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitFilter {
    /// Its name, by which routes replace it. Unique in its chain.
    pub name: Box<str>,
    /// What it asks; `None`: nothing, where no route says otherwise.
    pub limit: Option<Arc<LocalRateLimit>>,
    /// It stands behind the filters that ask who may: what they refuse takes no token of it.
    pub after_guards: bool,
}

/// What holds for the requests of some authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LimitHost {
    /// The authorities.
    pub domains: Vec<Domain>,
    /// What its requests are described by (`rate_limits`).
    pub describing: Vec<Describing>,
    /// For all its requests, where their route says nothing.
    pub instead: Vec<Instead>,
    /// For the requests of one route; the first that takes a request counts.
    pub routes: Vec<LimitRoute>,
}

/// See [`LimitHost`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitRoute {
    /// The requests it takes.
    pub matches: RouteMatch,
    /// The cluster it names, which is what Envoy calls their destination.
    pub cluster: Option<Box<str>>,
    /// What they are described by. Without any, those of the host are looked at.
    pub describing: Vec<Describing>,
    /// Those of the host are looked at besides (`include_vh_rate_limits`).
    pub includes_host: bool,
    /// For those.
    pub instead: Vec<Instead>,
}

/// What takes the place of a filter's limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instead {
    /// The filter.
    pub filter: Box<str>,
    /// What it asks instead, with buckets of its own; `None`: nothing.
    pub limit: Option<Arc<LocalRateLimit>>,
}

/// Which limit of [`RateLimits`] was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooManyLimits {
    /// [`RateLimits::MAX_FILTERS`]
    Filters,
    /// [`RateLimits::MAX_BUCKETS`]
    Buckets,
    /// [`RateLimits::MAX_DESCRIBING`]
    Describing,
    /// [`LocalRateLimit::MAX_DESCRIPTORS`]
    Descriptors,
}

impl fmt::Display for TooManyLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, what) = match self {
            Self::Filters => (RateLimits::MAX_FILTERS, "filters of rate limits on one chain"),
            Self::Buckets => (RateLimits::MAX_BUCKETS, "token buckets on one chain"),
            Self::Descriptors => (LocalRateLimit::MAX_DESCRIPTORS, "descriptors of one limit"),
            Self::Describing => (RateLimits::MAX_DESCRIBING, "rate_limits on one chain"),
        };
        write!(f, "holds more than {limit} {what}")
    }
}

impl std::error::Error for TooManyLimits {}
