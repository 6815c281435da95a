//! A route configuration.

use mesh_core::config::{
    Action, DirectResponse, Forward, Route, RouteTree, RoutingPriority, Split, VirtualHost,
    WeightedCluster as ShareValue,
};

use super::common::{duration, uint};
use super::matcher::route_match;
use super::{action, filter, hash, headers, retry};
use crate::convention::{RETRY_IS_DEFAULT, STREAM_IS_TIMEOUT};
use crate::proto::core::{Metadata, RoutingPriority as PriorityProto};
use crate::proto::protobuf;
use crate::proto::route::{
    NonForwardingAction, Route as RouteProto, RouteAction, RouteConfiguration, VirtualHost as HostProto,
    WeightedCluster, route::Action as RouteActionProto, route_action::ClusterSpecifier,
    route_action::MaxStreamDuration, weighted_cluster::ClusterWeight,
    weighted_cluster::cluster_weight::HostRewriteSpecifier,
};

pub(super) fn configuration(tree: &RouteTree) -> RouteConfiguration {
    let [request, response] = headers::rules(tree.headers.as_deref());
    RouteConfiguration {
        name: String::from(&*tree.name),
        virtual_hosts: tree.virtual_hosts.iter().map(virtual_host).collect(),
        ignore_port_in_host_matching: tree.ignore_port,
        request_headers_to_add: request.0,
        request_headers_to_remove: request.1,
        response_headers_to_add: response.0,
        response_headers_to_remove: response.1,
        most_specific_header_mutations_wins: tree.closest_rules_last,
        typed_per_filter_config: filter::overrides(&tree.filter_overrides),
        max_direct_response_body_size_bytes: largest_body(tree),
        ..RouteConfiguration::default()
    }
}

/// Said only where what everyone takes for granted is too little.
fn largest_body(tree: &RouteTree) -> Option<protobuf::UInt32Value> {
    let routes = tree.virtual_hosts.iter().flat_map(|host| &host.routes);
    let bodies = routes.filter_map(|route| match &route.action {
        Action::Respond(response) => Some(response.body.len()),
        Action::Forward(_) | Action::Redirect(_) | Action::Unserved(_) => None,
    });
    let largest = bodies
        .max()
        .filter(|largest| *largest > DirectResponse::DEFAULT_MAX_BODY_BYTES)?;
    uint(u32::try_from(largest).unwrap_or(u32::MAX))
}

fn virtual_host(host: &VirtualHost) -> HostProto {
    let [request, response] = headers::rules(host.headers.as_deref());
    HostProto {
        name: host.name.clone().into(),
        domains: host.domains.iter().map(ToString::to_string).collect(),
        routes: host.routes.iter().map(|entry| route(entry)).collect(),
        request_headers_to_add: request.0,
        request_headers_to_remove: request.1,
        response_headers_to_add: response.0,
        response_headers_to_remove: response.1,
        typed_per_filter_config: filter::overrides(&host.filter_overrides),
        include_request_attempt_count: host.routes.iter().any(|route| route.retry.announce_attempts),
        ..HostProto::default()
    }
}

fn route(route: &Route) -> RouteProto {
    let mut metadata = None;
    let action = match &route.action {
        Action::Forward(forward) => {
            let (action, mark) = forwarding(route, forward);
            metadata = mark;
            RouteActionProto::Route(action)
        }
        Action::Redirect(redirect) => RouteActionProto::Redirect(action::redirect(redirect)),
        Action::Respond(response) => RouteActionProto::DirectResponse(action::direct_response(response)),
        // Whoever reads it fails its calls too.
        Action::Unserved(_) => RouteActionProto::NonForwardingAction(NonForwardingAction {}),
    };
    let [request, response] = headers::rules(route.headers.as_deref());
    RouteProto {
        name: route.name.clone().into(),
        r#match: Some(route_match(&route.matches)),
        metadata,
        action: Some(action),
        request_headers_to_add: request.0,
        request_headers_to_remove: request.1,
        response_headers_to_add: response.0,
        response_headers_to_remove: response.1,
        typed_per_filter_config: filter::overrides(&route.filter_overrides),
        request_body_buffer_limit: route.forward().and_then(|_| retry::buffer_limit(&route.retry)),
        ..RouteProto::default()
    }
}

/// What is said of a route that sends its calls on, and its marks.
fn forwarding(route: &Route, forward: &Forward) -> (RouteAction, Option<Metadata>) {
    let (retry_policy, retry_is_default) = retry::policy(&route.retry);
    let stream_is_timeout = route.timeout.is_some() && route.limits.max_stream.is_none();
    let marks = [
        (retry_is_default, RETRY_IS_DEFAULT),
        (stream_is_timeout, STREAM_IS_TIMEOUT),
    ];
    let marks = marks.into_iter().filter_map(|(holds, mark)| holds.then_some(mark));
    let mut action = RouteAction {
        cluster_specifier: Some(clusters(&forward.split)),
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
        hash_policy: forward.hash.iter().map(hash::policy).collect(),
        request_mirror_policies: forward.mirrors.iter().map(action::mirror).collect(),
        ..RouteAction::default()
    };
    if let Some(rewrite) = &forward.rewrite {
        action::rewrite(rewrite, &mut action);
    }
    (action, marked(marks))
}

/// What our own clients are told by filter metadata, and others pass over.
fn marked(marks: impl Iterator<Item = (&'static str, &'static str)>) -> Option<Metadata> {
    let mut metadata = Metadata::default();
    for (filter, key) in marks {
        let yes = protobuf::Value {
            kind: Some(protobuf::value::Kind::BoolValue(true)),
        };
        let of_filter = metadata.filter_metadata.entry(filter.into()).or_default();
        of_filter.fields.insert(key.into(), yes);
    }
    (!metadata.filter_metadata.is_empty()).then_some(metadata)
}

/// gRPC's clients look here for what Envoy and Istio's users call a timeout.
fn max_stream_duration(route: &Route) -> Option<MaxStreamDuration> {
    let limits = &route.limits;
    // Zero is no timeout. Said here it would end the search for a limit further out, which stands beside timeouts.
    let timeout = route.timeout.filter(|timeout| !timeout.is_zero());
    let duration_of = MaxStreamDuration {
        max_stream_duration: limits.max_stream.or(timeout).map(duration),
        grpc_timeout_header_max: limits.grpc_max.map(duration),
        grpc_timeout_header_offset: limits.grpc_offset.map(duration),
    };
    (duration_of != MaxStreamDuration::default()).then_some(duration_of)
}

fn clusters(split: &Split) -> ClusterSpecifier {
    // One share is a plain cluster, whatever its weight: but the weight is part of the value, and what else it says.
    if let [only] = split.clusters()
        && *only == ShareValue::new(only.cluster.clone(), 1)
    {
        return ClusterSpecifier::Cluster(only.cluster.to_string());
    }
    ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: split.clusters().iter().map(share).collect(),
        ..WeightedCluster::default()
    })
}

fn share(share: &ShareValue) -> ClusterWeight {
    let [request, response] = headers::rules(share.headers.as_deref());
    let host = share.host.as_ref();
    ClusterWeight {
        name: share.cluster.to_string(),
        weight: uint(share.weight.0),
        request_headers_to_add: request.0,
        request_headers_to_remove: request.1,
        response_headers_to_add: response.0,
        response_headers_to_remove: response.1,
        host_rewrite_specifier: host.map(|host| HostRewriteSpecifier::HostRewriteLiteral(host.to_string())),
        typed_per_filter_config: filter::overrides(&share.filter_overrides),
        ..ClusterWeight::default()
    }
}
