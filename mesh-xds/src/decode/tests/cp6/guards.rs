//! AZ-9: a policy that is wrong, or asks for what cannot be looked at here, is refused with its listener, and the last good one stays
//! (gRFC A41's rules; nothing is skipped, whatever a policy does with what it matches).

use super::*;
use crate::proto::hcm::{HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter};
use crate::proto::listener::{Listener as Proto, filter};
use crate::proto::rbac::{
    Permission, Policy, Principal, Rbac, SourcedMetadata, permission, permission::Rule, principal,
    principal::Identifier, rbac::Action, rbac::AuditLoggingOptions, rbac::audit_logging_options::AuditLoggerConfig,
};
use crate::proto::route::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use crate::proto::{core, matcher, pack, percent, rbac_http, rbac_network, route};
use crate::resource::Listener;

const NAME: &str = "envoy.filters.http.rbac";

fn manager(proto: &mut Proto, change: impl FnOnce(&mut HttpConnectionManager)) {
    let Some(filter::ConfigType::TypedConfig(any)) = &mut proto.filter_chains[0].filters[0].config_type else {
        panic!("the filter has a configuration")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    change(&mut manager);
    *any = pack(&manager);
}

fn filter_of(rbac: &rbac_http::Rbac) -> HttpFilter {
    HttpFilter {
        name: NAME.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(rbac))),
        ..Default::default()
    }
}

fn policy() -> Policy {
    Policy {
        permissions: vec![Permission {
            rule: Some(Rule::Any(true)),
        }],
        principals: vec![Principal {
            identifier: Some(Identifier::Any(true)),
        }],
        ..Default::default()
    }
}

fn good() -> rbac_http::Rbac {
    rbac_http::Rbac {
        rules: Some(Rbac {
            action: Action::Deny as i32,
            policies: [("p".to_owned(), policy())].into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn rbac(proto: &mut Proto, change: impl FnOnce(&mut rbac_http::Rbac)) {
    manager(proto, |manager| {
        let mut rbac = good();
        change(&mut rbac);
        manager.http_filters[0] = filter_of(&rbac);
    });
}

fn rules(proto: &mut Proto, change: impl FnOnce(&mut Rbac)) {
    rbac(proto, |rbac| change(rbac.rules.as_mut().unwrap()));
}

fn policy_of(proto: &mut Proto, change: impl FnOnce(&mut Policy)) {
    rules(proto, |rules| change(rules.policies.get_mut("p").unwrap()));
}

fn permits(proto: &mut Proto, rule: Rule) {
    policy_of(proto, |policy| policy.permissions[0].rule = Some(rule));
}

fn names(proto: &mut Proto, identifier: Identifier) {
    policy_of(proto, |policy| policy.principals[0].identifier = Some(identifier));
}

fn header(name: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    }
}

fn regex(source: &str) -> matcher::StringMatcher {
    let regex = matcher::RegexMatcher {
        regex: source.into(),
        ..Default::default()
    };
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex)),
        ..Default::default()
    }
}

/// Changes the bytes of the filter.
fn spoil(proto: &mut Proto, change: impl FnOnce(&mut Vec<u8>)) {
    manager(proto, |manager| {
        let mut filter = filter_of(&good());
        let Some(http_filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else {
            panic!("the filter has a configuration")
        };
        change(&mut any.value);
        manager.http_filters[0] = filter;
    });
}

/// Adds a message that has an unknown field only, as the field of this tag.
fn within(bytes: &mut Vec<u8>, tag: u8) {
    let mut inner = Vec::new();
    with_unknown_field(&mut inner);
    bytes.extend([tag, inner.len() as u8]);
    bytes.extend(inner);
}

fn on_route(proto: &mut Proto, config: crate::proto::protobuf::Any) {
    manager(proto, |manager| {
        let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
            panic!("routes are inline")
        };
        let route = &mut routes.virtual_hosts[0].routes[0];
        route.typed_per_filter_config.insert(NAME.into(), config);
    });
}

fn deep(depth: usize) -> Permission {
    (0..depth).fold(policy().permissions.remove(0), |rule, _| Permission {
        rule: Some(Rule::NotRule(Box::new(rule))),
    })
}

