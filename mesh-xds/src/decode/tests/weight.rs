//! CP-5: what would grow too large is refused before it is decoded, by its name; what a large mesh has is not.

use std::net::Ipv4Addr;

use super::*;
use crate::proto::route::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, header_matcher,
    retry_policy::RetryBackOff, route, route_action, route_match,
};
use crate::resource::ResourceKind;

fn endpoints(many: u32) -> Vec<u8> {
    use crate::proto::core::{Address, Locality, Metadata, SocketAddress, address, socket_address::PortSpecifier};
    use crate::proto::endpoint::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint};
    use crate::proto::protobuf::{Struct, UInt32Value, Value, value::Kind};

    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    // What istiod says of each.
    let workload = Struct {
        fields: [(
            "workload".into(),
            text("payment-service-v1;payment;payment-service;v1;Kubernetes"),
        )]
        .into(),
    };
    let metadata = Metadata {
        filter_metadata: [("istio".into(), workload)].into(),
        ..Metadata::default()
    };
    let one = |n| LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: Ipv4Addr::from_bits(0x0a00_0000 + n).to_string(),
                    port_specifier: Some(PortSpecifier::PortValue(8080)),
                    ..SocketAddress::default()
                })),
            }),
            ..Endpoint::default()
        })),
        metadata: Some(metadata.clone()),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..LbEndpoint::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: "outbound|8080||payment-service.default.svc.cluster.local".into(),
        endpoints: vec![LocalityLbEndpoints {
            locality: Some(Locality::default()),
            lb_endpoints: (0..many).map(one).collect(),
            load_balancing_weight: Some(UInt32Value { value: many }),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    };
    assignment.encode_to_vec()
}

/// Each with a path, two headers, a time limit and retries.
fn routes(many: u32) -> Vec<u8> {
    use crate::proto::protobuf::{Duration, UInt32Value};
    let time = |seconds| Some(Duration { seconds, nanos: 0 });
    let header = |name: &str| HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    };
    let one = |n| Route {
        name: format!("route-{n}"),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix(format!("/payment.Payment{n}/"))),
            headers: ["x-canary", "x-tenant"].map(header).into(),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(format!(
                "outbound|8080||payment-{n}.default.svc.cluster.local"
            ))),
            timeout: time(15),
            retry_policy: Some(RetryPolicy {
                retry_on: "connect-failure,refused-stream,unavailable,cancelled".into(),
                num_retries: Some(UInt32Value { value: 2 }),
                per_try_timeout: time(5),
                retry_back_off: Some(RetryBackOff {
                    base_interval: time(1),
                    max_interval: time(10),
                }),
                ..RetryPolicy::default()
            }),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let routes = RouteConfiguration {
        name: "8080".into(),
        virtual_hosts: vec![VirtualHost {
            name: "all".into(),
            domains: vec!["*".into()],
            routes: (0..many).map(one).collect(),
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    };
    routes.encode_to_vec()
}

#[test]
fn cp_5_what_a_large_mesh_has_is_not_too_much() {
    for (kind, bytes) in [
        (ResourceKind::Endpoints, endpoints(100_000)),
        (ResourceKind::Route, routes(10_000)),
    ] {
        assert_eq!(admit(Some(kind), &bytes, bytes.len()), Ok(()), "{kind}");
    }
}
