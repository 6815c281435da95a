//! Route configurations. A route to a cluster that does not exist is not among them: that is data, and fails the calls that
//! meet it (gRFC A74).

use mesh_core::config::RouteTree;

use super::*;
use crate::proto::core::{DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent, data_source};
use crate::proto::fault::{FaultAbort, HttpFault, fault_abort::ErrorType};
use crate::proto::fault_common::{FaultDelay, fault_delay::FaultDelaySecifier};
use crate::proto::matcher::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::proto::pack;
use crate::proto::percent::FractionalPercent;
use crate::proto::protobuf::{Any, Duration as DurationProto, UInt32Value};
use crate::proto::route::{
    DirectResponseAction, FilterConfig, HeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy, Route,
    RouteAction, RouteConfiguration as Proto, RouteMatch, WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier,
    redirect_action::PathRewriteSpecifier,
    retry_policy::RetryBackOff,
    route::Action,
    route_action::{ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy},
    route_match::PathSpecifier,
};

fn route(proto: &mut Proto) -> &mut Route {
    &mut proto.virtual_hosts[0].routes[0]
}

fn matches(proto: &mut Proto) -> &mut RouteMatch {
    route(proto).r#match.as_mut().unwrap()
}

fn action(proto: &mut Proto) -> &mut RouteAction {
    match &mut route(proto).action {
        Some(Action::Route(action)) => action,
        _ => panic!("the route has a route action"),
    }
}

fn retry(proto: &mut Proto) -> &mut RetryPolicy {
    action(proto).retry_policy.as_mut().unwrap()
}

fn weighted(proto: &mut Proto) -> &mut WeightedCluster {
    match &mut action(proto).cluster_specifier {
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted,
        _ => panic!("the route is a split"),
    }
}

fn weigh(proto: &mut Proto, weights: [u32; 2]) {
    for (share, value) in weighted(proto).clusters.iter_mut().zip(weights) {
        share.weight = Some(UInt32Value { value });
    }
}

fn header(proto: &mut Proto, name: &str, test: HeaderMatchSpecifier) {
    matches(proto).headers.push(HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(test),
        ..Default::default()
    });
}

fn text(proto: &mut Proto, match_pattern: Option<MatchPattern>) {
    let matcher = StringMatcher {
        match_pattern,
        ignore_case: false,
    };
    header(proto, "x", HeaderMatchSpecifier::StringMatch(matcher));
}

fn regex(source: &str) -> RegexMatcher {
    RegexMatcher {
        regex: source.into(),
        engine_type: None,
    }
}

fn nanos(seconds: i64, nanos: i32) -> Option<DurationProto> {
    Some(DurationProto { seconds, nanos })
}

fn backoff(proto: &mut Proto, base: Option<DurationProto>, max: Option<DurationProto>) {
    retry(proto).retry_back_off = Some(RetryBackOff {
        base_interval: base,
        max_interval: max,
    });
}

