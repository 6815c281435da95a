//! What routes do besides forwarding, and what is done to their calls: redirects, answers, rewrites, mirrors, header rules, faults.

use mesh_core::config::RouteTree;

use super::routes::{action, regex, route, weighted};
use super::*;
use crate::proto::core::{DataSource, HeaderValue, HeaderValueOption, TypedExtensionConfig, data_source};
use crate::proto::fault::{FaultAbort, HttpFault, fault_abort::ErrorType};
use crate::proto::fault_common::{FaultDelay, fault_delay::FaultDelaySecifier};
use crate::proto::matcher::RegexMatchAndSubstitute;
use crate::proto::pack;
use crate::proto::protobuf::{Any, UInt32Value};
use crate::proto::route::{
    DirectResponseAction, FilterConfig, HeaderMatcher, RedirectAction, RouteConfiguration as Proto,
    redirect_action::PathRewriteSpecifier,
    route::Action,
    route_action::{
        HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy,
        hash_policy::{Cookie, Header, PolicySpecifier, QueryParameter},
    },
};
use crate::proto::stateful_session::cookie::CookieBasedSessionState;
use crate::proto::stateful_session::header::HeaderBasedSessionState;
use crate::proto::stateful_session::stateful_session_per_route::Override;
use crate::proto::stateful_session::{StatefulSession, StatefulSessionPerRoute};

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

fn hash(proto: &mut Proto, policy_specifier: PolicySpecifier) {
    action(proto).hash_policy.push(HashPolicy {
        policy_specifier: Some(policy_specifier),
        terminal: false,
    });
}

fn mirror(proto: &mut Proto, mirror: RequestMirrorPolicy) {
    action(proto).request_mirror_policies.push(mirror);
}

fn fault(proto: &mut Proto, fault: &HttpFault) {
    route(proto).typed_per_filter_config.insert("f".into(), pack(fault));
}

fn abort(proto: &mut Proto, error_type: Option<ErrorType>) {
    let abort = FaultAbort {
        error_type,
        ..Default::default()
    };
    fault(
        proto,
        &HttpFault {
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
        &HttpFault {
            delay: Some(delay),
            ..Default::default()
        },
    );
}

fn per_route(proto: &mut Proto, said: &StatefulSessionPerRoute) {
    route(proto).typed_per_filter_config.insert("f".into(), pack(said));
}

fn session(proto: &mut Proto, typed_config: Option<Any>) {
    let session_state = TypedExtensionConfig {
        name: "state".into(),
        typed_config,
    };
    let session = StatefulSession {
        session_state: Some(session_state),
        ..Default::default()
    };
    let r#override = Some(Override::StatefulSession(session));
    per_route(proto, &StatefulSessionPerRoute { r#override });
}

/// What a route does besides forwarding, and what is done to its calls.
#[test]
#[allow(deprecated, reason = "older control planes write the deprecated forms")]
fn cp_6_actions_edits_and_faults() {
    const R: &str = "virtual_hosts[0].routes[0]";
    let at = |rest: &'static str| -> &'static str { Box::leak(format!("{R}.{rest}").into_boxed_str()) };
    let mutators: [Mutator<Proto>; 52] = [
        (at("route.hash_policy[0].header.header_name"), |p| {
            hash(
                p,
                PolicySpecifier::Header(Header {
                    header_name: "x y".into(),
                    ..Default::default()
                }),
            )
        }),
        (at("route.hash_policy[0].cookie.name"), |p| {
            hash(p, PolicySpecifier::Cookie(Cookie::default()))
        }),
        (at("route.hash_policy[0].query_parameter.name"), |p| {
            hash(p, PolicySpecifier::QueryParameter(QueryParameter::default()))
        }),
        (at("route.hash_policy"), |p| {
            action(p).hash_policy = vec![HashPolicy::default(); 17]
        }),
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
        (at("typed_per_filter_config[\"f\"].override"), |p| {
            per_route(p, &StatefulSessionPerRoute::default())
        }),
        (at("typed_per_filter_config[\"f\"].disabled"), |p| {
            let r#override = Some(Override::Disabled(false));
            per_route(p, &StatefulSessionPerRoute { r#override });
        }),
        (
            at("typed_per_filter_config[\"f\"].stateful_session.session_state.typed_config"),
            |p| session(p, None),
        ),
        (
            at("typed_per_filter_config[\"f\"].stateful_session.session_state.typed_config"),
            |p| session(p, Some(pack(&DirectResponseAction::default()))),
        ),
        (
            at("typed_per_filter_config[\"f\"].stateful_session.session_state.typed_config.cookie"),
            |p| session(p, Some(pack(&CookieBasedSessionState::default()))),
        ),
        (
            at("typed_per_filter_config[\"f\"].stateful_session.session_state.typed_config.cookie.name"),
            |p| {
                let cookie = Some(Default::default());
                session(p, Some(pack(&CookieBasedSessionState { cookie })));
            },
        ),
        (
            at("typed_per_filter_config[\"f\"].stateful_session.session_state.typed_config.name"),
            |p| session(p, Some(pack(&HeaderBasedSessionState { name: "a b".into() }))),
        ),
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
                &HttpFault {
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
