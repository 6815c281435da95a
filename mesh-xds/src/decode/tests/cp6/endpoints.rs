//! Endpoints.

use super::*;
use crate::proto::core::{self, socket_address::PortSpecifier};
use crate::proto::endpoint::{
    ClusterLoadAssignment as Proto, Endpoint, LbEndpoint,
    cluster_load_assignment::{Policy, policy::DropOverload},
    lb_endpoint::HostIdentifier,
};
use crate::proto::percent::FractionalPercent;
use crate::proto::protobuf::UInt32Value;
use crate::resource::Endpoints;

fn second(proto: &mut Proto) -> &mut LbEndpoint {
    &mut proto.endpoints[0].lb_endpoints[1]
}

fn endpoint(proto: &mut Proto) -> &mut Endpoint {
    match &mut second(proto).host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        _ => panic!("the endpoint has an address"),
    }
}

fn socket(proto: &mut Proto) -> &mut core::SocketAddress {
    match endpoint(proto).address.as_mut().unwrap().address.as_mut().unwrap() {
        core::address::Address::SocketAddress(socket) => socket,
        _ => panic!("the address is a socket's"),
    }
}

fn weight(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

#[test]
fn cp_6_endpoints() {
    let small = Proto::default();
    let mutators: [Mutator<Proto>; 14] = [
        ("endpoints[0].locality", |p| p.endpoints[0].locality = None),
        ("endpoints[1].locality", |p| p.endpoints.push(p.endpoints[0].clone())),
        ("endpoints", |p| p.endpoints[0].priority = 1),
        ("endpoints[0].lb_endpoints[1].load_balancing_weight", |p| {
            second(p).load_balancing_weight = weight(0);
        }),
        ("endpoints[0].lb_endpoints", |p| {
            second(p).load_balancing_weight = weight(u32::MAX)
        }),
        ("endpoints", |p| {
            let mut other = p.endpoints[0].clone();
            other.locality.as_mut().unwrap().zone = "zone2".into();
            other.lb_endpoints.clear();
            other.load_balancing_weight = weight(u32::MAX);
            p.endpoints.push(other);
        }),
        ("endpoints[0].lb_endpoints[1].endpoint", |p| {
            second(p).host_identifier = None
        }),
        ("endpoints[0].lb_endpoints[1].endpoint.address.socket_address", |p| {
            endpoint(p).address = None;
        }),
        (
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address",
            |p| {
                socket(p).address = "a.example".into();
            },
        ),
        (
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value",
            |p| {
                socket(p).port_specifier = Some(PortSpecifier::PortValue(0));
            },
        ),
        (
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value",
            |p| {
                socket(p).port_specifier = Some(PortSpecifier::PortValue(70_000));
            },
        ),
        (
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value",
            |p| {
                socket(p).port_specifier = Some(PortSpecifier::NamedPort("http".into()));
            },
        ),
        ("endpoints[0].lb_endpoints[1].endpoint.address", |p| {
            p.endpoints[0].lb_endpoints[1] = p.endpoints[0].lb_endpoints[0].clone();
        }),
        ("policy.drop_overloads[0].drop_percentage.denominator", |p| {
            let percentage = FractionalPercent {
                numerator: 1,
                denominator: 9,
            };
            p.policy = Some(Policy {
                drop_overloads: vec![DropOverload {
                    category: "x".into(),
                    drop_percentage: Some(percentage),
                }],
                ..Default::default()
            });
        }),
    ];
    table::<Endpoints>(context(), &istiod::endpoints("c"), &small, &mutators);
}
