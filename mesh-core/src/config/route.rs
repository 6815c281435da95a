//! Which requests go where, as configured (Envoy RDS). [`crate::route`] decides by it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{ClusterName, RetryPolicy, RouteMatch, RoutingPriority, TimeLimits, Weight};

/// All routes of one target: what its listener's route configuration holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteTree {
    /// The name of the route configuration.
    pub name: Arc<str>,
    /// Chosen among by the request's authority.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Whether the authority's port is cut off before a host is chosen by it (Envoy `ignore_port_in_host_matching`, which
    /// istiod sets for sidecars). Without it the authority is compared with its port and without it.
    pub ignore_port: bool,
}

impl RouteTree {
    /// Routes by host, with ports looked at.
    pub fn new(name: impl Into<Arc<str>>, virtual_hosts: Vec<VirtualHost>) -> Self {
        Self {
            name: name.into(),
            virtual_hosts,
            ignore_port: false,
        }
    }

    /// The names of all clusters that any route may choose, with repetitions.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes
            .flat_map(|route| route.split.clusters())
            .map(|share| &share.cluster)
    }
}

/// Routes that serve a set of domains.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualHost {
    /// Its name, for logs.
    pub name: Box<str>,
    /// The authorities it serves.
    pub domains: Vec<Domain>,
    /// Tried in order; the first match wins. Shared, since a request in flight keeps its route.
    pub routes: Vec<Arc<Route>>,
}

/// An authority pattern (Envoy `VirtualHost.domains`), case-insensitive: kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// `payment.default`
    Exact(Box<str>),
    /// `*.default`: held without the star.
    Suffix(Box<str>),
    /// `payment.*`: held without the star.
    Prefix(Box<str>),
    /// `*`
    Any,
}

impl Domain {
    /// Reads a domain as Envoy writes it.
    ///
    /// # Errors
    ///
    /// When it is empty, or a star stands anywhere but at one end.
    pub fn parse(text: &str) -> Result<Self, InvalidDomain> {
        let lower = text.to_ascii_lowercase();
        let domain = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
            (Some(""), _) => return Ok(Self::Any),
            (Some(rest), _) => Self::Suffix(rest.into()),
            (None, Some(rest)) => Self::Prefix(rest.into()),
            (None, None) => Self::Exact(lower.as_str().into()),
        };
        let (Self::Exact(body) | Self::Suffix(body) | Self::Prefix(body)) = &domain else {
            return Ok(domain);
        };
        if body.is_empty() || body.contains('*') {
            return Err(InvalidDomain(text.into()));
        }
        Ok(domain)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(body) => f.write_str(body),
            Self::Suffix(body) => write!(f, "*{body}"),
            Self::Prefix(body) => write!(f, "{body}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A domain that no authority could match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDomain(Box<str>);

impl fmt::Display for InvalidDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a domain pattern: {:?}", self.0)
    }
}

impl std::error::Error for InvalidDomain {}

/// One rule: what it takes, where that goes, and how it is treated on the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Its name, for logs; may be empty.
    pub name: Box<str>,
    /// What it takes.
    pub matches: RouteMatch,
    /// Where it goes.
    pub split: Split,
    /// The longest the call may take, retries and all, until the response body has ended; `None`: no limit.
    pub timeout: Option<Duration>,
    /// How long its streams may last and be quiet otherwise.
    pub limits: TimeLimits,
    /// Whether to try again.
    pub retry: RetryPolicy,
    /// Whose limits hold for its calls (Envoy `RouteAction.priority`).
    pub priority: RoutingPriority,
}

impl Route {
    /// Takes every request to `split`, without a timeout, with the default retries.
    pub fn to(split: Split) -> Self {
        Self {
            name: "".into(),
            matches: RouteMatch::any(),
            split,
            timeout: None,
            limits: TimeLimits::default(),
            retry: RetryPolicy::default(),
            priority: RoutingPriority::Default,
        }
    }
}

