//! Limits of what is in use at once, all of them said: what a reader makes of one that is not said differs.

use mesh_core::config::{CircuitBreakers, RetryLimits, Thresholds};

use super::Dialect;
use super::common::uint;
use crate::proto::cluster::{
    CircuitBreakers as Proto,
    circuit_breakers::{Thresholds as ThresholdsProto, thresholds::RetryBudget},
};
use crate::proto::core::RoutingPriority;
use crate::proto::percent::Percent;

pub(super) fn breakers(breakers: &CircuitBreakers, retries: &RetryLimits, dialect: Dialect) -> Proto {
    let both = [
        (RoutingPriority::Default, &breakers.default),
        (RoutingPriority::High, &breakers.high),
    ];
    let per_host = |(priority, of): (RoutingPriority, &Thresholds)| {
        of.max_connections_per_host.map(|max| ThresholdsProto {
            priority: priority as i32,
            max_connections: uint(max),
            ..ThresholdsProto::default()
        })
    };
    Proto {
        thresholds: both
            .iter()
            .map(|(priority, of)| thresholds(*priority, of, retries, dialect))
            .collect(),
        per_host_thresholds: both.into_iter().filter_map(per_host).collect(),
    }
}

fn thresholds(priority: RoutingPriority, of: &Thresholds, retries: &RetryLimits, dialect: Dialect) -> ThresholdsProto {
    // The limits of retries are the cluster's. An Envoy has them for each priority, and where nothing is said makes three at
    // once; others read them off the default one.
    let (max_retries, budget) = match dialect {
        Dialect::Sidecar | Dialect::Envoy(_) => (Some(retries.max.unwrap_or(of.max_requests)), retries.budget),
        Dialect::Mesh | Dialect::Grpc if priority == RoutingPriority::Default => (retries.max, retries.budget),
        Dialect::Mesh | Dialect::Grpc => (None, None),
    };
    ThresholdsProto {
        priority: priority as i32,
        max_connections: uint(of.max_connections),
        max_pending_requests: uint(of.max_pending_requests),
        max_requests: uint(of.max_requests),
        max_retries: max_retries.and_then(uint),
        retry_budget: budget.map(retry_budget),
        track_remaining: of.track_remaining,
        ..ThresholdsProto::default()
    }
}

fn retry_budget(budget: mesh_core::config::RetryBudget) -> RetryBudget {
    RetryBudget {
        budget_percent: Some(Percent {
            value: f64::from(budget.share) / 100.0,
        }),
        min_retry_concurrency: uint(budget.min_retry_concurrency),
        ..RetryBudget::default()
    }
}
