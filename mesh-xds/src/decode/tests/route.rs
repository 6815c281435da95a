//! Route configurations.

use std::time::Duration;

use mesh_core::config::{
    Action, AppendAction, Domain, HostSelection, PathMatch, RetryOn, RetryPolicy, Route, RouteMatch, RouteTree, Split,
    Subject, VirtualHost,
};

use super::*;
use crate::encode;
use crate::proto::{core, matcher, protobuf, route};

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

#[test]
#[allow(deprecated, reason = "older control planes still write `append`")]
fn append_in_its_old_form() {
    let action_of = |append: Option<bool>, action: i32| {
        let tree = accepted::<RouteTree>(routes_proto(), |proto| {
            first_route(proto).request_headers_to_add.push(core::HeaderValueOption {
                header: Some(core::HeaderValue {
                    key: "x".into(),
                    value: "y".into(),
                    ..Default::default()
                }),
                append: append.map(|value| protobuf::BoolValue { value }),
                append_action: action,
                ..Default::default()
            });
        });
        let rules = tree.virtual_hosts[0].routes[0].headers.clone().unwrap();
        rules.request.add[0].action
    };
    assert_eq!(action_of(None, 0), AppendAction::AppendIfExistsOrAdd);
    assert_eq!(action_of(Some(true), 0), AppendAction::AppendIfExistsOrAdd);
    assert_eq!(action_of(Some(false), 0), AppendAction::OverwriteIfExistsOrAdd);
    assert_eq!(action_of(None, 3), AppendAction::OverwriteIfExists);
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
    let read = &tree.virtual_hosts[0].routes[0].matches;
    assert_eq!(
        (&read.path, read.ignore_case),
        (&PathMatch::Prefix("/a.B".into()), true)
    );
}

/// gRFC A81: an endpoint's name takes the place of the authority where the control plane is trusted; Envoy asks nobody.
#[test]
fn endpoints_name_authorities_where_they_may() {
    let trusted = Context {
        trusted: true,
        ..context()
    };
    for (context, value, expected) in [
        (context(), true, false),
        (trusted, true, true),
        (envoy(), true, true),
        (envoy(), false, false),
    ] {
        let mut proto = routes_proto();
        let auto = route::route_action::HostRewriteSpecifier::AutoHostRewrite(protobuf::BoolValue { value });
        action(&mut proto).host_rewrite_specifier = Some(auto);
        let decoded = decode::<RouteTree>(&raw(&proto), &context).unwrap();
        let tree = decoded.value.unwrap();
        let rewrite = &tree.virtual_hosts[0].routes[0].forward().unwrap().rewrite;
        let host = rewrite.as_ref().and_then(|rewrite| rewrite.host.clone());
        assert_eq!(
            host,
            expected.then_some(mesh_core::config::HostRewrite::Endpoint),
            "{context:?} {value}"
        );
        assert_eq!(
            decoded.notes.len(),
            usize::from(value && !expected),
            "{:?}",
            decoded.notes
        );
    }
}

#[test]
fn templates_that_are_none_are_refused() {
    use crate::proto::core::TypedExtensionConfig;
    use crate::proto::pack;
    use crate::proto::path::{r#match::UriTemplateMatchConfig, rewrite::UriTemplateRewriteConfig};
    use route::route_match::PathSpecifier;
    let extension = |config| {
        Some(TypedExtensionConfig {
            name: "t".into(),
            typed_config: config,
        })
    };
    let shape = |text: &str| {
        Some(pack(&UriTemplateMatchConfig {
            path_template: text.into(),
        }))
    };
    let new = |text: &str| {
        let path_template_rewrite = text.into();
        Some(pack(&UriTemplateRewriteConfig { path_template_rewrite }))
    };
    let field = |matched, rewritten: Option<_>| {
        let mut proto = routes_proto();
        if let Some(matched) = matched {
            matches(&mut proto).path_specifier = Some(PathSpecifier::PathMatchPolicy(extension(matched).unwrap()));
        }
        action(&mut proto).path_rewrite_policy = rewritten.and_then(extension);
        decode::<RouteTree>(&raw(&proto), &context())
            .unwrap()
            .value
            .map_err(|error| error.field().to_owned())
    };
    const MATCH: &str = "virtual_hosts[0].routes[0].match.path_match_policy.typed_config";
    const REWRITE: &str = "virtual_hosts[0].routes[0].route.path_rewrite_policy.typed_config";
    assert!(field(Some(shape("/{a}/{b}")), Some(new("/{b}/{a}"))).is_ok());
    assert_eq!(field(Some(None), None).unwrap_err(), MATCH);
    assert_eq!(field(Some(new("/a")), None).unwrap_err(), MATCH);
    assert_eq!(
        field(Some(shape("/{a")), None).unwrap_err(),
        format!("{MATCH}.path_template")
    );
    // Of a route that matches otherwise, without a configuration, and with a variable that is not there.
    assert_eq!(field(None, Some(new("/a"))).unwrap_err(), REWRITE);
    assert_eq!(field(Some(shape("/{a}")), Some(None)).unwrap_err(), REWRITE);
    let unknown = field(Some(shape("/{a}")), Some(new("/{b}"))).unwrap_err();
    assert_eq!(unknown, format!("{REWRITE}.path_template_rewrite"));
}
