//! Endpoints, and what is said of their localities.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::config::{Endpoint, Health, Localities, Locality, LocalityWeight, TRANSPORT_SOCKET_MATCH, Weight};
use proptest::prelude::*;

use super::metadata;
use crate::decode::tests::endpoint::in_zone;

/// Up to three priorities without gaps; in each, localities in order, and endpoints with addresses of their own.
pub(crate) fn endpoint_lists() -> impl Strategy<Value = Vec<Endpoint>> {
    let health = prop::sample::select(vec![
        Health::Healthy,
        Health::Degraded,
        Health::Draining,
        Health::Unhealthy,
    ]);
    let member = (
        1u32..1000,
        health,
        metadata(&[TRANSPORT_SOCKET_MATCH, "istio", "envoy.lb"]),
    );
    let zones = prop::collection::btree_map("[a-c]{0,2}", prop::collection::vec(member, 1..4), 1..4);
    prop::collection::vec(zones, 0..3).prop_map(|priorities| {
        let mut all = Vec::new();
        for (priority, zones) in (0..).zip(priorities) {
            for (zone, members) in zones {
                for (weight, health, metadata) in members {
                    let port = 1 + all.len() as u16;
                    all.push(Endpoint {
                        hostname: (weight % 3 == 0).then(|| format!("host-{weight}:80").into()),
                        health,
                        priority,
                        metadata: Arc::new(metadata),
                        ..in_zone(&zone, port, weight)
                    });
                }
            }
        }
        all
    })
}

/// What is said of the localities of `list` beside their endpoints: weights of all of them or of none.
pub(crate) fn localities_of(
    list: &[Endpoint],
    weights: &[u32],
    overprovisioning_factor: u32,
    weighted_health: bool,
) -> Localities {
    let mut sums: BTreeMap<(u32, Arc<Locality>), u32> = BTreeMap::new();
    for endpoint in list {
        *sums
            .entry((endpoint.priority, Arc::clone(&endpoint.locality)))
            .or_default() += endpoint.weight.0;
    }
    let mut weights = weights.iter().copied();
    let mut all = Vec::new();
    let mut as_written = true;
    for ((priority, locality), sum) in sums {
        let weight = weights.next().unwrap_or(sum);
        as_written &= weight == sum;
        all.push(LocalityWeight {
            priority,
            locality,
            weight: Weight(weight),
        });
    }
    Localities {
        weights: if as_written { Arc::default() } else { all.into() },
        overprovisioning_factor,
        weighted_health,
    }
}