#[test]
fn az_9_a_policy_that_is_not_understood_is_refused_and_the_last_good_one_stays() {
    const AT: &str = "filter_chains[0].filters[0].typed_config";
    let at = |rest: &str| -> &'static str {
        // Leaked: a few dozen names, once per test run, so that the table is a plain list.
        Box::leak(format!("{AT}.http_filters[0].typed_config{rest}").into_boxed_str())
    };
    let permission = |rest: &str| at(&format!(".rules.policies[\"p\"].permissions[0]{rest}"));
    let principal = |rest: &str| at(&format!(".rules.policies[\"p\"].principals[0]{rest}"));
    let mutators: [Mutator<Proto>; 39] = [
        (at(""), |p| spoil(p, with_unknown_field)),
        // Of one in `rules`: what stands there twice is one message.
        (at(""), |p| spoil(p, |bytes| within(bytes, 0x0a))),
        // And of one in `shadow_rules`, which is not enforced and might be understood wrongly all the same.
        (at(""), |p| spoil(p, |bytes| within(bytes, 0x12))),
        (at(".matcher"), |p| {
            rbac(p, |rbac| rbac.matcher = Some(Default::default()))
        }),
        (at(".shadow_matcher"), |p| {
            rbac(p, |rbac| rbac.shadow_matcher = Some(Default::default()))
        }),
        (at(".rules.action"), |p| rules(p, |rules| rules.action = 9)),
        (at(".shadow_rules.action"), |p| {
            rbac(p, |rbac| {
                rbac.shadow_rules = Some(Rbac {
                    action: 9,
                    ..Default::default()
                });
            });
        }),
        (at(".rules.audit_logging_options"), |p| {
            rules(p, |rules| {
                rules.audit_logging_options = Some(AuditLoggingOptions {
                    logger_configs: vec![AuditLoggerConfig::default()],
                    ..Default::default()
                });
            });
        }),
        (at(".rules.policies[\"p\"].condition"), |p| {
            policy_of(p, |policy| policy.condition = Some(Default::default()))
        }),
        (at(".rules.policies[\"p\"].checked_condition"), |p| {
            policy_of(p, |policy| policy.checked_condition = Some(Default::default()));
        }),
        (at(".rules.policies[\"p\"].permissions"), |p| {
            policy_of(p, |policy| policy.permissions.clear())
        }),
        (at(".rules.policies[\"p\"].principals"), |p| {
            policy_of(p, |policy| policy.principals.clear())
        }),
        (permission(".rule"), |p| {
            policy_of(p, |policy| policy.permissions[0].rule = None)
        }),
        (permission(".any"), |p| permits(p, Rule::Any(false))),
        (permission(".and_rules.rules"), |p| {
            permits(p, Rule::AndRules(permission::Set::default()))
        }),
        (permission(".or_rules.rules"), |p| {
            permits(p, Rule::OrRules(permission::Set::default()))
        }),
        (permission(".not_rule.rule"), |p| {
            permits(p, Rule::NotRule(Box::default()))
        }),
        (permission(".header.name"), |p| {
            permits(p, Rule::Header(header(":scheme")))
        }),
        (permission(".header.name"), |p| {
            permits(p, Rule::Header(header("grpc-timeout")))
        }),
        (permission(".header.name"), |p| {
            permits(p, Rule::Header(header(":protocol")))
        }),
        (permission(".header.name"), |p| {
            permits(p, Rule::Header(header("no header")))
        }),
        (permission(".url_path.path"), |p| {
            permits(p, Rule::UrlPath(Default::default()))
        }),
        (permission(".destination_ip.address_prefix"), |p| {
            permits(p, Rule::DestinationIp(Default::default()))
        }),
        (permission(".destination_port"), |p| {
            permits(p, Rule::DestinationPort(65_536))
        }),
        (permission(".destination_port_range.start"), |p| {
            permits(p, Rule::DestinationPortRange(percent::Int32Range { start: -1, end: 1 }));
        }),
        (permission(".requested_server_name.match_pattern"), |p| {
            permits(p, Rule::RequestedServerName(Default::default()));
        }),
        (permission(".requested_server_name.safe_regex"), |p| {
            permits(p, Rule::RequestedServerName(regex("(")))
        }),
        (permission(".matcher"), |p| {
            permits(p, Rule::Matcher(Default::default()))
        }),
        (permission(".uri_template"), |p| {
            permits(p, Rule::UriTemplate(Default::default()))
        }),
        (permission(".sourced_metadata.metadata_matcher"), |p| {
            permits(p, Rule::SourcedMetadata(SourcedMetadata::default()));
        }),
        (principal(".identifier"), |p| {
            policy_of(p, |policy| policy.principals[0].identifier = None)
        }),
        (principal(".any"), |p| names(p, Identifier::Any(false))),
        (principal(".and_ids.ids"), |p| {
            names(p, Identifier::AndIds(principal::Set::default()))
        }),
        (principal(".authenticated.principal_name.match_pattern"), |p| {
            names(
                p,
                Identifier::Authenticated(principal::Authenticated {
                    principal_name: Some(Default::default()),
                }),
            );
        }),
        (principal(".direct_remote_ip.prefix_len"), |p| {
            let range = core::CidrRange {
                address_prefix: "10.0.0.0".into(),
                prefix_len: Some(crate::proto::protobuf::UInt32Value { value: 33 }),
            };
            names(p, Identifier::DirectRemoteIp(range));
        }),
        (principal(".filter_state"), |p| {
            names(p, Identifier::FilterState(Default::default()))
        }),
        (principal(".custom"), |p| {
            names(p, Identifier::Custom(Default::default()))
        }),
        ("filter_chains[0].filters", |p| {
            policy_of(p, |policy| policy.permissions = vec![deep(40)])
        }),
        (
            "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.rbac\"].rbac.rules.action",
            |p| {
                let mut rbac = good();
                rbac.rules.as_mut().unwrap().action = 9;
                on_route(p, pack(&rbac_http::RbacPerRoute { rbac: Some(rbac) }));
            },
        ),
    ];
    let mut base = istiod::proxyless::inbound(true);
    manager(&mut base, |manager| manager.http_filters.insert(0, filter_of(&good())));
    table::<Listener>(context(), &base, &istiod::proxyless::inbound(false), &mutators);
}

