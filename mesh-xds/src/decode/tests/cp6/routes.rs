//! Route configurations. A route to a cluster that does not exist is not among them: that is data, and fails the calls that
//! meet it (gRFC A74).

use mesh_core::config::RouteTree;

use super::*;
use crate::proto::core::RuntimeFractionalPercent;
use crate::proto::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::proto::percent::FractionalPercent;
use crate::proto::protobuf::{Any, Duration as DurationProto, UInt32Value};
use crate::proto::route::{
    HeaderMatcher, QueryParameterMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration as Proto, RouteMatch,
    WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier,
    retry_policy::{RateLimitedRetryBackOff, ResetHeader, RetryBackOff, RetryPriority, retry_priority},
    route::Action,
    route_action::ClusterSpecifier,
    route_match::PathSpecifier,
};
use crate::proto::{PreviousPrioritiesConfig, pack};

pub(super) fn route(proto: &mut Proto) -> &mut Route {
    &mut proto.virtual_hosts[0].routes[0]
}

fn matches(proto: &mut Proto) -> &mut RouteMatch {
    route(proto).r#match.as_mut().unwrap()
}

pub(super) fn action(proto: &mut Proto) -> &mut RouteAction {
    match &mut route(proto).action {
        Some(Action::Route(action)) => action,
        _ => panic!("the route has a route action"),
    }
}

fn retry(proto: &mut Proto) -> &mut RetryPolicy {
    action(proto).retry_policy.as_mut().unwrap()
}

pub(super) fn weighted(proto: &mut Proto) -> &mut WeightedCluster {
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

pub(super) fn regex(source: &str) -> RegexMatcher {
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

fn named(name: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        ..Default::default()
    }
}

fn rate_limited(proto: &mut Proto, headers: &[(&str, i32)], max_interval: Option<DurationProto>) {
    let header = |(name, format): &(&str, i32)| ResetHeader {
        name: (*name).into(),
        format: *format,
    };
    retry(proto).rate_limited_retry_back_off = Some(RateLimitedRetryBackOff {
        reset_headers: headers.iter().map(header).collect(),
        max_interval,
    });
}

fn priorities(proto: &mut Proto, config: Any) {
    retry(proto).retry_priority = Some(RetryPriority {
        name: "p".into(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(config)),
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
    let mutators: [Mutator<Proto>; 52] = [
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
        (at("route.priority"), |p| action(p).priority = 2),
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
        (at("route.retry_policy.per_try_idle_timeout"), |p| {
            retry(p).per_try_idle_timeout = nanos(0, -1)
        }),
        (at("route.retry_policy.retriable_status_codes[1]"), |p| {
            retry(p).retriable_status_codes = vec![503, 600]
        }),
        (at("route.retry_policy.retriable_status_codes[0]"), |p| {
            retry(p).retriable_status_codes = vec![99]
        }),
        (at("route.retry_policy.retriable_headers[0].name"), |p| {
            retry(p).retriable_headers = vec![named("no name")]
        }),
        (at("route.retry_policy.retriable_headers"), |p| {
            retry(p).retriable_headers = vec![named("x"); 33]
        }),
        (at("route.retry_policy.retriable_request_headers[1].name"), |p| {
            retry(p).retriable_request_headers = vec![named("x"), named("")]
        }),
        (at("route.retry_policy.retry_back_off.max_interval"), |p| {
            backoff(p, nanos(1, 0), nanos(-1, 0))
        }),
        (
            at("route.retry_policy.rate_limited_retry_back_off.reset_headers"),
            |p| rate_limited(p, &[], None),
        ),
        (
            at("route.retry_policy.rate_limited_retry_back_off.reset_headers[1].name"),
            |p| rate_limited(p, &[("retry-after", 0), ("no name", 0)], None),
        ),
        (
            at("route.retry_policy.rate_limited_retry_back_off.reset_headers[0].format"),
            |p| rate_limited(p, &[("retry-after", 2)], None),
        ),
        (at("route.retry_policy.rate_limited_retry_back_off.max_interval"), |p| {
            rate_limited(p, &[("retry-after", 0)], nanos(0, 0))
        }),
        (
            at("route.retry_policy.retry_priority.typed_config.update_frequency"),
            |p| priorities(p, pack(&PreviousPrioritiesConfig { update_frequency: 0 })),
        ),
        (at("route.retry_policy.retry_priority.typed_config"), |p| {
            let mut any = pack(&PreviousPrioritiesConfig::default());
            any.value = vec![0xff];
            priorities(p, any);
        }),
        (at("route.idle_timeout"), |p| action(p).idle_timeout = nanos(-1, 0)),
        (at("route.max_grpc_timeout"), |p| {
            action(p).max_grpc_timeout = nanos(0, -1)
        }),
        (at("route.grpc_timeout_offset"), |p| {
            action(p).grpc_timeout_offset = nanos(-1, 0)
        }),
        (at("route.max_stream_duration.grpc_timeout_header_max"), |p| {
            action(p).max_stream_duration.as_mut().unwrap().grpc_timeout_header_max = nanos(-1, 0);
        }),
        (at("route.max_stream_duration.grpc_timeout_header_offset"), |p| {
            action(p)
                .max_stream_duration
                .as_mut()
                .unwrap()
                .grpc_timeout_header_offset = nanos(-1, 0);
        }),
    ];
    let small = Proto::default();
    table::<RouteTree>(context(), &istiod::proxyless::routes(), &small, &mutators);
}
