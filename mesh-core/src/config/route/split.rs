//! Weighted clusters: the shares a route divides its requests into. A value that exists divides something.

use std::fmt;
use std::sync::Arc;

use http::uri::Authority;

use super::{FilterOverride, HeaderRules};
use crate::config::{ClusterName, Weight};

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
    /// Its size relative to the others; at least 1 in a [`Split`].
    pub weight: Weight,
    /// What is done to the headers of its calls.
    pub headers: Option<Arc<HeaderRules>>,
    /// The authority that its calls are given, where the route does not give them one.
    pub host: Option<Authority>,
    /// What is said of the fault filters here.
    pub filter_overrides: Vec<FilterOverride>,
}

impl WeightedCluster {
    /// A share of this weight.
    pub fn new(cluster: impl Into<ClusterName>, weight: u32) -> Self {
        Self {
            cluster: cluster.into(),
            weight: Weight(weight),
            headers: None,
            host: None,
            filter_overrides: Vec::new(),
        }
    }
}

impl Split {
    /// Everything to one cluster.
    pub fn all_to(cluster: impl Into<ClusterName>) -> Self {
        let clusters = vec![WeightedCluster::new(cluster, Weight::ONE.0)];
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
        Self::of(
            shares
                .into_iter()
                .map(|(cluster, weight)| WeightedCluster::new(cluster, weight)),
        )
    }

    /// The same, of shares that say more than where they go.
    ///
    /// # Errors
    ///
    /// As [`weighted`](Self::weighted).
    pub fn of(shares: impl IntoIterator<Item = WeightedCluster>) -> Result<Self, InvalidSplit> {
        let (mut clusters, mut cumulative, mut sum) = (Vec::new(), Vec::new(), 0u32);
        for share in shares {
            if share.weight.0 == 0 {
                continue;
            }
            sum = sum.checked_add(share.weight.0).ok_or(InvalidSplit::TooLarge)?;
            clusters.push(share);
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
    fn zero_weights_are_dropped_and_borders_belong_to_the_next_share() {
        let split = Split::weighted([("a".into(), 2), ("b".into(), 0), ("c".into(), 1)]).unwrap();
        assert_eq!(split.clusters().len(), 2);
        assert_eq!([split.at(0), split.at(1), split.at(2)], [0, 0, 1]);
        let huge = Split::weighted([("a".into(), u32::MAX), ("b".into(), 1)]);
        assert_eq!(huge, Err(InvalidSplit::TooLarge));
    }
}
