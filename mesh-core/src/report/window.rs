//! What happened between two looks: plain values, for whoever sends, keeps or shows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{ClusterName, Locality};

/// What happened since a reader last looked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// How long that is.
    pub span: Duration,
    /// The clusters of which there is something to tell, by name.
    pub clusters: Vec<ClusterLoad>,
}

/// The load of one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterLoad {
    /// The cluster.
    pub cluster: ClusterName,
    /// The name that its endpoints go by.
    pub service: Arc<str>,
    /// Where its calls went.
    pub localities: Vec<LocalityLoad>,
    /// Calls that were dropped by category, as the configuration asked.
    pub drops: BTreeMap<Box<str>, u64>,
    /// Calls that were dropped because of a limit (gRFC A32).
    pub uncategorised_drops: u64,
}

/// The load of one locality of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalityLoad {
    /// The locality.
    pub locality: Arc<Locality>,
    /// Its calls.
    pub counts: Counts,
    /// What its endpoints said of themselves, by the name that load reports use, such as `named_metrics.queue`; and what the caller
    /// tells of all calls of the cluster ([`calls`](super::calls)), in the one place that has no name.
    pub figures: BTreeMap<Box<str>, Figure>,
}

/// Calls, counted. A retry is a call of its own here, as it is for the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Begun within the window.
    pub issued: u64,
    /// Ended well within it.
    pub succeeded: u64,
    /// Ended otherwise within it.
    pub errored: u64,
    /// Not ended when it ended, whenever they began.
    pub in_progress: u64,
}

/// A figure that endpoints reported, over all calls that carried it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figure {
    /// How many calls did.
    pub calls: u64,
    /// The sum of what they said.
    pub sum: f64,
}

impl ClusterLoad {
    /// A cluster of which nothing is known yet.
    pub fn new(cluster: ClusterName, service: Arc<str>) -> Self {
        Self {
            cluster,
            service,
            localities: Vec::new(),
            drops: BTreeMap::new(),
            uncategorised_drops: 0,
        }
    }

    /// All dropped calls, categorised or not.
    pub fn dropped(&self) -> u64 {
        self.drops
            .values()
            .fold(self.uncategorised_drops, |sum, count| sum.saturating_add(*count))
    }

    /// Nothing happened, and nothing is going on.
    pub fn is_quiet(&self) -> bool {
        self.dropped() == 0
            && self
                .localities
                .iter()
                .all(|locality| locality.counts == Counts::default() && locality.figures.is_empty())
    }

    /// The calls of all localities together.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for locality in &self.localities {
            let in_progress = sum.in_progress.saturating_add(locality.counts.in_progress);
            sum.add(&locality.counts);
            sum.in_progress = in_progress;
        }
        sum
    }
}

impl Counts {
    /// Goes on to a later window: what ended is added up, what is in progress is what it is then.
    pub fn add(&mut self, later: &Self) {
        self.issued = self.issued.saturating_add(later.issued);
        self.succeeded = self.succeeded.saturating_add(later.succeeded);
        self.errored = self.errored.saturating_add(later.errored);
        self.in_progress = later.in_progress;
    }
}

impl Figure {
    /// Goes on to a later window.
    pub fn add(&mut self, later: &Self) {
        self.calls = self.calls.saturating_add(later.calls);
        self.sum += later.sum;
    }
}
