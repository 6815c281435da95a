//! A cluster that stands for others (Envoy `envoy.clusters.aggregate`, gRFC A37).
//!
//! It adds nothing but an order: the priorities of each of its leaves follow those of the one before. What is said of a leaf (its
//! limits, its outlier detection, its security, its name in load reports, how an endpoint of it is chosen) stays the leaf's,
//! which is whole in here; so a leaf that is also called by itself is one live cluster for both.

use std::sync::Arc;

use super::{Cluster, ClusterName, Endpoint, ExpectedPeers, Localities, LocalityWeight, MutualTls, TlsMode, Weight};

impl Cluster {
    /// The cluster that stands for `leaves`, in their order. A leaf has endpoints of its own, and stands for no other.
    ///
    /// Its endpoints are theirs, with the priorities that they have here. When the next priority is called is the first leaf's to
    /// say, and whether a try may be hedged; all else is each leaf's: how many of its endpoints must be fit, how its localities and
    /// its hosts are chosen, how many retries may be in flight (gRFC A75). What a leaf decides by itself is neutral here: nothing is dropped, reported, limited or taken out, and whoever asked for the TLS of this
    /// cluster, and not of the leaf, would be refused by every peer.
    pub fn aggregate(name: ClusterName, leaves: Arc<[Arc<Self>]>) -> Self {
        let nobody = TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::default(),
            sni: None,
            ..MutualTls::default()
        });
        let Some(first) = leaves.first() else {
            return Self::new(name, nobody, Vec::new());
        };
        let endpoints: Arc<[Endpoint]> = with_priorities(&leaves)
            .flat_map(|(leaf, before)| leaf.endpoints.iter().map(move |endpoint| (endpoint, before)))
            .map(|(endpoint, before)| Endpoint {
                priority: before + endpoint.priority,
                ..endpoint.clone()
            })
            .collect();
        let are_weighed = leaves.iter().any(|leaf| !leaf.localities.weights.is_empty());
        let weights: Vec<LocalityWeight> = with_priorities(&leaves)
            .flat_map(|(leaf, before)| {
                weights_from(leaf).into_iter().map(move |one| LocalityWeight {
                    priority: before + one.priority,
                    ..one
                })
            })
            .collect();
        // A request is hashed where any leaf goes by that.
        let hashed = leaves.iter().find(|leaf| leaf.lb.is_hashed());
        let mut whole = Self {
            lb: hashed.unwrap_or(first).lb.clone(),
            common_lb: first.common_lb,
            breakers: first.breakers,
            connect_timeout: first.connect_timeout,
            connections: Arc::clone(&first.connections),
            localities: Localities {
                weights: if are_weighed { weights.into() } else { Arc::default() },
                ..first.localities.clone()
            },
            endpoints,
            service: first.service.clone(),
            ..Self::new(name, nobody, Vec::new())
        };
        whole.leaves = leaves;
        whole
    }

    /// The clusters that it stands for, each with what its priorities are counted from here. One without endpoints has none.
    pub fn leaf_priorities(&self) -> impl Iterator<Item = (u32, &Self)> {
        with_priorities(&self.leaves).map(|(leaf, first)| (first, leaf))
    }

    /// The leaves of an aggregate, each with what its priorities are counted from there.
    fn first_priorities(leaves: &[Arc<Self>]) -> impl Iterator<Item = u32> {
        leaves.iter().scan(0u32, |next, leaf| {
            let first = *next;
            let highest = leaf.endpoints.iter().map(|endpoint| endpoint.priority).max();
            *next = next.saturating_add(highest.map_or(0, |highest| highest.saturating_add(1)));
            Some(first)
        })
    }
}

fn with_priorities(leaves: &[Arc<Cluster>]) -> impl Iterator<Item = (&Cluster, u32)> {
    leaves.iter().map(|leaf| &**leaf).zip(Cluster::first_priorities(leaves))
}

/// What the localities of a leaf weigh: where nothing is said, what their endpoints do.
fn weights_from(leaf: &Cluster) -> Vec<LocalityWeight> {
    if !leaf.localities.weights.is_empty() {
        return leaf.localities.weights.to_vec();
    }
    let mut sums: std::collections::BTreeMap<_, u32> = std::collections::BTreeMap::new();
    for endpoint in leaf.endpoints.iter() {
        let sum = sums.entry((endpoint.priority, &endpoint.locality)).or_default();
        *sum = sum.saturating_add(endpoint.weight.0);
    }
    let weight = |((priority, locality), weight): ((u32, &Arc<_>), u32)| LocalityWeight {
        priority,
        locality: Arc::clone(locality),
        weight: Weight(weight),
    };
    sums.into_iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LbPolicy, Maglev};

    fn leaf(name: &str, ports: &[(u16, u32)]) -> Cluster {
        let endpoints = ports.iter().map(|(port, priority)| Endpoint {
            priority: *priority,
            ..Endpoint::new(([127, 0, 0, 1], *port).into())
        });
        Cluster::new(name, TlsMode::Plaintext, endpoints.collect())
    }

    fn places(cluster: &Cluster) -> Vec<(u32, u16)> {
        let endpoints = cluster.endpoints.iter();
        endpoints.map(|one| (one.priority, one.address.port())).collect()
    }

    #[test]
    fn priorities_follow_one_another_and_a_leaf_without_endpoints_takes_none() {
        let leaves = [
            leaf("a", &[(1, 0), (2, 1)]),
            leaf("b", &[]),
            leaf("c", &[(3, 0), (4, 2)]),
            leaf("d", &[(5, 0)]),
        ];
        let whole = Cluster::aggregate("all".into(), leaves.map(Arc::new).into());
        assert_eq!(places(&whole), [(0, 1), (1, 2), (2, 3), (4, 4), (5, 5)]);
        assert_eq!(whole.leaves.len(), 4);
        assert_eq!(Cluster::aggregate("none".into(), Arc::default()).endpoints.len(), 0);
    }

    #[test]
    fn what_a_leaf_says_for_itself_is_not_said_for_the_whole() {
        let mut first = leaf("a", &[(1, 0)]);
        first.outlier = Some(crate::config::OutlierDetection::new(crate::config::OutlierRules::Envoy));
        first.load_reporting = Some(crate::config::LoadReporting::of("a"));
        let mut second = leaf("b", &[(2, 0)]);
        second.lb = LbPolicy::Maglev(Maglev::DEFAULT);
        let whole = Cluster::aggregate("all".into(), [first, second].map(Arc::new).into());
        assert!(whole.outlier.is_none() && whole.load_reporting.is_none() && whole.drops.is_empty());
        assert!(whole.lb.is_hashed(), "or the leaf that goes by hashes would get none");
        let TlsMode::Mutual(mutual) = whole.tls_for(&whole.endpoints[0]) else {
            panic!("the whole is called in plaintext");
        };
        assert_eq!(mutual.expected.tests(), []);
    }
}
