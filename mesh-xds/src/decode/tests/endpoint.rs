//! Endpoints.

use std::net::SocketAddr;

use mesh_core::config::{Endpoint, Health, Localities, Locality, Weight};

use super::*;
use crate::encode;
use crate::proto::{core, endpoint, protobuf};
use crate::resource::Endpoints;

fn endpoints_proto(endpoints: &[Endpoint]) -> endpoint::ClusterLoadAssignment {
    endpoint::ClusterLoadAssignment::decode(&*encode::endpoints(&"c".into(), endpoints, &[], &Localities::default()))
        .unwrap()
}

fn at(port: u16) -> Endpoint {
    Endpoint::new(SocketAddr::from(([10, 0, 0, 1], port)))
}

pub(super) fn in_zone(zone: &str, port: u16, weight: u32) -> Endpoint {
    Endpoint {
        weight: Weight(weight),
        locality: Arc::new(Locality {
            zone: zone.into(),
            ..Locality::default()
        }),
        ..at(port)
    }
}

#[test]
fn endpoints_that_are_refused() {
    use endpoint::lb_endpoint::HostIdentifier;
    let bad = |field: &str, spoil: fn(&mut endpoint::ClusterLoadAssignment)| {
        refused::<Endpoints>(endpoints_proto(&[at(1), at(2)]), field, spoil);
    };
    fn socket(proto: &mut endpoint::ClusterLoadAssignment) -> &mut core::SocketAddress {
        let endpoint = &mut proto.endpoints[0].lb_endpoints[1];
        let Some(HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else {
            panic!("the endpoint has an address")
        };
        match endpoint.address.as_mut().unwrap().address.as_mut().unwrap() {
            core::address::Address::SocketAddress(socket) => socket,
            _ => panic!("the address is a socket's"),
        }
    }
    bad("endpoints[0].locality", |proto| proto.endpoints[0].locality = None);
    bad("endpoints[1].locality", |proto| {
        proto.endpoints.push(proto.endpoints[0].clone())
    });
    bad("endpoints", |proto| proto.endpoints[0].priority = 1);
    bad("endpoints[0].lb_endpoints[1].load_balancing_weight", |proto| {
        proto.endpoints[0].lb_endpoints[1].load_balancing_weight = Some(protobuf::UInt32Value { value: 0 });
    });
    bad("endpoints[0].lb_endpoints", |proto| {
        for endpoint in &mut proto.endpoints[0].lb_endpoints {
            endpoint.load_balancing_weight = Some(protobuf::UInt32Value { value: u32::MAX });
        }
    });
    bad("endpoints[0].lb_endpoints[1].endpoint.address", |proto| {
        proto.endpoints[0].lb_endpoints[1] = proto.endpoints[0].lb_endpoints[0].clone();
    });
    bad(
        "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address",
        |proto| {
            socket(proto).address = "a.example".into();
        },
    );
    bad(
        "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value",
        |proto| {
            socket(proto).port_specifier = Some(core::socket_address::PortSpecifier::PortValue(70_000));
        },
    );
    bad(
        "endpoints[0].lb_endpoints[1].endpoint.address.socket_address",
        |proto| {
            let Some(HostIdentifier::Endpoint(endpoint)) = &mut proto.endpoints[0].lb_endpoints[1].host_identifier
            else {
                panic!("the endpoint has an address")
            };
            endpoint.address = None;
        },
    );
    bad("endpoints", |proto| {
        let mut other = proto.endpoints[0].clone();
        other.locality = Some(core::Locality {
            zone: "other".into(),
            ..Default::default()
        });
        other.lb_endpoints.clear();
        other.load_balancing_weight = Some(protobuf::UInt32Value { value: u32::MAX });
        proto.endpoints.push(other);
    });
}

#[test]
fn what_localities_weigh_stands_beside_their_endpoints() {
    type Read = (Vec<u32>, Vec<(u32, String, u32)>);
    let read = |envoys: bool, change: fn(&mut endpoint::ClusterLoadAssignment)| -> Read {
        let mut proto = endpoints_proto(&[in_zone("a", 1, 1), in_zone("a", 2, 3), in_zone("b", 3, 5)]);
        change(&mut proto);
        let by = if envoys { envoy() } else { context() };
        let read = decode::<Endpoints>(&raw(&proto), &by).unwrap().value.unwrap();
        let own = read.endpoints.iter().map(|endpoint| endpoint.weight.0).collect();
        let weights = read.localities.weights.iter();
        let weights = weights.map(|one| (one.priority, one.locality.zone.to_string(), one.weight.0));
        (own, weights.collect())
    };
    let of = |a: u32, b: u32| vec![(0, "a".to_owned(), a), (0, "b".to_owned(), b)];
    for envoys in [false, true] {
        // What their endpoints weigh together is not worth a word.
        assert_eq!(read(envoys, |_| {}), (vec![1, 3, 5], vec![]));
        let weighed = read(envoys, |proto| {
            proto.endpoints[0].load_balancing_weight = Some(protobuf::UInt32Value { value: 3 });
            proto.endpoints[1].load_balancing_weight = Some(protobuf::UInt32Value { value: 1 });
        });
        assert_eq!(weighed, (vec![1, 3, 5], of(3, 1)));
        // Where none is weighed they are pooled.
        let pooled = read(envoys, |proto| {
            for locality in &mut proto.endpoints {
                locality.load_balancing_weight = None;
            }
        });
        assert_eq!(pooled, (vec![1, 3, 5], vec![]));
    }
    // A locality that weighs nothing, or is the only one not weighed, gets nothing in gRPC; in Envoy, where they are weighed.
    let changes: [fn(&mut endpoint::ClusterLoadAssignment); 2] = [
        |proto| proto.endpoints[1].load_balancing_weight = None,
        |proto| proto.endpoints[1].load_balancing_weight = Some(protobuf::UInt32Value { value: 0 }),
    ];
    for change in changes {
        assert_eq!(read(false, change), (vec![1, 3], vec![]));
        assert_eq!(read(true, change), (vec![1, 3, 5], of(4, 0)));
    }
}

#[test]
fn how_health_is_counted() {
    let proto = |change: fn(&mut endpoint::cluster_load_assignment::Policy)| {
        accepted::<Endpoints>(endpoints_proto(&[at(1)]), |proto| {
            change(proto.policy.get_or_insert_default());
        })
        .localities
    };
    assert_eq!(proto(|_| {}), Localities::default());
    let tight = proto(|policy| policy.overprovisioning_factor = Some(protobuf::UInt32Value { value: 100 }));
    assert_eq!(tight.overprovisioning_factor, 100);
    assert!(proto(|policy| policy.weighted_priority_health = true).weighted_health);
    refused::<Endpoints>(endpoints_proto(&[at(1)]), "policy.overprovisioning_factor", |proto| {
        let policy = proto.policy.get_or_insert_default();
        policy.overprovisioning_factor = Some(protobuf::UInt32Value { value: 0 });
    });
}

#[test]
fn health_by_grpcs_rules() {
    let statuses = [
        (core::HealthStatus::Unknown, Health::Healthy),
        (core::HealthStatus::Healthy, Health::Healthy),
        (core::HealthStatus::Draining, Health::Draining),
        (core::HealthStatus::Unhealthy, Health::Unhealthy),
        (core::HealthStatus::Timeout, Health::Unhealthy),
        (core::HealthStatus::Degraded, Health::Degraded),
    ];
    for (status, expected) in statuses {
        let read = accepted::<Endpoints>(endpoints_proto(&[at(1)]), |proto| {
            proto.endpoints[0].lb_endpoints[0].health_status = status as i32;
        });
        assert_eq!(read.endpoints[0].health, expected, "{status:?}");
    }
    assert!(accepted::<Endpoints>(endpoints_proto(&[]), |_| {}).endpoints.is_empty());
}
