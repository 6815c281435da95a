//! Listeners of servers written around a filter, and routes, as bytes: for fuzzing alone.

use prost::{Message as _, Name as _};

use crate::proto::core::{self, Address, SocketAddress, TrafficDirection};
use crate::proto::hcm::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
};
use crate::proto::listener::{Filter, FilterChain, Listener as Proto, filter};
use crate::proto::protobuf::Any;
use crate::proto::rbac::{Permission, Policy, Principal, Rbac, permission::Rule, principal::Identifier, rbac::Action};
use crate::proto::route::{
    NonForwardingAction, Route, RouteConfiguration, RouteMatch, VirtualHost, route, route_match::PathSpecifier,
};
use crate::proto::{ext_authz, fault, global_limit, jwt_authn, local_limit, pack, rbac_http, rbac_network, router};

/// The name that routes know a guard by.
const GUARD: &str = "g";

/// A listener with a filter of requests: the kind is a number that counts round them, and its configuration is these bytes.
pub(crate) fn with_request_filter(kind: u8, config: &[u8]) -> Vec<u8> {
    let kinds = [
        rbac_http::Rbac::type_url(),
        ext_authz::ExtAuthz::type_url(),
        jwt_authn::JwtAuthentication::type_url(),
        local_limit::LocalRateLimit::type_url(),
        global_limit::RateLimit::type_url(),
        fault::HttpFault::type_url(),
    ];
    let config = Any {
        type_url: kinds[usize::from(kind) % kinds.len()].clone(),
        value: config.to_vec(),
    };
    of(Vec::new(), Some(config), inline(routes())).encode_to_vec()
}

/// A listener with a filter of connections.
pub(crate) fn with_connection_filter(config: &[u8]) -> Vec<u8> {
    let config = Any {
        type_url: rbac_network::Rbac::type_url(),
        value: config.to_vec(),
    };
    let guard = Filter {
        name: GUARD.into(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    };
    of(vec![guard], None, inline(routes())).encode_to_vec()
}

/// A listener with a guard, whose routes are a resource of their own.
pub(crate) fn with_routes_elsewhere() -> Vec<u8> {
    let rds = RouteSpecifier::Rds(Rds {
        config_source: Some(core::ConfigSource {
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
            ..Default::default()
        }),
        route_config_name: "r".into(),
    });
    of(Vec::new(), Some(pack(&deny())), rds).encode_to_vec()
}

/// What a guard says, of requests and of connections; routes that say something of it, and none.
pub(crate) fn examples() -> [Vec<u8>; 4] {
    let network = rbac_network::Rbac {
        rules: Some(rules(Action::Allow)),
        ..rbac_network::Rbac::default()
    };
    let nobody = RouteConfiguration {
        virtual_hosts: Vec::new(),
        ..routes()
    };
    [
        deny().encode_to_vec(),
        network.encode_to_vec(),
        routes().encode_to_vec(),
        nobody.encode_to_vec(),
    ]
}

/// A server's listener of one chain.
fn of(before: Vec<Filter>, filter: Option<Any>, routes: RouteSpecifier) -> Proto {
    let one = |name: &str, config: Any| HttpFilter {
        name: name.into(),
        config_type: Some(ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "s".into(),
        http_filters: (filter.map(|config| one(GUARD, config)).into_iter())
            .chain([one("router", pack(&router::Router::default()))])
            .collect(),
        route_specifier: Some(routes),
        ..HttpConnectionManager::default()
    };
    let last = Filter {
        name: "http".into(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
    };
    let socket = SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
        ..SocketAddress::default()
    };
    Proto {
        name: "s".into(),
        address: Some(Address {
            address: Some(core::address::Address::SocketAddress(socket)),
        }),
        filter_chains: vec![FilterChain {
            filters: before.into_iter().chain([last]).collect(),
            ..FilterChain::default()
        }],
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Proto::default()
    }
}

fn inline(routes: RouteConfiguration) -> RouteSpecifier {
    RouteSpecifier::RouteConfig(routes)
}

fn deny() -> rbac_http::Rbac {
    rbac_http::Rbac {
        rules: Some(rules(Action::Deny)),
        ..rbac_http::Rbac::default()
    }
}

fn rules(action: Action) -> Rbac {
    let policy = Policy {
        permissions: vec![Permission {
            rule: Some(Rule::Any(true)),
        }],
        principals: vec![Principal {
            identifier: Some(Identifier::Any(true)),
        }],
        ..Policy::default()
    };
    Rbac {
        action: action as i32,
        policies: [("p".to_owned(), policy)].into(),
        ..Rbac::default()
    }
}

/// Everything is served, and `/open` by whomever.
fn routes() -> RouteConfiguration {
    let route = |prefix: &str| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.into())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::NonForwardingAction(NonForwardingAction {})),
        ..Route::default()
    };
    let mut open = route("/open");
    let instead = rbac_http::RbacPerRoute {
        rbac: Some(rbac_http::Rbac {
            rules: Some(rules(Action::Allow)),
            ..rbac_http::Rbac::default()
        }),
    };
    open.typed_per_filter_config.insert(GUARD.into(), pack(&instead));
    RouteConfiguration {
        name: "r".into(),
        virtual_hosts: vec![VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: vec![open, route("/")],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}