#[test]
#[allow(deprecated, reason = "older control planes write the deprecated forms")]
fn cp_6_routes() {
    const R: &str = "virtual_hosts[0].routes[0]";
    let at = |rest: &'static str| -> &'static str {
        // Leaked: a few dozen names, once per test run, so that the table is a plain list.
        Box::leak(format!("{R}.{rest}").into_boxed_str())
    };
    let mutators: [Mutator<Proto>; 33] = [
        ("virtual_hosts[0].domains[0]", |p| {
            p.virtual_hosts[0].domains[0] = "a*b".into()
        }),
        ("virtual_hosts[0].domains[0]", |p| p.virtual_hosts[0].domains[0].clear()),
        (at("match"), |p| route(p).r#match = None),
        (at("action"), |p| route(p).action = None),
        (at("match.path_specifier"), |p| matches(p).path_specifier = None),
        (at("match.safe_regex"), |p| {
            matches(p).path_specifier = Some(PathSpecifier::SafeRegex(regex("(")))
        }),
        (at("match.safe_regex"), |p| {
            matches(p).path_specifier = Some(PathSpecifier::SafeRegex(regex("(a{999}){999}")));
        }),
        (at("match.path_separated_prefix"), |p| {
            matches(p).path_specifier = Some(PathSpecifier::PathSeparatedPrefix("/a/".into()));
        }),
        (at("match.path_specifier"), |p| {
            matches(p).path_specifier = Some(PathSpecifier::ConnectMatcher(Default::default()));
        }),
        (at("match.runtime_fraction.default_value"), |p| {
            matches(p).runtime_fraction = Some(Default::default())
        }),
        (at("match.runtime_fraction.default_value.denominator"), |p| {
            matches(p).runtime_fraction = Some(RuntimeFractionalPercent {
                default_value: Some(FractionalPercent {
                    numerator: 1,
                    denominator: 9,
                }),
                ..Default::default()
            });
        }),
        (at("match.query_parameters[0].name"), |p| {
            matches(p).query_parameters.push(Default::default())
        }),
        (at("match.query_parameters[0].string_match.match_pattern"), |p| {
            matches(p).query_parameters.push(QueryParameterMatcher {
                name: "q".into(),
                query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(Default::default())),
            });
        }),
        (at("match.headers[0].string_match.match_pattern"), |p| text(p, None)),
        (at("match.headers[0].string_match.prefix"), |p| {
            text(p, Some(MatchPattern::Prefix(String::new())))
        }),
        (at("match.headers[0].string_match.suffix"), |p| {
            text(p, Some(MatchPattern::Suffix(String::new())))
        }),
        (at("match.headers[0].string_match.contains"), |p| {
            text(p, Some(MatchPattern::Contains(String::new())))
        }),
        (at("match.headers[0].string_match.safe_regex"), |p| {
            text(p, Some(MatchPattern::SafeRegex(regex("["))))
        }),
        (at("match.headers[0].string_match.custom"), |p| {
            text(p, Some(MatchPattern::Custom(Default::default())))
        }),
        (at("match.headers[0].safe_regex_match"), |p| {
            header(p, "x", HeaderMatchSpecifier::SafeRegexMatch(regex("*")));
        }),
        (at("match.headers[0].prefix_match"), |p| {
            header(p, "x", HeaderMatchSpecifier::PrefixMatch(String::new()));
        }),
        (at("match.headers[0].name"), |p| {
            header(p, "no name", HeaderMatchSpecifier::PresentMatch(true))
        }),
        (at("route.cluster"), |p| {
            action(p).cluster_specifier = Some(ClusterSpecifier::Cluster(String::new()));
        }),
        (at("route.weighted_clusters.clusters"), |p| weighted(p).clusters.clear()),
        (at("route.weighted_clusters.clusters"), |p| weigh(p, [0, 0])),
        (at("route.weighted_clusters.clusters"), |p| weigh(p, [u32::MAX, 1])),
        (at("route.weighted_clusters.clusters[1].name"), |p| {
            weighted(p).clusters[1].name.clear()
        }),
        (at("route.max_stream_duration.max_stream_duration"), |p| {
            action(p).max_stream_duration.as_mut().unwrap().max_stream_duration = nanos(-1, 0);
        }),
        (at("route.timeout"), |p| {
            action(p).max_stream_duration = None;
            action(p).timeout = nanos(0, 1_000_000_000);
        }),
        (at("route.retry_policy.per_try_timeout"), |p| {
            retry(p).per_try_timeout = nanos(i64::MAX, 0)
        }),
        (at("route.retry_policy.retry_back_off.base_interval"), |p| {
            backoff(p, None, None)
        }),
        (at("route.retry_policy.retry_back_off"), |p| {
            backoff(p, nanos(1, 0), nanos(0, 1))
        }),
        (at("route.retry_policy.retry_back_off"), |p| {
            backoff(p, nanos(0, 0), None)
        }),
    ];
    let small = Proto::default();
    table::<RouteTree>(context(), &istiod::proxyless::routes(), &small, &mutators);
}

fn add(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.into(),
            value: value.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn substitution(pattern: &str, substitution: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(regex(pattern)),
        substitution: substitution.into(),
    }
}

fn redirect(proto: &mut Proto, redirect: RedirectAction) {
    route(proto).action = Some(Action::Redirect(redirect));
}

fn respond(proto: &mut Proto, status: u32, body: usize) {
    route(proto).action = Some(Action::DirectResponse(DirectResponseAction {
        status,
        body: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineBytes(vec![b'x'; body])),
            ..Default::default()
        }),
        ..Default::default()
    }));
}

