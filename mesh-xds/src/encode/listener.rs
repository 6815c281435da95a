//! An API listener with the filters that its routes are for, the router the last, and the routes by name (gRFC A27).

use mesh_core::config::CallFilter;

use super::common::ads;
use super::{Calls, filter, telemetry};
use crate::proto::hcm::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
};
use crate::proto::listener::{ApiListener, Listener};
use crate::proto::pack;
use crate::proto::router::Router;

/// The name Envoy's documents give the router filter.
const ROUTER: &str = "envoy.filters.http.router";

pub(super) fn listener(target: &str, routes: &str, calls: &Calls<'_>) -> Listener {
    let manager = HttpConnectionManager {
        http_filters: filters(calls.filters),
        access_log: calls.telemetry.map(telemetry::access_logs).unwrap_or_default(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: ads(),
            route_config_name: routes.into(),
        })),
        ..HttpConnectionManager::default()
    };
    Listener {
        name: target.into(),
        api_listener: Some(ApiListener {
            api_listener: Some(pack(&manager)),
        }),
        ..Listener::default()
    }
}

/// The filters that do something to calls, and the router, which every chain ends with.
pub(super) fn filters(calls: &[CallFilter]) -> Vec<HttpFilter> {
    calls.iter().map(filter::filter).chain([router()]).collect()
}

fn router() -> HttpFilter {
    HttpFilter {
        name: ROUTER.into(),
        config_type: Some(ConfigType::TypedConfig(pack(&Router::default()))),
        ..HttpFilter::default()
    }
}
