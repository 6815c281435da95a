//! Route configurations.

use std::time::Duration;

use mesh_core::config::{
    Action, AppendAction, Domain, HostSelection, PathMatch, RetryOn, RetryPolicy, Route, RouteMatch, RouteTree, Split,
    Subject, VirtualHost,
};

use super::*;
use crate::encode;
use crate::proto::{core, matcher, protobuf, route};

mod values;

fn tree() -> RouteTree {
    let mut route = Route::to(Split::weighted([("v1".into(), 95), ("v2".into(), 5)]).unwrap());
    route.timeout = Some(Duration::from_millis(2500));
    let host = VirtualHost::new("host", vec![Domain::Any], vec![Arc::new(route)]);
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
    bad("match.runtime_fraction.default_value", |proto| {
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
    bad("match.query_parameters[0].name", |proto| {
        matches(proto).query_parameters.push(Default::default());
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
    let drops: [fn(&mut route::RouteConfiguration); 6] = [
        |proto| action(proto).cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".into())),
        |proto| action(proto).cluster_specifier = None,
        |proto| matches(proto).dynamic_metadata.push(Default::default()),
        |proto| matches(proto).cookies.push(Default::default()),
        |proto| {
            matches(proto).tls_context = Some(route::route_match::TlsContextMatchOptions {
                presented: Some(protobuf::BoolValue { value: true }),
                validated: None,
            });
        },
        |proto| {
            let mut header = string_match(None);
            header.name = ":protocol".into();
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

/// What Envoy would serve and this client does not keeps its place, or its calls would fall through.
#[test]
fn in_envoys_profile_what_is_not_served_keeps_its_place_and_fails_its_calls() {
    use route::route_action::ClusterSpecifier;
    let not_served: [fn(&mut route::RouteConfiguration); 5] = [
        |proto| action(proto).cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".into())),
        |proto| action(proto).cluster_specifier = Some(ClusterSpecifier::ClusterSpecifierPlugin("x".into())),
        |proto| {
            action(proto).path_rewrite_policy = Some(core::TypedExtensionConfig {
                name: "other".into(),
                typed_config: Some(Default::default()),
            })
        },
        |proto| first_route(proto).action = Some(route::route::Action::FilterAction(Default::default())),
        |proto| {
            let body = core::DataSource {
                specifier: Some(core::data_source::Specifier::Filename("/etc/passwd".into())),
                ..Default::default()
            };
            let response = route::DirectResponseAction {
                status: 200,
                body: Some(body),
                ..Default::default()
            };
            first_route(proto).action = Some(route::route::Action::DirectResponse(response));
        },
    ];
    for change in not_served {
        let mut proto = routes_proto();
        change(&mut proto);
        let decoded = decode::<RouteTree>(&raw(&proto), &envoy()).unwrap();
        let tree = decoded.value.unwrap();
        assert!(
            matches!(tree.virtual_hosts[0].routes[0].action, Action::Unserved(_)),
            "{tree:?}"
        );
        assert_eq!(
            (tree.clusters().count(), decoded.notes.len()),
            (0, 1),
            "{:?}",
            decoded.notes
        );
    }
}

/// Has it split.
fn weighted(proto: &mut route::RouteConfiguration) -> &mut route::WeightedCluster {
    use route::route_action::ClusterSpecifier;
    let share = route::weighted_cluster::ClusterWeight {
        name: "c".into(),
        weight: Some(protobuf::UInt32Value { value: 1 }),
        ..Default::default()
    };
    let action = action(proto);
    action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(route::WeightedCluster {
        clusters: vec![share],
        ..Default::default()
    }));
    match &mut action.cluster_specifier {
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted,
        _ => unreachable!("it was just set"),
    }
}

#[test]
fn what_is_left_out_is_noted() {
    type Change = fn(&mut route::RouteConfiguration);
    let changes: [(&str, Change); 9] = [
        ("vhds", |proto| proto.vhds = Some(Default::default())),
        ("matcher", |proto| {
            proto.virtual_hosts[0].matcher = Some(Default::default())
        }),
        ("require_tls", |proto| proto.virtual_hosts[0].require_tls = 2),
        ("internal_redirect_policy", |proto| {
            action(proto).internal_redirect_policy = Some(Default::default())
        }),
        ("metadata_match", |proto| {
            action(proto).metadata_match = Some(Default::default())
        }),
        ("random_value_specifier", |proto| {
            let specifier = route::weighted_cluster::RandomValueSpecifier::HeaderName("x".into());
            weighted(proto).random_value_specifier = Some(specifier);
        }),
        ("metadata_match of a weighted cluster", |proto| {
            weighted(proto).clusters[0].metadata_match = Some(Default::default());
        }),
        ("auto_host_rewrite", |proto| {
            let auto = route::route_action::HostRewriteSpecifier::AutoHostRewrite(protobuf::BoolValue { value: true });
            action(proto).host_rewrite_specifier = Some(auto);
        }),
        ("cluster is named by a header", |proto| {
            let mirror = route::route_action::RequestMirrorPolicy {
                cluster_header: "x".into(),
                ..Default::default()
            };
            action(proto).request_mirror_policies.push(mirror);
        }),
    ];
    for (what, change) in changes {
        let mut proto = routes_proto();
        change(&mut proto);
        let decoded = decode::<RouteTree>(&raw(&proto), &context()).unwrap();
        assert!(decoded.value.is_ok());
        assert!(
            decoded.notes.len() == 1 && decoded.notes[0].contains(what),
            "{what}: {:?}",
            decoded.notes
        );
    }
}

#[test]
fn a_certificate_that_must_not_be_there_is_not() {
    let tree = accepted::<RouteTree>(routes_proto(), |proto| {
        matches(proto).tls_context = Some(route::route_match::TlsContextMatchOptions {
            presented: Some(protobuf::BoolValue { value: false }),
            validated: None,
        });
    });
    assert_eq!(tree.virtual_hosts[0].routes[0].matches, RouteMatch::any());
}

#[test]
fn binary_headers_are_as_absent_by_grpcs_rules_alone() {
    let mut proto = routes_proto();
    let mut header = string_match(Some(matcher::string_matcher::MatchPattern::Exact("a".into())));
    header.name = "x-bin".into();
    matches(&mut proto).headers.push(header);
    let name = http::HeaderName::from_static("x-bin");
    for (context, expected) in [
        (context(), Subject::Unseen(name.clone())),
        (envoy(), Subject::Header(name)),
    ] {
        let tree = decode::<RouteTree>(&raw(&proto), &context).unwrap().value.unwrap();
        assert_eq!(tree.virtual_hosts[0].routes[0].matches.headers[0].subject, expected);
    }
}

/// Of route, virtual host and configuration the closest that names mirrors is heard, and alone.
#[test]
fn mirrors_are_those_of_the_closest_place() {
    let mirror = |name: &str| route::route_action::RequestMirrorPolicy {
        cluster: name.into(),
        ..Default::default()
    };
    for (of_route, of_host, expected) in [(true, true, "route"), (false, true, "host"), (false, false, "tree")] {
        let mut proto = routes_proto();
        proto.request_mirror_policies = vec![mirror("tree"), mirror("tree2")];
        if of_host {
            proto.virtual_hosts[0].request_mirror_policies = vec![mirror("host")];
        }
        if of_route {
            action(&mut proto).request_mirror_policies = vec![mirror("route")];
        }
        let tree = accepted::<RouteTree>(proto, |_| {});
        let mirrors = &tree.virtual_hosts[0].routes[0].forward().unwrap().mirrors;
        assert_eq!(mirrors[0].cluster.as_str(), expected);
        assert_eq!(mirrors.len(), if expected == "tree" { 2 } else { 1 });
        assert!(
            tree.clusters().any(|name| name.as_str() == expected),
            "a mirror's cluster is asked for"
        );
    }
}
