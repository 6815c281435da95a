//! Who may call what: RBAC filters of requests and of connections, and what routes say in their place.
//!
//! What never matches is written as what never does, also where a proto would have an empty list for it, which others refuse.
//!
//! Policies are a map, and a map of the generated types is written in another order each time: whoever compares bytes would see a
//! change in each. So what holds one is written by messages of its own, which are the same on the wire.

use std::collections::HashMap;

use mesh_core::config::{
    CheckReplaced, FilterRules, HostRules, IpPrefix, Permission, PermissionTest, Principal, PrincipalTest, Rbac,
    RbacAction, RbacFilter, RbacPolicy, Replaced, Rule, StringMatch,
};

use prost::{Message, Name};

use super::common::uint;
use super::matcher::{header_match, route_match, string_match};
use super::{ext_authz, token};
use crate::proto::core::CidrRange;
use crate::proto::hcm::{HttpFilter, http_filter::ConfigType};
use crate::proto::listener::{Filter, filter};
use crate::proto::matcher::{PathMatcher, path_matcher};
use crate::proto::percent::Int32Range;
use crate::proto::protobuf::Any;
use crate::proto::rbac::{
    Permission as PermissionProto, Policy, Principal as PrincipalProto, permission, permission::Rule as PermissionRule,
    principal, principal::Identifier, rbac::Action,
};
use crate::proto::route::{Route, RouteMatch, VirtualHost, route, route_match::PathSpecifier};
use crate::proto::{rbac_http, rbac_network};

/// `config.rbac.v3.RBAC`, in order.
#[derive(Clone, PartialEq, Message)]
struct Rules {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(message, repeated, tag = "2")]
    policies: Vec<Entry>,
}

/// A pair of a map, as maps are on the wire.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Policy>,
}

/// Either filter, as far as both say the same; the third is of that of connections.
#[derive(Clone, PartialEq, Message)]
struct Guard {
    #[prost(message, optional, tag = "1")]
    rules: Option<Rules>,
    #[prost(message, optional, tag = "2")]
    shadow_rules: Option<Rules>,
    #[prost(string, tag = "3")]
    stat_prefix: String,
}

/// `RBACPerRoute`.
#[derive(Clone, PartialEq, Message)]
struct PerRoute {
    #[prost(message, optional, tag = "2")]
    rbac: Option<Guard>,
}

fn any<T: Name>(message: &impl Message) -> Any {
    Any {
        type_url: T::type_url(),
        value: message.encode_to_vec(),
    }
}

/// A filter of requests.
pub(super) fn request(guard: &RbacFilter) -> HttpFilter {
    HttpFilter {
        name: guard.name.clone().into(),
        config_type: Some(ConfigType::TypedConfig(any::<rbac_http::Rbac>(&both(&guard.rules)))),
        ..HttpFilter::default()
    }
}

/// A filter that enforces nothing and tells others what it matched, behind `prefix`.
pub(super) fn dry_run(name: &str, rules: &Rbac, prefix: String) -> HttpFilter {
    let guard = Guard {
        shadow_rules: Some(self::rules(rules)),
        // Of a filter of requests the third is this (`shadow_rules_stat_prefix`).
        stat_prefix: prefix,
        ..Guard::default()
    };
    HttpFilter {
        name: name.into(),
        config_type: Some(ConfigType::TypedConfig(any::<rbac_http::Rbac>(&guard))),
        ..HttpFilter::default()
    }
}

/// A filter of connections.
pub(super) fn connection(guard: &RbacFilter) -> Filter {
    let rbac = Guard {
        // Envoy demands one.
        stat_prefix: "rbac".into(),
        ..both(&guard.rules)
    };
    Filter {
        name: guard.name.clone().into(),
        config_type: Some(filter::ConfigType::TypedConfig(any::<rbac_network::Rbac>(&rbac))),
    }
}

/// Virtual hosts whose routes say what takes the place of filters, and do `action`. Whatever is said of nothing is done all the
/// same: each host ends with a route for the rest, and the rest has a host.
pub(super) fn virtual_hosts(hosts: &[HostRules], action: &route::Action) -> Vec<VirtualHost> {
    let everything = || Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..RouteMatch::default()
        }),
        action: Some(action.clone()),
        ..Route::default()
    };
    let host = |(index, host): (usize, &HostRules)| {
        let routes = host.routes.iter().map(|rules| Route {
            r#match: Some(route_match(&rules.matches)),
            action: Some(action.clone()),
            typed_per_filter_config: per_filter(&rules.replaced, &rules.checks),
            ..Route::default()
        });
        VirtualHost {
            name: format!("inbound-{index}"),
            domains: host.domains.iter().map(ToString::to_string).collect(),
            routes: routes.chain([everything()]).collect(),
            typed_per_filter_config: per_filter(&host.replaced, &host.checks),
            ..VirtualHost::default()
        }
    };
    let mut written: Vec<VirtualHost> = hosts.iter().enumerate().map(host).collect();
    if !written
        .iter()
        .any(|host| host.domains.iter().any(|domain| domain == "*"))
    {
        written.push(VirtualHost {
            name: "inbound".into(),
            domains: vec!["*".into()],
            routes: vec![everything()],
            ..VirtualHost::default()
        });
    }
    written
}

