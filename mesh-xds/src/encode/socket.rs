//! Envoy's listener: a socket per service port, and behind it the routes of every service that has this port.
//!
//! An Envoy that subscribes to all listeners must not be given an API listener, and a gRPC client refuses one that has an
//! address only, so the two never share a resource. The application dials `127.0.0.1:PORT` and names the service in
//! `:authority` or `Host`. Nothing is intercepted: traffic that was not sent to the port is not seen (Istio does that with
//! `original_dst` and the kernel's help).

use std::net::IpAddr;

use super::common::{address, ads};
use super::listener::filters;
use super::{Calls, telemetry};
use crate::proto::core::TrafficDirection;
use crate::proto::hcm::{HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier};
use crate::proto::listener::{Filter, FilterChain, Listener, filter::ConfigType};
use crate::proto::pack;

/// The name Envoy's documents give the filter.
const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

pub(super) fn name(port: u16) -> String {
    format!("egress_{port}")
}

/// The network filter that speaks HTTP.
pub(super) fn connection_manager(manager: &HttpConnectionManager) -> Filter {
    Filter {
        name: CONNECTION_MANAGER.into(),
        config_type: Some(ConfigType::TypedConfig(pack(manager))),
    }
}

pub(super) fn listener(ip: IpAddr, port: u16, calls: &Calls<'_>) -> Listener {
    // Both HTTP/1.1 and HTTP/2 are taken: the codec is AUTO, which is the default.
    let manager = HttpConnectionManager {
        stat_prefix: name(port),
        http_filters: filters(calls.filters),
        access_log: calls.telemetry.map(telemetry::access_logs).unwrap_or_default(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: ads(),
            route_config_name: port.to_string(),
        })),
        ..HttpConnectionManager::default()
    };
    Listener {
        name: name(port),
        address: Some(address((ip, port).into())),
        filter_chains: vec![FilterChain {
            filters: vec![connection_manager(&manager)],
            ..FilterChain::default()
        }],
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    }
}
