//! Route trees and their retries.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{
    Action, Backoff, Domain, HeaderMatch, HeaderTest, HostSelection, PathMatch, PathRewrite, RateLimitedBackoff,
    ResetFormat, ResetHeader, RetryOn, RetryPolicy, Route, RouteMatch, RouteTree, RoutingPriority, TemplateRewrite,
    TimeLimits, VirtualHost,
};
use proptest::prelude::*;

use super::actions::{actions, header_rules, overrides, route_matches};
use super::string_tests;

fn header_tests() -> impl Strategy<Value = HeaderMatch> {
    let test = prop_oneof![Just(HeaderTest::Present), string_tests().prop_map(HeaderTest::Value)];
    ("x-[a-z]{1,8}", test, any::<bool>()).prop_map(|(name, test, invert)| HeaderMatch {
        invert,
        ..HeaderMatch::new(name.parse::<http::HeaderName>().unwrap(), test)
    })
}

fn millis(most: u64) -> impl Strategy<Value = Option<Duration>> {
    prop::option::of(1..most).prop_map(|millis| millis.map(Duration::from_millis))
}

fn backoffs() -> impl Strategy<Value = (Backoff, Option<RateLimitedBackoff>)> {
    let format = prop_oneof![Just(ResetFormat::Seconds), Just(ResetFormat::UnixTimestamp)];
    let header = ("x-[a-z]{1,8}", format).prop_map(|(name, format)| ResetHeader {
        name: name.parse().unwrap(),
        format,
    });
    let limited = (prop::collection::vec(header, 1..3), 1u64..1000).prop_map(|(headers, max)| RateLimitedBackoff {
        headers: headers.into(),
        max: Duration::from_secs(max),
    });
    let jittered = (1u64..500, 1u64..9).prop_map(|(base, factor)| {
        Backoff::new(Duration::from_millis(base), Some(Duration::from_millis(base * factor))).unwrap()
    });
    (jittered, prop::option::of(limited))
}

fn retries() -> impl Strategy<Value = RetryPolicy> {
    let words: Vec<&str> = RetryOn::all().map(|(word, _)| word).collect();
    let on = prop::sample::subsequence(words.clone(), 0..words.len());
    let headers = || prop::collection::vec(header_tests(), 0..3);
    let hosts = (any::<bool>(), 1u32..100, prop::option::of(1u32..9));
    let hosts = hosts.prop_map(|(other_hosts, max_attempts, other_priorities)| HostSelection {
        other_hosts,
        max_attempts,
        other_priorities,
    });
    let statuses = prop::collection::vec(100u16..600, 0..3);
    let some = (
        (1u32..9, on, statuses, headers(), headers()),
        (millis(10_000), millis(10_000), backoffs(), hosts, any::<bool>()),
    );
    let some = some.prop_map(|((retries, on, statuses, headers, request_headers), rest)| {
        let (per_try_timeout, per_try_idle_timeout, (backoff, rate_limited), hosts, explicit) = rest;
        RetryPolicy {
            retries,
            on: RetryOn::parse(&on.join(",")),
            statuses: statuses.into(),
            headers: headers.into(),
            request_headers: request_headers.into(),
            per_try_timeout,
            per_try_idle_timeout,
            backoff,
            rate_limited,
            hosts,
            explicit,
            ..RetryPolicy::default()
        }
    });
    let policy = prop_oneof![Just(RetryPolicy::never()), some];
    (policy, any::<bool>(), prop::option::of(any::<u64>())).prop_map(|(policy, hedge, replay_bytes)| RetryPolicy {
        hedge,
        replay_bytes,
        ..policy
    })
}

/// Of each limit nothing, none, or some time.
fn limits() -> impl Strategy<Value = TimeLimits> {
    let limit = || {
        prop_oneof![
            Just(None),
            Just(Some(Duration::ZERO)),
            (1u64..1000).prop_map(|seconds| Some(Duration::from_secs(seconds))),
        ]
    };
    let offset = millis(1000);
    (limit(), limit(), offset, limit()).prop_map(|(max_stream, grpc_max, grpc_offset, idle)| TimeLimits {
        max_stream,
        grpc_max,
        grpc_offset,
        idle,
        ..TimeLimits::default()
    })
}

/// What a template caught stands in other paths, where a route matches by one.
fn by_template(matches: &RouteMatch, action: &mut Action, rewrites: bool) {
    let PathMatch::Template(shape) = &matches.path else {
        return;
    };
    let template = PathRewrite::Template(TemplateRewrite::parse("/x/{a}.y", shape).unwrap());
    if let (Action::Forward(forward), true) = (action, rewrites) {
        forward.rewrite.get_or_insert_default().path = Some(template);
    }
}

pub(crate) fn trees() -> impl Strategy<Value = RouteTree> {
    let timeout = prop_oneof![
        Just(None),
        (1..u64::from(u32::MAX)).prop_map(|nanos| Some(Duration::from_nanos(nanos))),
        (1u64..1000).prop_map(|seconds| Some(Duration::from_secs(seconds))),
    ];
    let priority = prop::sample::select(vec![RoutingPriority::Default, RoutingPriority::High]);
    let policies = (timeout, limits(), retries(), header_rules(), overrides(), priority);
    let route = ("[a-z]{0,5}", route_matches(), actions(), policies).prop_map(
        |(name, matches, mut action, (timeout, limits, retry, headers, filter_overrides, priority))| {
            by_template(&matches, &mut action, name.len() % 2 == 0);
            let mut route = Route {
                name: name.into(),
                matches,
                headers,
                filter_overrides,
                ..Route::doing(action)
            };
            if route.forward().is_some() {
                (route.timeout, route.limits, route.retry) = (timeout, limits, retry);
                // As long as the timeout it is the timeout, which is said the same way.
                route.limits.max_stream = limits.max_stream.filter(|max| Some(*max) != timeout);
                route.priority = priority;
            }
            route
        },
    );
    let domain = prop_oneof!["[a-z.]{1,9}", r"\*[a-z.]{1,9}", r"[a-z.]{1,9}\*", Just("*".to_owned())];
    let domain = domain.prop_map(|text| Domain::parse(&text).unwrap());
    let lists = (prop::collection::vec(domain, 1..3), prop::collection::vec(route, 0..4));
    let host = ("[a-z]{1,5}", lists, any::<bool>(), header_rules(), overrides());
    let host = host.prop_map(|(name, (domains, mut routes), announce, headers, filter_overrides)| {
        for route in routes.iter_mut().filter(|route| route.forward().is_some()) {
            // Said of a virtual host as a whole.
            route.retry.announce_attempts = announce;
        }
        VirtualHost {
            headers,
            filter_overrides,
            ..VirtualHost::new(name, domains, routes.into_iter().map(Arc::new).collect())
        }
    });
    let hosts = prop::collection::vec(host, 0..3);
    let flags = (any::<bool>(), any::<bool>());
    ("[a-z]{1,9}", hosts, flags, header_rules(), overrides()).prop_map(
        |(name, virtual_hosts, (ignore_port, closest_rules_last), headers, filter_overrides)| RouteTree {
            ignore_port,
            closest_rules_last,
            headers,
            filter_overrides,
            ..RouteTree::new(name, virtual_hosts)
        },
    )
}
