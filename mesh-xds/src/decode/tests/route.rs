//! Route configurations.

use std::time::Duration;

use mesh_core::config::{Domain, PathMatch, RetryOn, RetryPolicy, Route, RouteTree, Split, VirtualHost};

use super::*;
use crate::encode;
use crate::proto::{matcher, protobuf, route};

fn tree() -> RouteTree {
    let mut route = Route::to(Split::weighted([("v1".into(), 95), ("v2".into(), 5)]).unwrap());
    route.timeout = Some(Duration::from_millis(2500));
    let host = VirtualHost {
        name: "host".into(),
        domains: vec![Domain::Any],
        routes: vec![Arc::new(route)],
    };
    RouteTree::new("routes", vec![host])
}

fn routes_proto() -> route::RouteConfiguration {
    route::RouteConfiguration::decode(&*encode::routes(&tree())).unwrap()
}

fn first_route(proto: &mut route::RouteConfiguration) -> &mut route::Route {
    &mut proto.virtual_hosts[0].routes[0]
}

fn action(proto: &mut route::RouteConfiguration) -> &mut route::RouteAction {
    match &mut first_route(proto).action {
        Some(route::route::Action::Route(action)) => action,
        _ => panic!("the route has a route action"),
    }
}

fn matches(proto: &mut route::RouteConfiguration) -> &mut route::RouteMatch {
    first_route(proto).r#match.as_mut().unwrap()
}

fn string_match(pattern: Option<matcher::string_matcher::MatchPattern>) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: "x".into(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(
            matcher::StringMatcher {
                match_pattern: pattern,
                ignore_case: false,
            },
        )),
        ..Default::default()
    }
}

fn regex(source: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: source.into(),
        engine_type: None,
    }
}

