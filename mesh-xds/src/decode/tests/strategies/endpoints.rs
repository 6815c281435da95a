//! Endpoints, and what is said of their localities.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mesh_core::config::{Endpoint, Health, Localities, Locality, LocalityWeight, TRANSPORT_SOCKET_MATCH, Weight};
use proptest::prelude::*;

use super::metadata;

/// Up to three priorities without gaps; in each, localities in order, and endpoints with addresses of their own, of both families.
pub(crate) fn endpoint_lists() -> impl Strategy<Value = Vec<Endpoint>> {
    let health = prop::sample::select(vec![
        Health::Healthy,
        Health::Degraded,
        Health::Draining,
        Health::Unhealthy,
    ]);
    let ip = prop_oneof![
        Just(IpAddr::from(Ipv4Addr::LOCALHOST)),
        Just(IpAddr::from(Ipv6Addr::LOCALHOST)),
        any::<[u8; 16]>().prop_map(|bytes| Ipv6Addr::from(bytes).into()),
    ];
    let member = (
        ip,
        1u32..1000,
        health,
        metadata(&[TRANSPORT_SOCKET_MATCH, "istio", "envoy.lb"]),
    );
    let place = ("[ab]{0,1}", "[a-c]{0,2}", "[ab]{0,1}");
    let places = prop::collection::btree_map(place, prop::collection::vec(member, 1..4), 1..4);
    prop::collection::vec(places, 0..3).prop_map(|priorities| {
        let mut all = Vec::new();
        for (priority, places) in (0..).zip(priorities) {
            for ((region, zone, sub_zone), members) in places {
                let locality = Arc::new(Locality {
                    region: region.into(),
                    zone: zone.into(),
                    sub_zone: sub_zone.into(),
                });
                for (ip, weight, health, metadata) in members {
                    all.push(Endpoint {
                        address: (ip, 1 + all.len() as u16).into(),
                        weight: Weight(weight),
                        health,
                        priority,
                        locality: Arc::clone(&locality),
                        hostname: (weight % 3 == 0).then(|| format!("host-{weight}:80").into()),
                        metadata: Arc::new(metadata),
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
