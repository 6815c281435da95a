//! Limits of what is in use at once, all of them said: what a reader makes of one that is not said differs.

use mesh_core::config::{CircuitBreakers, Thresholds};

use super::Dialect;
use super::common::uint;
use crate::proto::cluster::{CircuitBreakers as Proto, circuit_breakers::Thresholds as ThresholdsProto};
use crate::proto::core::RoutingPriority;

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
    ThresholdsProto {
        priority: priority as i32,
        max_connections: uint(of.max_connections),
        max_pending_requests: uint(of.max_pending_requests),
        max_requests: uint(of.max_requests),
        // Where nothing is said Envoy makes three at once.
        max_retries: match dialect {
            Dialect::Envoy(_) => uint(of.max_requests),
            Dialect::Mesh | Dialect::Grpc => None,
        },
        track_remaining: of.track_remaining,
        ..ThresholdsProto::default()
    }
}
