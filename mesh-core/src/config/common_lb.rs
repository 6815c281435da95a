//! Which priorities and localities of a cluster are called, and how much each: what Envoy keeps apart from the policy that
//! chooses a host among those (`common_lb_config`, and `policy` of the endpoints). [`crate::balance::levels`] decides by it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{HealthSet, Locality, Percent, Weight};

/// What a cluster says of its priorities and localities (Envoy `common_lb_config`, gRFC A56).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommonLb {
    /// When a lower priority is called.
    pub failover: Failover,
    /// Below which share of callable endpoints a priority's calls go to all of them, whatever is known of their health (Envoy
    /// `healthy_panic_threshold`, default 50 %; Istio sets 0 with outlier detection). 0: never, and calls fail when no endpoint may
    /// be called.
    pub panic_threshold: Percent,
    /// Whether calls of a priority in panic fail instead (Envoy `fail_traffic_on_panic`).
    pub fail_on_panic: bool,
    /// Whether a locality is chosen first, by its weight (Envoy `locality_weighted_lb_config`, gRFC A27); otherwise the endpoints
    /// of a priority are one list.
    pub by_locality: bool,
    /// The most endpoints of each priority that a process calls: its own few of many (gRFC A68); `None`: all. What the process says
    /// itself may be less ([`Parts::subset_size`](crate::link::Parts::subset_size)).
    pub subset_size: Option<NonZeroU32>,
    /// Of which health an endpoint may be to get the calls of a session that stays with it ([`Session`](super::Session); Envoy
    /// `override_host_status`, gRFC A55). Default: healthy or degraded.
    pub held: HealthSet,
    /// How an endpoint that is new gets its share; `None`: at once. For round robin and least request alone, as in Envoy.
    pub slow_start: Option<SlowStart>,
}

/// How an endpoint that is new gets its share bit by bit (Envoy `slow_start_config`, Istio `warmup`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlowStart {
    /// After how long it has all of it. No default.
    pub window: Duration,
    /// How fast it grows, in thousandths: more is faster at first. Default 1,000, which is evenly.
    pub aggression_per_mille: u32,
    /// What it has at once. Default 10 %.
    pub min_weight: Percent,
}

impl SlowStart {
    /// With Envoy's defaults.
    pub const fn new(window: Duration) -> Self {
        Self {
            window,
            aggression_per_mille: 1_000,
            min_weight: match Percent::new(10) {
                Some(tenth) => tenth,
                None => Percent::ALL,
            },
        }
    }
}

/// When a lower priority is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failover {
    /// As the share of callable endpoints of a higher one falls, bit by bit (Envoy).
    Spill,
    /// When no endpoint of a higher one can be called, and then wholly (gRFC A56). There is no panic.
    FirstReady,
}

impl CommonLb {
    /// What Envoy does where nothing is said.
    pub const ENVOY: Self = Self {
        failover: Failover::Spill,
        panic_threshold: Self::DEFAULT_PANIC_THRESHOLD,
        fail_on_panic: false,
        by_locality: false,
        subset_size: None,
        held: HealthSet::CALLABLE,
        slow_start: None,
    };
    /// What gRPC does.
    pub const GRPC: Self = Self {
        failover: Failover::FirstReady,
        panic_threshold: Percent::ZERO,
        fail_on_panic: false,
        by_locality: true,
        subset_size: None,
        held: HealthSet::CALLABLE,
        slow_start: None,
    };
    /// Envoy's.
    pub const DEFAULT_PANIC_THRESHOLD: Percent = match Percent::new(50) {
        Some(half) => half,
        None => Percent::ALL,
    };
}

impl Default for CommonLb {
    fn default() -> Self {
        Self::ENVOY
    }
}

/// What is said of a cluster's localities beside the endpoints in them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Localities {
    /// What each weighs. Empty: as much as its endpoints together. Where it is not, one that is not in it weighs nothing.
    pub weights: Arc<[LocalityWeight]>,
    /// How many times what it gets by its share a priority or locality can take, in percent: one with half of its endpoints
    /// callable still takes 70 % at 140 (Envoy `overprovisioning_factor`, default 140).
    pub overprovisioning_factor: u32,
    /// Whether the share of callable endpoints is counted by their weights (Envoy `weighted_priority_health`).
    pub weighted_health: bool,
}

impl Localities {
    /// Envoy's factor.
    pub const DEFAULT_OVERPROVISIONING_FACTOR: u32 = 140;
}

impl Default for Localities {
    fn default() -> Self {
        Self {
            weights: Arc::default(),
            overprovisioning_factor: Self::DEFAULT_OVERPROVISIONING_FACTOR,
            weighted_health: false,
        }
    }
}

/// What one locality weighs against the others of its priority.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalityWeight {
    /// In which priority.
    pub priority: u32,
    /// Which locality.
    pub locality: Arc<Locality>,
    /// Its weight; 0: it is not called where localities are chosen by weight.
    pub weight: Weight,
}
