//! Route configurations.

use std::time::Duration;

use mesh_core::config::{Domain, HostSelection, PathMatch, RetryOn, RetryPolicy, Route, RouteTree, Split, VirtualHost};

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
#[allow(deprecated, reason = "istiod writes max_grpc_timeout to sidecars")]
fn timeouts() {
    let proto = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
    let seconds = |seconds: u64| Some(Duration::from_secs(seconds));
    // max_stream_duration, the cap meant for gRPC in it, the older cap, timeout; and what comes of it: timeout, the longest
    // stream and the longest gRPC call.
    let cases = [
        (Some((proto(2), None)), None, proto(9), (seconds(9), seconds(2), None)),
        (
            Some((proto(2), proto(3))),
            None,
            proto(9),
            (seconds(9), seconds(2), seconds(3)),
        ),
        (Some((proto(0), None)), None, proto(9), (seconds(9), seconds(0), None)),
        (
            Some((None, proto(0))),
            proto(4),
            proto(9),
            (seconds(9), None, seconds(0)),
        ),
        (Some((None, None)), proto(4), proto(9), (seconds(9), None, seconds(4))),
        // One limit that is said both ways, as our own control plane does.
        (Some((proto(9), None)), None, proto(9), (seconds(9), None, None)),
        // What istiod writes to a sidecar when nothing is written, and to a gRPC client.
        (None, proto(0), proto(0), (None, None, seconds(0))),
        (Some((proto(0), None)), None, None, (None, seconds(0), None)),
        (None, None, None, (None, None, None)),
    ];
    for (max, max_grpc, timeout, expected) in cases {
        let tree = accepted::<RouteTree>(routes_proto(), |proto| {
            action(proto).timeout = timeout;
            action(proto).max_grpc_timeout = max_grpc;
            action(proto).max_stream_duration = max.map(|(max, grpc)| route::route_action::MaxStreamDuration {
                max_stream_duration: max,
                grpc_timeout_header_max: grpc,
                ..Default::default()
            });
        });
        let read = &tree.virtual_hosts[0].routes[0];
        let found = (read.timeout, read.limits.max_stream, read.limits.grpc_max);
        assert_eq!(found, expected, "{max:?} {max_grpc:?} {timeout:?}");
    }
}

/// Everything that Envoy's policy has, at its edges.
#[test]
fn retry_policies_in_full() {
    use route::retry_policy::{RetryHostPredicate, RetryPriority, retry_priority::ConfigType};
    let decoded = |change: fn(&mut route::RouteConfiguration)| {
        let mut proto = routes_proto();
        change(&mut proto);
        decode::<RouteTree>(&raw(&proto), &context()).unwrap()
    };
    let retry = |change| {
        let decoded = decoded(change);
        (
            decoded.value.unwrap().virtual_hosts[0].routes[0].retry.clone(),
            decoded.notes,
        )
    };
    fn policy(proto: &mut route::RouteConfiguration) -> &mut route::RetryPolicy {
        action(proto).retry_policy.as_mut().unwrap()
    }
    // Hosts: nothing said is wherever the balancer says; what is not known is noted.
    let (plain, _) = retry(|proto| {
        policy(proto).retry_host_predicate.clear();
        policy(proto).host_selection_retry_max_attempts = 0;
    });
    assert_eq!(plain.hosts, HostSelection::ANY);
    let (strange, notes) = retry(|proto| {
        policy(proto).retry_host_predicate = vec![
            RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".into(),
                config_type: None,
            },
            RetryHostPredicate {
                name: "omit_canary_hosts".into(),
                config_type: None,
            },
        ];
        policy(proto).retry_priority = Some(RetryPriority {
            name: "p".into(),
            config_type: Some(ConfigType::TypedConfig(crate::proto::pack(
                &crate::proto::PreviousPrioritiesConfig { update_frequency: 2 },
            ))),
        });
        policy(proto).host_selection_retry_max_attempts = i64::MAX;
    });
    assert_eq!(
        (strange.hosts.other_hosts, strange.hosts.other_priorities),
        (true, Some(2))
    );
    assert!(notes.iter().any(|note| note.contains("omit_canary_hosts")), "{notes:?}");
    // A request test that cannot be made leaves nothing to retry; an answer test that cannot be made is left out.
    let pseudo = |name: &str| route::HeaderMatcher {
        name: name.into(),
        ..Default::default()
    };
    let mut proto = routes_proto();
    policy(&mut proto).retriable_request_headers = vec![pseudo(":unheard-of")];
    let read = decode::<RouteTree>(&raw(&proto), &context()).unwrap();
    assert_eq!(read.value.unwrap().virtual_hosts[0].routes[0].retry.retries, 0);
    // The limits of the one try hold without any retry.
    let (zero, _) = retry(|proto| {
        policy(proto).num_retries = Some(protobuf::UInt32Value { value: 0 });
        policy(proto).per_try_timeout = Some(protobuf::Duration { seconds: 3, nanos: 0 });
    });
    assert_eq!((zero.retries, zero.per_try_timeout), (0, Some(Duration::from_secs(3))));
    // Hedging and the buffer: the route's own, else the virtual host's.
    let (inherited, notes) = retry(|proto| {
        proto.virtual_hosts[0].hedge_policy = Some(route::HedgePolicy {
            hedge_on_per_try_timeout: true,
            initial_requests: Some(protobuf::UInt32Value { value: 3 }),
            ..Default::default()
        });
        proto.virtual_hosts[0].request_body_buffer_limit = Some(protobuf::UInt64Value { value: 9 });
        proto.virtual_hosts[0].include_request_attempt_count = true;
    });
    assert_eq!(
        (inherited.hedge, inherited.replay_bytes, inherited.announce_attempts),
        (true, Some(9), true)
    );
    assert!(notes.iter().any(|note| note.contains("initial_requests")), "{notes:?}");
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
