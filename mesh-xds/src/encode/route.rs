//! A route configuration.

use std::collections::HashMap;

use mesh_core::config::{RetryPolicy, Route, RouteTree, RoutingPriority, Split, VirtualHost};

use super::common::{duration, uint};
use super::matcher::route_match;
use crate::convention::RETRY_IS_DEFAULT;
use crate::proto::core::{Metadata, RoutingPriority as PriorityProto};
use crate::proto::protobuf;
use crate::proto::route::{
    RetryPolicy as RetryProto, Route as RouteProto, RouteAction, RouteConfiguration, VirtualHost as HostProto,
    WeightedCluster, retry_policy::RetryBackOff, route::Action, route_action::ClusterSpecifier,
    route_action::MaxStreamDuration, weighted_cluster::ClusterWeight,
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
        ..HostProto::default()
    }
}

fn route(route: &Route) -> RouteProto {
    let retries = (route.retry.retries > 0).then(|| retry_policy(&route.retry));
    let marked = retries.is_some() && !route.retry.explicit;
    // gRPC reads the one, Envoy and Istio's users the other; a zero that is said is no limit and stops every fallback.
    let timeout = Some(duration(route.timeout.unwrap_or_default()));
    let action = RouteAction {
        cluster_specifier: Some(clusters(&route.split)),
        timeout,
        max_stream_duration: Some(MaxStreamDuration {
            max_stream_duration: timeout,
            ..MaxStreamDuration::default()
        }),
        retry_policy: retries,
        priority: match route.priority {
            RoutingPriority::Default => PriorityProto::Default as i32,
            RoutingPriority::High => PriorityProto::High as i32,
        },
        ..RouteAction::default()
    };
    RouteProto {
        name: route.name.clone().into(),
        r#match: Some(route_match(&route.matches)),
        metadata: marked.then(default_retry_mark),
        action: Some(Action::Route(action)),
        ..RouteProto::default()
    }
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

/// Never called for zero retries: gRFC A44 refuses them, so "never" is said by leaving the policy out.
fn retry_policy(policy: &RetryPolicy) -> RetryProto {
    RetryProto {
        retry_on: policy.on.to_string(),
        num_retries: uint(policy.retries),
        per_try_timeout: policy.per_try_timeout.map(duration),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(duration(policy.backoff.base())),
            max_interval: Some(duration(policy.backoff.max())),
        }),
        ..RetryProto::default()
    }
}

fn default_retry_mark() -> Metadata {
    let (filter, key) = RETRY_IS_DEFAULT;
    let yes = protobuf::Value {
        kind: Some(protobuf::value::Kind::BoolValue(true)),
    };
    let fields = protobuf::Struct {
        fields: HashMap::from([(key.into(), yes)]),
    };
    Metadata {
        filter_metadata: HashMap::from([(filter.into(), fields)]),
        ..Metadata::default()
    }
}
