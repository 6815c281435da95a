//! Limits of what is in use at once, all of them said: what a reader makes of one that is not said differs.

use mesh_core::config::{CircuitBreakers, Thresholds};

use super::Dialect;
use super::common::uint;
use crate::proto::cluster::{
    CircuitBreakers as Proto,
    circuit_breakers::{Thresholds as ThresholdsProto, thresholds::RetryBudget},
};
use crate::proto::core::RoutingPriority;
use crate::proto::percent::Percent;

pub(super) fn breakers(breakers: &CircuitBreakers, dialect: Dialect) -> Proto {
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
            .map(|(priority, of)| thresholds(*priority, of, dialect))
            .collect(),
        per_host_thresholds: both.into_iter().filter_map(per_host).collect(),
    }
}

fn thresholds(priority: RoutingPriority, of: &Thresholds, dialect: Dialect) -> ThresholdsProto {
    // Where nothing is said an Envoy makes three retries at once.
    let max_retries = match dialect {
        Dialect::Sidecar | Dialect::Envoy(_) => Some(of.retries.max.unwrap_or(of.max_requests)),
        Dialect::Mesh | Dialect::Grpc => of.retries.max,
    };
    ThresholdsProto {
        priority: priority as i32,
        max_connections: uint(of.max_connections),
        max_pending_requests: uint(of.max_pending_requests),
        max_requests: uint(of.max_requests),
        max_retries: max_retries.and_then(uint),
        retry_budget: of.retries.budget.map(retry_budget),
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
