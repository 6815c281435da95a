//! By which rules the endpoints of a priority are called: its cluster's; where that stands for others, those of the one that the
//! priority is of (gRFC A75, Envoy's aggregate cluster).

use crate::config::{Cluster, CommonLb, Failover, Localities};

/// What holds for a priority.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) common: &'a CommonLb,
    pub(super) localities: &'a Localities,
    /// A locality is chosen first.
    pub(super) by_locality: bool,
    /// Localities are told apart only by whether they weigh anything.
    pub(super) whole: bool,
}

/// The rules of every priority.
#[derive(Clone, Debug)]
pub(super) struct RulesOf<'a>(Vec<(u32, Rules<'a>)>);

impl<'a> RulesOf<'a> {
    /// `whole`: as for [`Plan::of`](super::Plan::of).
    pub(super) fn new(cluster: &'a Cluster, whole: bool) -> Self {
        Self(match cluster.leaves.is_empty() {
            true => vec![(0, Rules::of(cluster, whole))],
            false => cluster
                .leaf_priorities()
                .map(|(first, leaf)| (first, Rules::of(leaf, whole && leaf.lb.is_hashed())))
                .collect(),
        })
    }

    pub(super) fn at(&self, priority: u32) -> &Rules<'a> {
        match &self.0[..] {
            [(_, only)] => only,
            // Of leaves that begin with the same priority all but the last have none.
            all => &all[all.partition_point(|(first, _)| *first <= priority) - 1].1,
        }
    }

    pub(super) fn any_by_locality(&self) -> bool {
        self.0.iter().any(|(_, rules)| rules.by_locality)
    }
}

impl<'a> Rules<'a> {
    fn of(cluster: &'a Cluster, whole: bool) -> Self {
        let (common, localities) = (&cluster.common_lb, &cluster.localities);
        let is_weighed = !localities.weights.is_empty();
        // gRPC chooses among localities by weight alone: weighed as their endpoints are, they are one list.
        let matters = is_weighed || common.failover == Failover::Spill;
        Self {
            common,
            localities,
            by_locality: common.by_locality && matters && (is_weighed || !whole),
            whole,
        }
    }
}
