//! A route configuration.

use mesh_core::config::{Route, RouteTree, RoutingPriority, Split, VirtualHost};

use super::common::{duration, uint};
use super::matcher::route_match;
use super::retry;
use crate::proto::core::RoutingPriority as PriorityProto;
use crate::proto::route::{
    Route as RouteProto, RouteAction, RouteConfiguration, VirtualHost as HostProto, WeightedCluster, route::Action,
    route_action::ClusterSpecifier, route_action::MaxStreamDuration, weighted_cluster::ClusterWeight,
};

pub(super) fn configuration(tree: &RouteTree) -> RouteConfiguration {
    RouteConfiguration {
        name: String::from(&*tree.name),
        virtual_hosts: tree.virtual_hosts.iter().map(virtual_host).collect(),
        ignore_port_in_host_matching: tree.ignore_port,
        ..RouteConfiguration::default()
    }
}

fn virtual_host(host: &VirtualHost) -> HostProto {
    HostProto {
        name: host.name.clone().into(),
        domains: host.domains.iter().map(ToString::to_string).collect(),
        routes: host.routes.iter().map(|entry| route(entry)).collect(),
        include_request_attempt_count: host.routes.iter().any(|route| route.retry.announce_attempts),
        ..HostProto::default()
    }
}

fn route(route: &Route) -> RouteProto {
    let (retry_policy, metadata) = retry::policy(&route.retry);
    let action = RouteAction {
        cluster_specifier: Some(clusters(&route.split)),
        // A zero that is said is no limit, and stops Envoy's 15 s.
        timeout: Some(duration(route.timeout.unwrap_or_default())),
        max_stream_duration: max_stream_duration(route),
        idle_timeout: route.limits.idle.map(duration),
        retry_policy,
        hedge_policy: retry::hedge(&route.retry),
        priority: match route.priority {
            RoutingPriority::Default => PriorityProto::Default as i32,
            RoutingPriority::High => PriorityProto::High as i32,
        },
        ..RouteAction::default()
    };
    RouteProto {
        name: route.name.clone().into(),
        r#match: Some(route_match(&route.matches)),
        metadata,
        action: Some(Action::Route(action)),
        request_body_buffer_limit: retry::buffer_limit(&route.retry),
        ..RouteProto::default()
    }
}

/// gRPC's clients look here for what Envoy and Istio's users call a timeout.
fn max_stream_duration(route: &Route) -> Option<MaxStreamDuration> {
    let limits = &route.limits;
    let duration_of = MaxStreamDuration {
        max_stream_duration: limits.max_stream.or(route.timeout).map(duration),
        grpc_timeout_header_max: limits.grpc_max.map(duration),
        grpc_timeout_header_offset: limits.grpc_offset.map(duration),
    };
    (duration_of != MaxStreamDuration::default()).then_some(duration_of)
}

fn clusters(split: &Split) -> ClusterSpecifier {
    // One share is a plain cluster, whatever its weight: but the weight is part of the value.
    if let [only] = split.clusters()
        && only.weight.0 == 1
    {
        return ClusterSpecifier::Cluster(only.cluster.to_string());
    }
    let share = |share: &mesh_core::config::WeightedCluster| ClusterWeight {
        name: share.cluster.to_string(),
        weight: uint(share.weight.0),
        ..ClusterWeight::default()
    };
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: split.clusters().iter().map(share).collect(),
        ..WeightedCluster::default()
    })
}