#[test]
fn az_9_routes_beside_a_guard_are_told_apart() {
    let mutators: [Mutator<Proto>; 5] = [
        (
            "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.rbac\"]",
            |p| {
                let mut config = pack(&rbac_http::RbacPerRoute::default());
                with_unknown_field(&mut config.value);
                on_route(p, config);
            },
        ),
        ("filter_chains[0].filters[0].typed_config.rds.config_source", |p| {
            manager(p, |manager| {
                manager.route_specifier = Some(RouteSpecifier::Rds(Default::default()))
            });
        }),
        (
            "filter_chains[0].filters[0].typed_config.route_config.typed_per_filter_config",
            |p| {
                manager(p, |manager| {
                    let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
                        panic!("routes are inline")
                    };
                    let config = pack(&rbac_http::RbacPerRoute::default());
                    routes.typed_per_filter_config.insert(NAME.into(), config);
                });
            },
        ),
        (
            "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].match.runtime_fraction",
            |p| {
                on_route(p, pack(&rbac_http::RbacPerRoute::default()));
                manager(p, |manager| {
                    let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
                        panic!("routes are inline")
                    };
                    let part = core::RuntimeFractionalPercent {
                        default_value: Some(Default::default()),
                        ..Default::default()
                    };
                    let matches = routes.virtual_hosts[0].routes[0].r#match.as_mut().unwrap();
                    matches.runtime_fraction = Some(part);
                });
            },
        ),
        (
            "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.rbac\"]",
            |p| on_route(p, pack(&route::RouteConfiguration::default())),
        ),
    ];
    let mut base = istiod::proxyless::inbound(true);
    manager(&mut base, |manager| manager.http_filters.insert(0, filter_of(&good())));
    table::<Listener>(context(), &base, &istiod::proxyless::inbound(false), &mutators);
}

/// What guards connections is read in Envoy's profile, and is not known to gRPC's (gRFC A36).
#[test]
fn connections_are_guarded_in_envoys_profile() {
    let mut listener = istiod::proxyless::inbound(true);
    listener.traffic_direction = core::TrafficDirection::Inbound as i32;
    let mut guard = listener.filter_chains[0].filters[0].clone();
    let network = rbac_network::Rbac {
        rules: good().rules,
        ..Default::default()
    };
    guard.config_type = Some(filter::ConfigType::TypedConfig(pack(&network)));
    listener.filter_chains[0].filters.insert(0, guard);
    let read = |profile| {
        let context = Context { profile, ..context() };
        let mut notes = Notes::default();
        <Listener as Resource>::decode(&listener, &context, &mut notes)
    };
    let Ok(Listener::Inbound(inbound)) = read(Profile::Envoy) else {
        panic!("a server's listener")
    };
    let authorization = &inbound
        .chains
        .first()
        .or(inbound.default.as_ref())
        .unwrap()
        .authorization;
    assert_eq!(
        (authorization.connection().len(), authorization.request().len()),
        (1, 0)
    );
    assert!(read(Profile::Grpc).is_err());
}