fn per_filter(all: &[Replaced], checks: &[CheckReplaced]) -> HashMap<String, Any> {
    let one = |replaced: &Replaced| {
        let rbac = (replaced.with != FilterRules::default()).then(|| both(&replaced.with));
        let config = any::<rbac_http::RbacPerRoute>(&PerRoute { rbac });
        (String::from(&*replaced.filter), config)
    };
    all.iter().map(one).chain(ext_authz::per_filter(checks)).collect()
}

fn both(rules: &FilterRules) -> Guard {
    Guard {
        rules: rules.enforced.as_ref().map(self::rules),
        shadow_rules: rules.shadow.as_ref().map(self::rules),
        stat_prefix: String::new(),
    }
}

fn rules(rules: &Rbac) -> Rules {
    let action = match rules.action {
        RbacAction::Allow => Action::Allow,
        RbacAction::Deny => Action::Deny,
        RbacAction::Log => Action::Log,
    };
    let policy = |policy: &RbacPolicy| Entry {
        key: policy.name.clone().into(),
        value: Some(self::policy(policy)),
    };
    Rules {
        action: action as i32,
        policies: rules.policies.iter().map(policy).collect(),
    }
}

fn policy(policy: &RbacPolicy) -> Policy {
    let (never, nobody) = (Rule::Any(Vec::new()), Rule::Any(Vec::new()));
    let permissions = match &*policy.permissions {
        [] => vec![permission(&never)],
        all => all.iter().map(permission).collect(),
    };
    let principals = match &*policy.principals {
        [] => vec![principal(&nobody)],
        all => all.iter().map(principal).collect(),
    };
    Policy {
        permissions,
        principals,
        ..Policy::default()
    }
}

fn permission(rule: &Permission) -> PermissionProto {
    let set = |rules: &[Permission]| permission::Set {
        rules: rules.iter().map(permission).collect(),
    };
    let written = match rule {
        Rule::Always => PermissionRule::Any(true),
        Rule::All(rules) if rules.is_empty() => PermissionRule::Any(true),
        Rule::Any(rules) if rules.is_empty() => PermissionRule::NotRule(Box::new(permission(&Rule::Always))),
        Rule::All(rules) => PermissionRule::AndRules(set(rules)),
        Rule::Any(rules) => PermissionRule::OrRules(set(rules)),
        Rule::Not(rule) => PermissionRule::NotRule(Box::new(permission(rule))),
        Rule::Is(PermissionTest::Header(header)) => PermissionRule::Header(header_match(header)),
        Rule::Is(PermissionTest::Path(test)) => PermissionRule::UrlPath(path(test)),
        Rule::Is(PermissionTest::DestinationIp(range)) => PermissionRule::DestinationIp(cidr(range)),
        Rule::Is(PermissionTest::DestinationPorts(start, end)) if *end == start + 1 && *start <= 65_535 => {
            PermissionRule::DestinationPort(*start)
        }
        Rule::Is(PermissionTest::DestinationPorts(start, end)) => {
            let bound = |port: u32| i32::try_from(port).unwrap_or(i32::MAX);
            PermissionRule::DestinationPortRange(Int32Range {
                start: bound(*start),
                end: bound(*end),
            })
        }
        Rule::Is(PermissionTest::ServerName(test)) => PermissionRule::RequestedServerName(string_match(test)),
    };
    PermissionProto { rule: Some(written) }
}

#[allow(
    deprecated,
    reason = "Istio writes the deprecated metadata, and reads no other of old"
)]
fn principal(rule: &Principal) -> PrincipalProto {
    let set = |rules: &[Principal]| principal::Set {
        ids: rules.iter().map(principal).collect(),
    };
    let written = match rule {
        Rule::Always => Identifier::Any(true),
        Rule::All(rules) if rules.is_empty() => Identifier::Any(true),
        Rule::Any(rules) if rules.is_empty() => Identifier::NotId(Box::new(principal(&Rule::Always))),
        Rule::All(rules) => Identifier::AndIds(set(rules)),
        Rule::Any(rules) => Identifier::OrIds(set(rules)),
        Rule::Not(rule) => Identifier::NotId(Box::new(principal(rule))),
        Rule::Is(PrincipalTest::Peer(test)) => Identifier::Authenticated(principal::Authenticated {
            principal_name: test.as_ref().map(string_match),
        }),
        Rule::Is(PrincipalTest::Source(range)) => Identifier::DirectRemoteIp(cidr(range)),
        Rule::Is(PrincipalTest::Header(header)) => Identifier::Header(header_match(header)),
        Rule::Is(PrincipalTest::Path(test)) => Identifier::UrlPath(path(test)),
        Rule::Is(PrincipalTest::Token(test)) => Identifier::Metadata(token::metadata(test)),
    };
    PrincipalProto {
        identifier: Some(written),
    }
}

fn path(test: &StringMatch) -> PathMatcher {
    PathMatcher {
        rule: Some(path_matcher::Rule::Path(string_match(test))),
    }
}

fn cidr(range: &IpPrefix) -> CidrRange {
    CidrRange {
        address_prefix: range.address().to_string(),
        prefix_len: uint(range.bits().into()),
    }
}
