//! A server's listener whose routes are a resource of their own, and such routes, for the tests of the client.

use mesh_core::config::{FilterChain, Inbound, InboundSecurity, Traffic};

use super::*;
use crate::encode;
use crate::proto::hcm::http_filter::ConfigType;
use crate::proto::hcm::{HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier};
use crate::proto::listener::{Listener, filter};
use crate::proto::rbac::{Permission, Policy, Principal, Rbac, permission, principal, rbac::Action};
use crate::proto::route::{Route as RouteProto, RouteConfiguration, VirtualHost, route, route_match::PathSpecifier};
use crate::proto::{core, pack, percent, rbac_http};

/// The server's address, and what its listener is called by the template `server/%s`.
pub(crate) const SERVED: &str = "10.0.0.1:8080";
pub(crate) const LISTENER: &str = "server/10.0.0.1:8080";
const GUARD: &str = "envoy.filters.http.rbac";

/// What is wrong with routes.
#[derive(Clone, Copy)]
pub(crate) enum Bad {
    /// What one puts in the place of the guard.
    Override,
    /// What one takes.
    Match,
    /// Nothing, but one takes a part of its requests, which no server can keep beside a guard.
    Share,
}

pub(crate) fn routes_of(name: &str) -> Raw {
    raw(&configuration(name))
}

pub(crate) fn routes_that_are(bad: Bad, name: &str) -> Raw {
    let mut routes = configuration(name);
    let all = &mut routes.virtual_hosts[0].routes;
    match bad {
        Bad::Override => {
            let mut unheard = rules(Action::Allow);
            unheard.rules.as_mut().unwrap().action = 9;
            let instead = rbac_http::RbacPerRoute { rbac: Some(unheard) };
            all[0].typed_per_filter_config.insert(GUARD.into(), pack(&instead));
        }
        Bad::Match => all[1].r#match = None,
        Bad::Share => {
            let half = percent::FractionalPercent {
                numerator: 50,
                denominator: 0,
            };
            all[3].r#match.as_mut().unwrap().runtime_fraction = Some(core::RuntimeFractionalPercent {
                default_value: Some(half),
                ..Default::default()
            });
        }
    }
    raw(&routes)
}

/// Denies or allows everybody.
pub(crate) fn rules(action: Action) -> rbac_http::Rbac {
    let permission = permission::Rule::Any(true);
    let principal = principal::Identifier::Any(true);
    let policy = Policy {
        permissions: vec![Permission { rule: Some(permission) }],
        principals: vec![Principal {
            identifier: Some(principal),
        }],
        ..Policy::default()
    };
    rbac_http::Rbac {
        rules: Some(Rbac {
            action: action as i32,
            policies: [("p".to_owned(), policy)].into(),
            ..Rbac::default()
        }),
        ..rbac_http::Rbac::default()
    }
}

/// A listener of one chain that denies everything itself, with its routes in `routes`.
pub(crate) fn listener_of(routes: &str) -> Raw {
    let chain = FilterChain {
        name: "c".into(),
        matches: Default::default(),
        security: InboundSecurity::Plaintext,
        identity: mesh_core::config::ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: Arc::default(),
        limits: Arc::default(),
        telemetry: Default::default(),
    };
    let inbound = Inbound {
        name: LISTENER.into(),
        address: SERVED.parse().unwrap(),
        chains: vec![chain],
        default: None,
    };
    let mut proto = Listener::decode(&*encode::inbound(&inbound, Profile::Grpc)).unwrap();
    let Some(filter::ConfigType::TypedConfig(any)) = &mut proto.filter_chains[0].filters[0].config_type else {
        panic!("the filter has a configuration")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    let guard = HttpFilter {
        name: GUARD.into(),
        config_type: Some(ConfigType::TypedConfig(pack(&rules(Action::Deny)))),
        ..HttpFilter::default()
    };
    manager.http_filters.insert(0, guard);
    manager.route_specifier = Some(RouteSpecifier::Rds(Rds {
        config_source: Some(core::ConfigSource {
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
            ..Default::default()
        }),
        route_config_name: routes.into(),
    }));
    *any = pack(&manager);
    raw(&proto)
}

/// Routes of one host: `/open` is allowed to everybody, `/away` is answered by a redirect, `/on` is forwarded, and the rest is served as
/// the listener says; what no path begins so is taken by none.
fn configuration(name: &str) -> RouteConfiguration {
    let route = |prefix: &str, action: route::Action| RouteProto {
        r#match: Some(crate::proto::route::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.into())),
            ..Default::default()
        }),
        action: Some(action),
        ..RouteProto::default()
    };
    let own = || route::Action::NonForwardingAction(Default::default());
    let mut open = route("/open", own());
    let instead = rbac_http::RbacPerRoute {
        rbac: Some(rules(Action::Allow)),
    };
    open.typed_per_filter_config.insert(GUARD.into(), pack(&instead));
    let forward = route::Action::Route(crate::proto::route::RouteAction {
        cluster_specifier: Some(crate::proto::route::route_action::ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    });
    RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: vec![
                open,
                route("/away", route::Action::Redirect(Default::default())),
                route("/on", forward),
                route("/own", own()),
            ],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}