/// The clusters a route divides its requests among, with their cumulative weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    clusters: Vec<WeightedCluster>,
    cumulative: Vec<u32>,
}

/// One share of a [`Split`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightedCluster {
    /// Where the share goes.
    pub cluster: ClusterName,
    /// Its size relative to the others; at least 1.
    pub weight: Weight,
}

impl Split {
    /// Everything to one cluster.
    pub fn all_to(cluster: impl Into<ClusterName>) -> Self {
        let clusters = vec![WeightedCluster {
            cluster: cluster.into(),
            weight: Weight::ONE,
        }];
        Self {
            clusters,
            cumulative: vec![1],
        }
    }

    /// Divides by weight. Shares of weight 0 are dropped, as gRPC (gRFC A28) and Istio do.
    ///
    /// # Errors
    ///
    /// When the weights sum to 0 or to more than `u32::MAX` (gRFC A28: NACK).
    ///
    /// ```
    /// use mesh_core::config::Split;
    /// let split = Split::weighted([("v1".into(), 95), ("v2".into(), 5)]).unwrap();
    /// assert_eq!(split.total(), 100);
    /// assert!(Split::weighted([("v1".into(), 0)]).is_err());
    /// ```
    pub fn weighted(shares: impl IntoIterator<Item = (ClusterName, u32)>) -> Result<Self, InvalidSplit> {
        let (mut clusters, mut cumulative, mut sum) = (Vec::new(), Vec::new(), 0u32);
        for (cluster, weight) in shares {
            if weight == 0 {
                continue;
            }
            sum = sum.checked_add(weight).ok_or(InvalidSplit::TooLarge)?;
            clusters.push(WeightedCluster {
                cluster,
                weight: Weight(weight),
            });
            cumulative.push(sum);
        }
        if clusters.is_empty() {
            return Err(InvalidSplit::SumIsZero);
        }
        Ok(Self { clusters, cumulative })
    }

    /// The shares, none of weight 0.
    pub fn clusters(&self) -> &[WeightedCluster] {
        &self.clusters
    }

    /// The sum of the weights.
    pub fn total(&self) -> u32 {
        self.cumulative.last().copied().unwrap_or_default()
    }

    /// The index of the share that `point`, a number below [`total`](Self::total), falls into.
    pub fn at(&self, point: u32) -> usize {
        self.cumulative
            .partition_point(|end| *end <= point)
            .min(self.clusters.len() - 1)
    }
}

/// Weights that divide nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidSplit {
    /// No share has a weight.
    SumIsZero,
    /// The sum exceeds `u32::MAX`.
    TooLarge,
}

impl fmt::Display for InvalidSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SumIsZero => "the weights sum to 0",
            Self::TooLarge => "the weights sum to more than 4294967295",
        })
    }
}

impl std::error::Error for InvalidSplit {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        let ok = |text: &str| Domain::parse(text).unwrap();
        assert_eq!(ok("A.b"), Domain::Exact("a.b".into()));
        assert_eq!(ok("*.b"), Domain::Suffix(".b".into()));
        assert_eq!(ok("a.*"), Domain::Prefix("a.".into()));
        assert_eq!(ok("*"), Domain::Any);
        for text in ["a.b", "*.b", "a.*", "*"] {
            assert_eq!(ok(text).to_string(), text);
        }
        for bad in ["", "a*b", "*a*", "**"] {
            assert!(Domain::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zero_weights_are_dropped_and_borders_belong_to_the_next_share() {
        let split = Split::weighted([("a".into(), 2), ("b".into(), 0), ("c".into(), 1)]).unwrap();
        assert_eq!(split.clusters().len(), 2);
        assert_eq!([split.at(0), split.at(1), split.at(2)], [0, 0, 1]);
        let huge = Split::weighted([("a".into(), u32::MAX), ("b".into(), 1)]);
        assert_eq!(huge, Err(InvalidSplit::TooLarge));
    }
}