fn mirror(proto: &mut Proto, mirror: RequestMirrorPolicy) {
    action(proto).request_mirror_policies.push(mirror);
}

fn fault(proto: &mut Proto, fault: HttpFault) {
    route(proto).typed_per_filter_config.insert("f".into(), pack(&fault));
}

fn abort(proto: &mut Proto, error_type: Option<ErrorType>) {
    let abort = FaultAbort {
        error_type,
        ..Default::default()
    };
    fault(
        proto,
        HttpFault {
            abort: Some(abort),
            ..Default::default()
        },
    );
}

fn delay(proto: &mut Proto, kind: Option<FaultDelaySecifier>) {
    let delay = FaultDelay {
        fault_delay_secifier: kind,
        ..Default::default()
    };
    fault(
        proto,
        HttpFault {
            delay: Some(delay),
            ..Default::default()
        },
    );
}

/// What a route does besides forwarding, and what is done to its calls.
#[test]
#[allow(deprecated, reason = "older control planes write the deprecated forms")]
fn cp_6_actions_edits_and_faults() {
    const R: &str = "virtual_hosts[0].routes[0]";
    let at = |rest: &'static str| -> &'static str { Box::leak(format!("{R}.{rest}").into_boxed_str()) };
    let mutators: [Mutator<Proto>; 41] = [
        (at("redirect.response_code"), |p| {
            redirect(
                p,
                RedirectAction {
                    response_code: 9,
                    ..Default::default()
                },
            )
        }),
        (at("redirect.port_redirect"), |p| {
            redirect(
                p,
                RedirectAction {
                    port_redirect: 70_000,
                    ..Default::default()
                },
            )
        }),
        (at("redirect.host_redirect"), |p| {
            redirect(
                p,
                RedirectAction {
                    host_redirect: "a\nb".into(),
                    ..Default::default()
                },
            )
        }),
        (at("redirect.path_redirect"), |p| {
            let path = Some(PathRewriteSpecifier::PathRedirect("/a\rb".into()));
            redirect(
                p,
                RedirectAction {
                    path_rewrite_specifier: path,
                    ..Default::default()
                },
            );
        }),
        (at("redirect.regex_rewrite"), |p| {
            let path = Some(PathRewriteSpecifier::RegexRewrite(substitution("a", "\\1")));
            redirect(
                p,
                RedirectAction {
                    path_rewrite_specifier: path,
                    ..Default::default()
                },
            );
        }),
        (at("direct_response.status"), |p| respond(p, 199, 0)),
        (at("direct_response.status"), |p| respond(p, 600, 0)),
        (at("direct_response.body"), |p| respond(p, 200, 4097)),
        (at("direct_response.body"), |p| {
            p.max_direct_response_body_size_bytes = Some(UInt32Value { value: 1 });
            respond(p, 200, 2);
        }),
        (at("route.regex_rewrite"), |p| {
            action(p).regex_rewrite = Some(substitution("(", ""))
        }),
        (at("route.regex_rewrite"), |p| {
            action(p).regex_rewrite = Some(substitution("(a)", "\\2"))
        }),
        (at("route.regex_rewrite.pattern"), |p| {
            action(p).regex_rewrite = Some(Default::default())
        }),
        (at("route.regex_rewrite"), |p| {
            action(p).prefix_rewrite = "/".into();
            action(p).regex_rewrite = Some(substitution("a", "b"));
        }),
        (at("route.prefix_rewrite"), |p| {
            action(p).prefix_rewrite = "/a\nb".into()
        }),
        (at("route.host_rewrite_literal"), |p| {
            action(p).host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral("a b".into()));
        }),
        (at("route.host_rewrite_header"), |p| {
            action(p).host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteHeader("a b".into()));
        }),
        (at("route.host_rewrite_path_regex"), |p| {
            let regex = substitution("[", "");
            action(p).host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewritePathRegex(regex));
        }),
        (at("route.request_mirror_policies[0].cluster"), |p| {
            mirror(p, Default::default())
        }),
        (
            at("route.request_mirror_policies[0].runtime_fraction.default_value"),
            |p| {
                let mirrored = RequestMirrorPolicy {
                    cluster: "m".into(),
                    runtime_fraction: Some(Default::default()),
                    ..Default::default()
                };
                mirror(p, mirrored);
            },
        ),
        (at("request_headers_to_add[0].header"), |p| {
            route(p).request_headers_to_add.push(Default::default())
        }),
        (at("request_headers_to_add[0].header.key"), |p| {
            route(p).request_headers_to_add.push(add(":path", "/"))
        }),
        (at("request_headers_to_add[0].header.key"), |p| {
            route(p).request_headers_to_add.push(add("Host", "h"))
        }),
        (at("request_headers_to_add[0].header.key"), |p| {
            route(p).request_headers_to_add.push(add("a b", "c"))
        }),
        (at("request_headers_to_add[0].header.value"), |p| {
            route(p).request_headers_to_add.push(add("x", "%UNHEARD_OF%"));
        }),
        (at("response_headers_to_add[0].header.value"), |p| {
            route(p).response_headers_to_add.push(add("x", "100%"));
        }),
        (at("request_headers_to_add[0].header.raw_value"), |p| {
            let mut both = add("x", "y");
            both.header.as_mut().unwrap().raw_value = vec![b'z'];
            route(p).request_headers_to_add.push(both);
        }),
        (at("request_headers_to_add[0].append_action"), |p| {
            route(p).request_headers_to_add.push(HeaderValueOption {
                append_action: 9,
                ..add("x", "y")
            });
        }),
        (at("request_headers_to_add[0].append"), |p| {
            let append = Some(crate::proto::protobuf::BoolValue { value: true });
            route(p).request_headers_to_add.push(HeaderValueOption {
                append,
                append_action: 1,
                ..add("x", "y")
            });
        }),
        (at("request_headers_to_remove[0]"), |p| {
            route(p).request_headers_to_remove.push("host".into())
        }),
        (at("response_headers_to_remove[0]"), |p| {
            route(p).response_headers_to_remove.push(":status".into())
        }),
        ("virtual_hosts[0].request_headers_to_remove[0]", |p| {
            p.virtual_hosts[0].request_headers_to_remove.push(":path".into());
        }),
        ("response_headers_to_add[0].header.key", |p| {
            p.response_headers_to_add.push(add("", "c"))
        }),
        (
            at("route.weighted_clusters.clusters[1].request_headers_to_add[0].header.value"),
            |p| {
                weighted(p).clusters[1].request_headers_to_add.push(add("x", "%REQ(%"));
            },
        ),
        (at("typed_per_filter_config[\"f\"]"), |p| {
            let broken = Any {
                value: vec![0xff],
                ..pack(&HttpFault::default())
            };
            route(p).typed_per_filter_config.insert("f".into(), broken);
        }),
        (at("typed_per_filter_config[\"f\"].abort.http_status"), |p| {
            abort(p, Some(ErrorType::HttpStatus(99)))
        }),
        (at("typed_per_filter_config[\"f\"].abort.grpc_status"), |p| {
            abort(p, Some(ErrorType::GrpcStatus(256)))
        }),
        (at("typed_per_filter_config[\"f\"].abort.error_type"), |p| {
            abort(p, None)
        }),
        (at("typed_per_filter_config[\"f\"].delay.fixed_delay"), |p| {
            delay(p, Some(FaultDelaySecifier::FixedDelay(Default::default())))
        }),
        (at("typed_per_filter_config[\"f\"].delay.fault_delay_secifier"), |p| {
            delay(p, None)
        }),
        (at("typed_per_filter_config[\"f\"].headers[0].name"), |p| {
            fault(
                p,
                HttpFault {
                    headers: vec![HeaderMatcher::default()],
                    ..Default::default()
                },
            );
        }),
        (
            "virtual_hosts[0].typed_per_filter_config[\"f\"].config.abort.error_type",
            |p| {
                let inner = HttpFault {
                    abort: Some(FaultAbort::default()),
                    ..Default::default()
                };
                let wrapper = FilterConfig {
                    config: Some(pack(&inner)),
                    ..Default::default()
                };
                p.virtual_hosts[0]
                    .typed_per_filter_config
                    .insert("f".into(), pack(&wrapper));
            },
        ),
    ];
    let small = Proto::default();
    table::<RouteTree>(context(), &istiod::proxyless::routes(), &small, &mutators);
}
