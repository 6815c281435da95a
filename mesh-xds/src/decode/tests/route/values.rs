//! What is read of a route that is taken: times, retries, names, edits.

use super::*;

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
        // As long, and still two: the manager's longest stream holds where a route says none.
        (Some((proto(9), None)), None, proto(9), (seconds(9), seconds(9), None)),
        // What istiod writes to a sidecar when nothing is written, and to a gRPC client.
        (None, proto(0), proto(0), (None, None, seconds(0))),
        (Some((proto(0), None)), None, None, (None, seconds(0), None)),
        (None, None, None, (None, None, None)),
    ];
    for (max, max_grpc, timeout, expected) in cases {
        let tree = accepted::<RouteTree>(routes_proto(), |proto| {
            // Of our own control plane's marks.
            proto.virtual_hosts[0].routes[0].metadata = None;
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