#[test]
fn routes_that_are_refused() {
    use matcher::string_matcher::MatchPattern;
    use route::route_action::ClusterSpecifier;
    use route::route_match::PathSpecifier;
    let at = |rest: &str| format!("virtual_hosts[0].routes[0].{rest}");
    let bad = |field: &str, spoil: fn(&mut route::RouteConfiguration)| {
        refused::<RouteTree>(routes_proto(), &at(field), spoil);
    };
    refused::<RouteTree>(routes_proto(), "virtual_hosts[0].domains[0]", |proto| {
        proto.virtual_hosts[0].domains[0] = "a*b".into();
    });
    bad("match", |proto| first_route(proto).r#match = None);
    bad("action", |proto| first_route(proto).action = None);
    bad("match.path_specifier", |proto| matches(proto).path_specifier = None);
    bad("match.safe_regex", |proto| {
        matches(proto).path_specifier = Some(PathSpecifier::SafeRegex(regex("(")));
    });
    bad("match.runtime_fraction", |proto| {
        matches(proto).runtime_fraction = Some(Default::default());
    });
    bad("match.headers[0].string_match.match_pattern", |proto| {
        matches(proto).headers.push(string_match(None));
    });
    bad("match.headers[0].string_match.prefix", |proto| {
        let empty = MatchPattern::Prefix(String::new());
        matches(proto).headers.push(string_match(Some(empty)));
    });
    bad("match.headers[0].string_match.safe_regex", |proto| {
        let pattern = MatchPattern::SafeRegex(regex("(a{999}){999}"));
        matches(proto).headers.push(string_match(Some(pattern)));
    });
    bad("match.headers[0].name", |proto| {
        let mut header = string_match(Some(MatchPattern::Exact("a".into())));
        header.name = "not a name".into();
        matches(proto).headers.push(header);
    });
    bad("match.headers[0].range_match", |proto| {
        let mut header = string_match(None);
        let range = route::header_matcher::HeaderMatchSpecifier::RangeMatch(Default::default());
        header.header_match_specifier = Some(range);
        matches(proto).headers.push(header);
    });
    bad("route.cluster", |proto| {
        action(proto).cluster_specifier = Some(ClusterSpecifier::Cluster(String::new()));
    });
    bad("route.weighted_clusters.clusters", |proto| {
        let weighted = ClusterSpecifier::WeightedClusters(Default::default());
        action(proto).cluster_specifier = Some(weighted);
    });
    bad("route.weighted_clusters.clusters[1].name", |proto| {
        if let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action(proto).cluster_specifier {
            weighted.clusters[1].name.clear();
        }
    });
    bad("route.weighted_clusters.clusters", |proto| {
        if let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action(proto).cluster_specifier {
            weighted.clusters[0].weight = Some(protobuf::UInt32Value { value: u32::MAX });
        }
    });
    bad("route.max_stream_duration.max_stream_duration", |proto| {
        let negative = protobuf::Duration { seconds: -1, nanos: 0 };
        action(proto).max_stream_duration.as_mut().unwrap().max_stream_duration = Some(negative);
    });
    bad("route.retry_policy.retry_back_off", |proto| {
        let backoff = action(proto)
            .retry_policy
            .as_mut()
            .unwrap()
            .retry_back_off
            .as_mut()
            .unwrap();
        backoff.max_interval = Some(protobuf::Duration { seconds: 0, nanos: 1 });
    });
    bad("route.retry_policy.retry_back_off.base_interval", |proto| {
        let backoff = action(proto)
            .retry_policy
            .as_mut()
            .unwrap()
            .retry_back_off
            .as_mut()
            .unwrap();
        backoff.base_interval = None;
    });
}

#[test]
fn routes_that_grpc_drops_are_dropped_and_noted() {
    use route::route_action::ClusterSpecifier;
    let drops: [fn(&mut route::RouteConfiguration); 4] = [
        |proto| action(proto).cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".into())),
        |proto| action(proto).cluster_specifier = None,
        |proto| matches(proto).query_parameters.push(Default::default()),
        |proto| {
            let mut header = string_match(None);
            header.name = ":method".into();
            matches(proto).headers.push(header);
        },
    ];
    for change in drops {
        let mut proto = routes_proto();
        change(&mut proto);
        let decoded = decode::<RouteTree>(&raw(&proto), &context()).unwrap();
        assert!(decoded.value.unwrap().virtual_hosts[0].routes.is_empty());
        assert_eq!(decoded.notes.len(), 1);
    }
}

#[test]
fn a_redirect_keeps_its_place_and_names_no_cluster_to_ask_for() {
    let tree = accepted::<RouteTree>(routes_proto(), |proto| {
        first_route(proto).action = Some(route::route::Action::Redirect(Default::default()));
    });
    assert!(tree.clusters().all(|name| name.as_str().starts_with(UNSERVED)));
    assert_eq!(tree.virtual_hosts[0].routes.len(), 1);
}

#[test]
fn timeouts() {
    let seconds = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
    // max_stream_duration, the cap meant for gRPC in it, timeout; and what comes of it.
    let cases = [
        (Some((seconds(2), None)), seconds(9), Some(2)),
        (Some((seconds(2), seconds(3))), seconds(9), Some(3)),
        (Some((seconds(0), None)), seconds(9), None),
        (Some((None, None)), seconds(9), Some(9)),
        (None, seconds(9), Some(9)),
        (None, seconds(0), None),
        (None, None, None),
    ];
    for (max, timeout, expected) in cases {
        let tree = accepted::<RouteTree>(routes_proto(), |proto| {
            action(proto).timeout = timeout;
            action(proto).max_stream_duration = max.map(|(max, grpc)| route::route_action::MaxStreamDuration {
                max_stream_duration: max,
                grpc_timeout_header_max: grpc,
                ..Default::default()
            });
        });
        let read = tree.virtual_hosts[0].routes[0].timeout;
        assert_eq!(read, expected.map(Duration::from_secs), "{max:?} {timeout:?}");
    }
}

#[test]
fn retry_policies() {
    let retry = |change: fn(&mut route::RouteConfiguration)| {
        let tree = accepted::<RouteTree>(routes_proto(), change);
        tree.virtual_hosts[0].routes[0].retry.clone()
    };
    assert_eq!(retry(|proto| action(proto).retry_policy = None), RetryPolicy::never());
    let zero = retry(|proto| {
        action(proto).retry_policy.as_mut().unwrap().num_retries = Some(protobuf::UInt32Value { value: 0 });
    });
    assert_eq!(zero, RetryPolicy::never());
    // What a foreign control plane sends is what somebody wrote.
    assert!(retry(|proto| first_route(proto).metadata = None).explicit);
    // The route's policy replaces the virtual host's whole.
    let of_route = retry(|proto| {
        proto.virtual_hosts[0].retry_policy = Some(route::RetryPolicy {
            retry_on: "5xx".into(),
            num_retries: Some(protobuf::UInt32Value { value: 9 }),
            ..Default::default()
        });
    });
    assert_eq!(of_route, RetryPolicy::default());
    let of_host = retry(|proto| {
        proto.virtual_hosts[0].retry_policy = action(proto).retry_policy.take();
        let policy = proto.virtual_hosts[0].retry_policy.as_mut().unwrap();
        (policy.num_retries, policy.retry_on) = (None, "reset,not-known".into());
    });
    assert_eq!((of_host.retries, of_host.on), (1, RetryOn::RESET));
}

#[test]
fn matches_without_regard_to_case() {
    let tree = accepted::<RouteTree>(routes_proto(), |proto| {
        matches(proto).path_specifier = Some(route::route_match::PathSpecifier::Prefix("/a.B".into()));
        matches(proto).case_sensitive = Some(protobuf::BoolValue { value: false });
    });
    let PathMatch::Regex(pattern) = &tree.virtual_hosts[0].routes[0].matches.path else {
        panic!("case is folded by a pattern")
    };
    assert!(pattern.is_match(b"/A.b/c") && !pattern.is_match(b"/aXb"));
}
